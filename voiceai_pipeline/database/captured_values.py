"""The query of the view ``captured_values``, which has content: a row for each value."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from voiceai_pipeline.database.tables import call_logs

_ENTRY: Final = (
    sa.func.jsonb_each(
        sa.case(
            (
                sa.func.jsonb_typeof(call_logs.c.extracted_data) == "object",
                call_logs.c.extracted_data,
            ),
            else_=sa.literal_column("'{}'::jsonb"),
        )
    )
    .table_valued(sa.column("key", sa.Text), sa.column("value", JSONB))
    .lateral("entry")
)
_VALUE: Final[Any] = sa.literal_column("entry.value #>> '{}'", sa.Text)

CAPTURED_VALUES: Final = (
    sa.select(
        call_logs.c.location_id,
        call_logs.c.call_id,
        call_logs.c.started_at,
        call_logs.c.agent_id,
        _ENTRY.c.key.label("data_key"),
        _VALUE.label("value"),
    )
    .select_from(call_logs.join(_ENTRY, sa.true()))
    # "Empty" as in docs/metrics.md: false and 0 are answers, so they are not empty.
    .where(
        sa.literal_column("entry.value NOT IN ('null', '[]', '{}')"),
        _VALUE.regexp_match("[^[:space:]]"),
    )
)
CAPTURED_COMMENTS: Final = {
    "data_key": "Name of the value in the agent's settings.",
    "value": "The value as text; a list or an object as JSON.",
}

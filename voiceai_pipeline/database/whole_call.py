"""A call as HighLevel lists it, put together again from the columns of ``call_logs``.

Each value is stored once: ``raw`` keeps only the members of the item that no column gives back to
the letter (``highlevel/unheld.py``), and they win over the columns. So a row whose ``raw`` is the
whole item, as older versions stored it, is put together rightly too.
"""

from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.tables import call_logs

_MEMBERS: Final = {
    "id": "call_id",
    # As HighLevel writes it; whatever is written in another way is in raw.
    "createdAt": "to_char(call_logs.started_at AT TIME ZONE 'UTC', "
    '\'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\')',
    "agentId": "agent_id",
    "contactId": "contact_id",
    "fromNumber": "from_number",
    "duration": "duration_seconds",
    "trialCall": "is_trial",
    "isAgentDeleted": "is_agent_deleted",
    "summary": "summary",
    "transcript": "transcript",
    "executedCallActions": "nullif(call_logs.executed_call_actions, '[]')",
    "extractedData": "extracted_data",
    "translation": "translation",
    "messageId": "message_id",
}
"""What the columns say of an item, by HighLevel's names; NULL is an absent member."""

_VALUES: Final = ", ".join(
    f"('{name}', to_jsonb({source if '(' in source else f'call_logs.{source}'}))"
    for name, source in _MEMBERS.items()
)

HELD: Final = (
    "(SELECT coalesce(jsonb_object_agg(name, value), '{}') "  # noqa: S608 - our own names
    f"FROM (VALUES {_VALUES}) AS member(name, value) WHERE value IS NOT NULL)"
)
"""SQL: the members that the columns of a row give back."""

WHOLE: Final = f"({HELD} || coalesce(call_logs.raw, '{{}}'))"
"""SQL: the whole item of a row of ``call_logs``, redacted."""

UNHELD: Final = (
    "(SELECT jsonb_object_agg(name, value) FROM jsonb_each(call_logs.raw) AS sent(name, value) "  # noqa: S608
    # As text: 65 and 65.0 are equal, and not the same.
    f"WHERE ({HELD} -> name)::text IS DISTINCT FROM value::text)"
)
"""SQL: what of a row's ``raw`` its columns do not give back; NULL if that is nothing."""

WHOLE_ITEM: Final = sa.literal_column(WHOLE, call_logs.c.raw.type).label("raw")

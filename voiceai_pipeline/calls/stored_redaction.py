"""Redacts stored rows again when the rules of redaction have changed (``highlevel/allow_list.py``).

Batch by batch (``row_passes``). Analysts see no change: a call keeps its ``last_changed_at``, and
gets the content hash that the present rules give, so that its next read finds it unchanged.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Raw
from sqlalchemy.dialects.postgresql import JSONB

from voiceai_pipeline.calls import call_words, row_passes
from voiceai_pipeline.calls.row_passes import Keys, RowPass
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.database.tables import agents, call_logs, set_aside_calls
from voiceai_pipeline.database.whole_call import WHOLE_ITEM
from voiceai_pipeline.highlevel.allow_list import RULES, redact_agent
from voiceai_pipeline.highlevel.calls import call_redacted_again, item_redacted_again


def is_pending(db: sa.Connection) -> bool:
    """Whether a table holds rows that may not have been redacted by the current rules."""
    return row_passes.is_pending(db, PASSES)


def redact_again(engine: sa.Engine, show: Callable[[int, int], None] | None = None) -> int:
    """Redact every row that may not have been redacted by the current rules; the number of rows
    that changed.

    Args:
        show: called with the rows visited and to visit, after each batch.
    """
    return row_passes.run(engine, PASSES, show)


def _rows(
    db: sa.Connection, table: sa.Table, are_these: sa.ColumnElement[bool], item: Any = None
) -> Sequence[sa.Row[Any]]:
    """Rows of a table, with ``raw`` as text.

    Args:
        item: what is ``raw``, if it is not the column of this name.
    """
    raw = sa.cast(table.c.raw if item is None else item, sa.Text).label("raw")
    others = [column for column in table.columns if column.name != "raw"]
    query: sa.Select[Any] = sa.select(*others, raw)
    return db.execute(query.where(are_these)).all()


def _redact_calls(db: sa.Connection, keys: Keys) -> int:
    changes = []
    for row in _rows(db, call_logs, PASSES[0].are(keys), WHOLE_ITEM.element):
        call = call_redacted_again(ListedCall(row.call_id, row.started_at, Raw(row.raw.encode())))
        if call is None:
            continue
        changes.append(
            {
                "of_location": row.location_id,
                "of_call": row.call_id,
                "raw": None if call.unheld is None else call.unheld.decode(),
                **{name: getattr(call, name) for name in _COLUMNS},
            }
        )
    if changes:
        db.execute(_UPDATE_CALL, changes)
        call_words.index_again(db, [(one["of_location"], one["of_call"]) for one in changes])
    return len(changes)


_COLUMNS: Final = (
    *("agent_id", "contact_id", "from_number", "summary", "transcript", "message_id"),
    *("executed_call_actions", "extracted_data", "translation", "content_hash"),
)
"""The columns that hold a part of ``raw``, and its hash."""

_UPDATE_CALL: Final = (
    sa.update(call_logs)
    .where(
        call_logs.c.location_id == sa.bindparam("of_location"),
        call_logs.c.call_id == sa.bindparam("of_call"),
    )
    .values(
        raw=sa.cast(sa.bindparam("raw", type_=sa.Text), JSONB),
        **{
            name: sa.bindparam(
                name, type_=JSONB(none_as_null=True) if isinstance(column.type, JSONB) else None
            )
            for name, column in call_logs.columns.items()
            if name in _COLUMNS
        },
    )
)


def _redact_set_aside(db: sa.Connection, keys: Keys) -> int:
    table, changed = set_aside_calls, 0
    for row in _rows(db, table, PASSES[1].are(keys)):
        again = item_redacted_again(Raw(row.raw.encode()))
        if again is None:
            continue
        raw, content_hash = again
        of_row = (table.c.location_id == row.location_id) & (
            table.c.content_hash == row.content_hash
        )
        # Two items may differ only in what is redacted now.
        same = sa.select(sa.literal(1)).where(
            table.c.location_id == row.location_id, table.c.content_hash == content_hash
        )
        if db.execute(same).first():
            db.execute(sa.delete(table).where(of_row))
        else:
            db.execute(sa.update(table).where(of_row).values(raw=raw, content_hash=content_hash))
        changed += 1
    return changed


def _redact_agents(db: sa.Connection, keys: Keys) -> int:
    changed = 0
    for row in _rows(db, agents, PASSES[2].are(keys)):
        item = json.loads(row.raw)
        raw = redact_agent(item)
        if raw != item:
            db.execute(
                sa.update(agents)
                .where(agents.c.location_id == row.location_id, agents.c.agent_id == row.agent_id)
                .values(raw=raw)
            )
            changed += 1
    return changed


PASSES: Final = tuple(
    RowPass(table.name, RULES, table, id_column, change)
    for table, id_column, change in (
        (call_logs, call_logs.c.call_id, _redact_calls),
        (set_aside_calls, set_aside_calls.c.content_hash, _redact_set_aside),
        (agents, agents.c.agent_id, _redact_agents),
    )
)

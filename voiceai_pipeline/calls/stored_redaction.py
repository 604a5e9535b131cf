"""Redacts stored rows again when the rules of redaction have changed (``highlevel/allow_list.py``).

It works batch by batch (``row_passes``). To analysts a call counts as unchanged: it keeps its
``last_changed_at``. It gets the content hash that the current rules give, so its next read finds it
unchanged.

Contents are sent by COPY: PostgreSQL may be set to log statements, with their bind values
(REQUIREMENTS X1).
"""

import io
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Raw

from voiceai_pipeline.calls import call_words, row_passes
from voiceai_pipeline.calls.intake import COPIED, call_row
from voiceai_pipeline.calls.row_passes import Keys, RowPass
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.database.copy_format import JSONB_VERSION, copy, row, text
from voiceai_pipeline.database.tables import agents, call_logs, set_aside_calls
from voiceai_pipeline.database.whole_call import WHOLE_ITEM
from voiceai_pipeline.highlevel.allow_list import RULES, redact_agent
from voiceai_pipeline.highlevel.calls import call_redacted_again, item_redacted_again


def is_pending(db: sa.Connection) -> bool:
    """Whether a table holds rows that may not have been redacted by the current rules."""
    return row_passes.is_pending(db, PASSES)


def redact_again(engine: sa.Engine, show: Callable[[int, int], None] | None = None) -> int:
    """Redact every row that may not have been redacted by the current rules; returns the number of
    rows that changed.

    Args:
        show: called after each batch with the number of rows visited and the number to visit.
    """
    return row_passes.run(engine, PASSES, show)


def _rows(
    db: sa.Connection, table: sa.Table, are_these: sa.ColumnElement[bool], item: Any = None
) -> Sequence[sa.Row[Any]]:
    """Rows of a table, with ``raw`` as text.

    Args:
        item: the expression that is read as ``raw``; None for the column of this name.
    """
    raw = sa.cast(table.c.raw if item is None else item, sa.Text).label("raw")
    others = [column for column in table.columns if column.name != "raw"]
    query: sa.Select[Any] = sa.select(*others, raw)
    return db.execute(query.where(are_these)).all()


def _redact_calls(db: sa.Connection, keys: Keys) -> int:
    changed: dict[str, list[bytes]] = defaultdict(list)
    changed_keys = []
    for stored in _rows(db, call_logs, PASSES[0].are(keys), WHOLE_ITEM.element):
        sent = Raw(stored.raw.encode())
        call = call_redacted_again(ListedCall(stored.call_id, stored.started_at, sent))
        if call is not None:
            changed[stored.location_id].append(call_row(call, b""))
            changed_keys.append((stored.location_id, stored.call_id))
    if not changed_keys:
        return 0
    names = ", ".join(("location_id", *COPIED))
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE redacted_calls ON COMMIT DROP AS "  # noqa: S608 - our own names
        f"SELECT {names} FROM call_logs WITH NO DATA"
    )
    parts = [
        (io.BytesIO(b"".join(rows)), {"location_id": location_id.encode()})
        for location_id, rows in changed.items()
    ]
    copy(db, "redacted_calls", COPIED, parts, ("location_id",))
    db.exec_driver_sql(_UPDATE_CALLS)
    call_words.index_again(db, changed_keys)
    return len(changed_keys)


_COLUMNS: Final = (
    *("agent_id", "contact_id", "from_number", "summary", "transcript", "message_id"),
    *("executed_call_actions", "extracted_data", "translation", "raw", "content_hash"),
)
"""The columns that hold values of the item, and its hash."""

_UPDATE_CALLS: Final = (
    f"UPDATE call_logs AS c SET {', '.join(f'{name} = r.{name}' for name in _COLUMNS)} "  # noqa: S608
    "FROM redacted_calls AS r WHERE c.location_id = r.location_id AND c.call_id = r.call_id"
)


def _redact_set_aside(db: sa.Connection, keys: Keys) -> int:
    table, changes = set_aside_calls, []
    for stored in _rows(db, table, PASSES[1].are(keys)):
        again = item_redacted_again(Raw(stored.raw.encode()))
        if again is not None:
            changes.append((stored.location_id, stored.content_hash, *again))
    if not changes:
        return 0
    columns = ("location_id", "stored_hash", "content_hash", "raw")
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE redacted_items ON COMMIT DROP AS "
        "SELECT location_id, content_hash AS stored_hash, content_hash, raw "
        "FROM set_aside_calls WITH NO DATA"
    )
    rows = (
        row([text(location_id), stored, new, JSONB_VERSION + json.dumps(raw).encode()])
        for location_id, stored, raw, new in changes
    )
    copy(db, "redacted_items", columns, [(io.BytesIO(b"".join(rows)), {})])
    for location_id, stored, _, new in changes:
        # Two items may have differed only in what is now redacted.
        same = sa.select(sa.literal(1)).where(
            table.c.location_id == location_id, table.c.content_hash == new
        )
        is_twin = db.execute(same).first() is not None
        values = {"location": location_id, "stored": stored}
        db.execute(_DELETE_ITEM if is_twin else _UPDATE_ITEM, values)
    return len(changes)


_DELETE_ITEM: Final = sa.text(
    "DELETE FROM set_aside_calls WHERE location_id = :location AND content_hash = :stored"
)

_UPDATE_ITEM: Final = sa.text(
    "UPDATE set_aside_calls AS s SET raw = r.raw, content_hash = r.content_hash "
    "FROM redacted_items AS r WHERE s.location_id = :location AND s.content_hash = :stored "
    "AND r.location_id = s.location_id AND r.stored_hash = s.content_hash"
)


def _redact_agents(db: sa.Connection, keys: Keys) -> int:
    changed = 0
    for stored in _rows(db, agents, PASSES[2].are(keys)):
        item = json.loads(stored.raw)
        raw = redact_agent(item)
        if raw != item:
            db.execute(
                sa.update(agents)
                .where(
                    agents.c.location_id == stored.location_id,
                    agents.c.agent_id == stored.agent_id,
                )
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

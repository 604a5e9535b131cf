"""Redacts stored rows again when the rules of redaction have changed (``highlevel/allow_list.py``).

In batches of one transaction each, which also notes how far the pass has come: stopped at any time,
it continues there. Analysts see no change: a call keeps its ``last_changed_at``, and gets the
content hash that the present rules give, so that its next read finds it unchanged.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Raw
from sqlalchemy.dialects.postgresql import JSONB, insert

from voiceai_pipeline.calls.call_store import lock_locations
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.database.tables import agents, call_logs, redaction_progress, set_aside_calls
from voiceai_pipeline.highlevel.allow_list import RULES, redact_agent
from voiceai_pipeline.highlevel.calls import call_redacted_again, item_redacted_again

_BATCH: Final = 500
"""Rows of a transaction: a sync that writes their locations waits for it, about half a second."""


@dataclass(frozen=True)
class _Pass:
    """How the rows of a table are redacted again, in the order of its key.

    Attributes:
        id_column: the second column of the key; the first is ``location_id``.
        redact: redacts rows that no sync can write meanwhile; the number that changed.
    """

    table: sa.Table
    id_column: sa.Column[Any]
    redact: Callable[[sa.Connection, Sequence[sa.Row[Any]]], int]


def is_pending(db: sa.Connection) -> bool:
    """Whether a table holds rows that may not have been redacted by the present rules."""
    done = sa.select(sa.func.count()).where(
        redaction_progress.c.rules >= RULES, redaction_progress.c.finished_at.is_not(None)
    )
    return db.execute(done).scalar_one() < len(_PASSES)


def redact_again(engine: sa.Engine, show: Callable[[int, int], None] | None = None) -> int:
    """Redact every row that may not have been redacted by the present rules.

    Safe beside syncs, and beside another process that does the same.

    Args:
        show: called with the rows visited and to visit, after each batch.

    Returns:
        The number of rows that changed.
    """
    with engine.begin() as db:
        if not is_pending(db):
            return 0
        total = sum(_remaining(db, each) for each in _PASSES)
    visited = changed = 0
    for each in _PASSES:
        is_finished = False
        while not is_finished:
            with engine.begin() as db:
                is_finished, rows, of_these = _redact_batch(db, each)
            visited, changed = visited + rows, changed + of_these
            if show:
                show(min(visited, total), total)
    return changed


def _remaining(db: sa.Connection, each: _Pass) -> int:
    state = _progress(db, each)
    if state is not None and state.finished_at is not None:
        return 0
    count = sa.select(sa.func.count()).select_from(each.table)
    remaining: int = db.execute(_beyond(count, each, state)).scalar_one()
    return remaining


def _progress(db: sa.Connection, each: _Pass) -> sa.Row[Any] | None:
    """How far the pass by the present rules has come; None if it has not begun."""
    query = sa.select(redaction_progress).where(
        redaction_progress.c.table_name == each.table.name, redaction_progress.c.rules >= RULES
    )
    return db.execute(query).one_or_none()


def _beyond(query: sa.Select[Any], each: _Pass, state: sa.Row[Any] | None) -> sa.Select[Any]:
    """The rows after those that the pass has visited."""
    if state is None:
        return query
    key = sa.tuple_(each.table.c.location_id, each.id_column)
    reached = sa.tuple_(state.location_id, sa.cast(state.row_id, each.id_column.type))
    return query.where(key > reached)


def _redact_batch(db: sa.Connection, each: _Pass) -> tuple[bool, int, int]:
    """Whether the pass is finished, the rows visited now, and how many of them changed."""
    db.execute(_ONE_AT_A_TIME, {"name": f"voiceai redaction {each.table.name}"})
    state = _progress(db, each)
    if state is not None and state.finished_at is not None:
        return True, 0, 0
    key = [each.table.c.location_id, each.id_column]
    batch = _beyond(sa.select(*key), each, state).order_by(*key).limit(_BATCH)
    keys = [tuple(found) for found in db.execute(batch)]
    # The rows are read once no sync can write them any more.
    lock_locations(db, {location_id for location_id, _ in keys})
    raw = sa.cast(each.table.c.raw, sa.Text).label("raw")
    others = [column for column in each.table.columns if column.name != "raw"]
    query: sa.Select[Any] = sa.select(*others, raw)
    rows = db.execute(query.where(sa.tuple_(*key).in_(keys))).all()
    changed = each.redact(db, rows)
    is_finished = len(keys) < _BATCH
    _note(db, each, keys[-1] if keys else None, is_finished=is_finished)
    return is_finished, len(keys), changed


_ONE_AT_A_TIME: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def _note(
    db: sa.Connection, each: _Pass, reached: tuple[Any, ...] | None, *, is_finished: bool
) -> None:
    values: dict[str, Any] = {"rules": RULES}
    if reached:
        row_id = sa.cast(sa.literal(reached[1], each.id_column.type), sa.Text)
        values |= {"location_id": reached[0], "row_id": row_id}
    values["finished_at"] = sa.func.now() if is_finished else None
    db.execute(
        insert(redaction_progress)
        .values(table_name=each.table.name, **values)
        .on_conflict_do_update(index_elements=["table_name"], set_=values)
    )


def _redact_calls(db: sa.Connection, rows: Sequence[sa.Row[Any]]) -> int:
    changes = []
    for row in rows:
        call = call_redacted_again(ListedCall(row.call_id, row.started_at, Raw(row.raw.encode())))
        if call is None:
            continue
        changes.append(
            {
                "of_location": row.location_id,
                "of_call": row.call_id,
                "raw": call.content.decode(),
                **{name: getattr(call, name) for name in _COLUMNS},
            }
        )
    if changes:
        db.execute(_UPDATE_CALL, changes)
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


def _redact_set_aside(db: sa.Connection, rows: Sequence[sa.Row[Any]]) -> int:
    table, changed = set_aside_calls, 0
    for row in rows:
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


def _redact_agents(db: sa.Connection, rows: Sequence[sa.Row[Any]]) -> int:
    changed = 0
    for row in rows:
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


_PASSES: Final = (
    _Pass(call_logs, call_logs.c.call_id, _redact_calls),
    _Pass(set_aside_calls, set_aside_calls.c.content_hash, _redact_set_aside),
    _Pass(agents, agents.c.agent_id, _redact_agents),
)

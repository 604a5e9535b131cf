"""Passes over a table's stored rows, which change them to what the current version would store.

Each batch is one transaction, which also records the pass's progress in ``redaction_progress``. So
a pass that was stopped continues where it was, and readers never wait. ``stored_redaction`` and
``stored_values`` define what the passes change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.calls.call_store import lock_locations
from voiceai_pipeline.database.tables import redaction_progress

_BATCH: Final = 500
"""Rows per transaction. A sync that writes to their locations waits for it, about half a second."""

Keys = Sequence[tuple[Any, ...]]
"""Keys of rows: location_id and the pass's ``id_column``."""


@dataclass(frozen=True)
class RowPass:
    """A pass over the rows of a table, in the order of its key.

    Attributes:
        name: the key of its row in ``redaction_progress``.
        version: the version of ``change``; a higher one visits all rows again.
        id_column: the second column of the key; the first is ``location_id``.
        change: changes the rows with these keys, and returns how many it changed; no sync can
            write to them meanwhile.
    """

    name: str
    version: int
    table: sa.Table
    id_column: sa.Column[Any]
    change: Callable[[sa.Connection, Keys], int]

    @property
    def key(self) -> tuple[sa.Column[Any], sa.Column[Any]]:
        return self.table.c.location_id, self.id_column

    def are(self, keys: Keys) -> sa.ColumnElement[bool]:
        """SQL condition: the row has one of these keys."""
        return sa.tuple_(*self.key).in_(keys)


def is_pending(db: sa.Connection, passes: Sequence[RowPass]) -> bool:
    """Whether one of the passes has not visited every row."""
    query = sa.select(redaction_progress).where(redaction_progress.c.finished_at.is_not(None))
    finished = {row.table_name: row.rules for row in db.execute(query)}
    return any(finished.get(each.name, 0) < each.version for each in passes)


def run(
    engine: sa.Engine, passes: Sequence[RowPass], show: Callable[[int, int], None] | None = None
) -> int:
    """Visit every row that the passes have not visited yet.

    Safe while syncs run, and while another process does the same.

    Args:
        show: called after each batch with the number of rows visited and the number to visit.

    Returns:
        The number of rows that changed.
    """
    with engine.begin() as db:
        if not is_pending(db, passes):
            return 0
        total = sum(_remaining(db, each) for each in passes)
    visited = changed = 0
    for each in passes:
        is_finished = False
        while not is_finished:
            with engine.begin() as db:
                is_finished, rows, of_these = visit_batch(db, each)
            visited, changed = visited + rows, changed + of_these
            if show:
                show(min(visited, total), total)
    return changed


def visit_batch(db: sa.Connection, each: RowPass) -> tuple[bool, int, int]:
    """Visit the next rows. Returns whether the pass is finished, how many rows were visited, and
    how many of them changed."""
    db.execute(_ONE_AT_A_TIME, {"name": f"voiceai redaction {each.name}"})
    state = _progress(db, each)
    if state is not None and state.finished_at is not None:
        return True, 0, 0
    batch = _beyond(sa.select(*each.key), each, state).order_by(*each.key).limit(_BATCH)
    keys = [tuple(found) for found in db.execute(batch)]
    # Locked before the rows are read, so that no sync writes them in between.
    lock_locations(db, {location_id for location_id, _ in keys})
    changed = each.change(db, keys)
    is_finished = len(keys) < _BATCH
    _note(db, each, keys[-1] if keys else None, is_finished=is_finished)
    return is_finished, len(keys), changed


_ONE_AT_A_TIME: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def _remaining(db: sa.Connection, each: RowPass) -> int:
    state = _progress(db, each)
    if state is not None and state.finished_at is not None:
        return 0
    count = sa.select(sa.func.count()).select_from(each.table)
    remaining: int = db.execute(_beyond(count, each, state)).scalar_one()
    return remaining


def _progress(db: sa.Connection, each: RowPass) -> sa.Row[Any] | None:
    """How far the pass has come; None if it has not begun."""
    query = sa.select(redaction_progress).where(
        redaction_progress.c.table_name == each.name, redaction_progress.c.rules >= each.version
    )
    return db.execute(query).one_or_none()


def _beyond(query: sa.Select[Any], each: RowPass, state: sa.Row[Any] | None) -> sa.Select[Any]:
    """The query, limited to the rows that the pass has not visited."""
    if state is None:
        return query
    reached = sa.tuple_(state.location_id, sa.cast(state.row_id, each.id_column.type))
    return query.where(sa.tuple_(*each.key) > reached)


def _note(
    db: sa.Connection, each: RowPass, reached: tuple[Any, ...] | None, *, is_finished: bool
) -> None:
    values: dict[str, Any] = {"rules": each.version}
    if reached:
        row_id = sa.cast(sa.literal(reached[1], each.id_column.type), sa.Text)
        values |= {"location_id": reached[0], "row_id": row_id}
    values["finished_at"] = sa.func.now() if is_finished else None
    db.execute(
        insert(redaction_progress)
        .values(table_name=each.name, **values)
        .on_conflict_do_update(index_elements=["table_name"], set_=values)
    )

"""Passes over the stored rows of a table, to bring them to what the present version would store.

In batches of one transaction each, which also notes how far the pass has come: stopped at any time,
it continues there, and readers never wait. What a pass changes is in ``stored_redaction`` and
``stored_values``; how far each has come is in ``redaction_progress``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.calls.call_store import lock_locations
from voiceai_pipeline.database.tables import redaction_progress

_BATCH: Final = 500
"""Rows of a transaction: a sync that writes their locations waits for it, about half a second."""

Keys = Sequence[tuple[Any, ...]]
"""Keys of rows: location_id and the pass's ``id_column``."""


@dataclass(frozen=True)
class RowPass:
    """How the rows of a table are visited, in the order of its key.

    Attributes:
        name: in ``redaction_progress``.
        version: of what the pass does; a higher one visits all rows again.
        id_column: the second column of the key; the first is ``location_id``.
        change: changes rows that no sync can write meanwhile; the number that changed.
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
        """Whether a row is one of these."""
        return sa.tuple_(*self.key).in_(keys)


def is_pending(db: sa.Connection, passes: Sequence[RowPass]) -> bool:
    """Whether a pass has not visited every row."""
    query = sa.select(redaction_progress).where(redaction_progress.c.finished_at.is_not(None))
    finished = {row.table_name: row.rules for row in db.execute(query)}
    return any(finished.get(each.name, 0) < each.version for each in passes)


def run(
    engine: sa.Engine, passes: Sequence[RowPass], show: Callable[[int, int], None] | None = None
) -> int:
    """Visit every row that the passes have not visited.

    Safe beside syncs, and beside another process that does the same.

    Args:
        show: called with the rows visited and to visit, after each batch.

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
    """Whether the pass is finished, the rows visited now, and how many of them changed."""
    db.execute(_ONE_AT_A_TIME, {"name": f"voiceai redaction {each.name}"})
    state = _progress(db, each)
    if state is not None and state.finished_at is not None:
        return True, 0, 0
    batch = _beyond(sa.select(*each.key), each, state).order_by(*each.key).limit(_BATCH)
    keys = [tuple(found) for found in db.execute(batch)]
    # The rows are read once no sync can write them any more.
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
    """The rows after those that the pass has visited."""
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

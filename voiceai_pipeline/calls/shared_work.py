"""Shares one sync among several runs: the run that was requested leads, and others help.

The leader offers its tasks in ``work_units`` and works on them like any helper, so it can finish
without help. It ends when every unit is done, by whichever run; the results of helpers are in the
ledger. A helper ends when no unit is left to take, or when its leader has ended.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger, work_units
from voiceai_pipeline.calls.location_queue import Task, Terms
from voiceai_pipeline.calls.work_units import Unit
from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.core.days import DayResult
from voiceai_pipeline.database.engine import is_unreachable

LEASES: Final = 3
"""A unit's lease lasts this many times as long as a location's. Both are extended equally often, so
a unit is taken over only from a worker that is gone."""

_BATCH: Final = 5_000
"""Locations whose results are read in one query."""


class LeaderGoneError(Exception):
    """The leader has ended, so its helpers must stop."""


@dataclass
class SharedWork:
    """The units of a leader, as a ``TaskSource`` of the leader or of one of its helpers.

    Args:
        leader: the id of the Dagster run that leads.
        offered: the leader's tasks by location; None in a helper, which reads them from the table.
        is_led: whether the leader is still running; called when no more units are free, and before
            leases are extended.
    """

    engine: sa.Engine
    leader: str
    terms: Terms
    offered: Mapping[str, Task] | None = None
    is_led: Callable[[], bool] = lambda: True
    monotonic: Callable[[], float] = time.monotonic
    has_more: bool = True
    is_done: bool = False
    finished: set[str] = field(default_factory=set)
    _holder: UUID = field(default_factory=uuid4)
    _held: set[str] = field(default_factory=set)
    _after: str = ""
    _next_look: float = 0.0
    _away_since: float | None = None
    _unsaid: set[str] = field(default_factory=set)

    def take(self, at_most: int) -> list[Task]:
        """The next tasks; empty if none is free now.

        Raises:
            LeaderGoneError: the leader has ended.
            sqlalchemy.exc.OperationalError: the database stays unreachable.
        """
        now = self.monotonic()
        if not at_most or self.is_done or (not self.has_more and now < self._next_look):
            return []
        self.has_more, self._next_look = False, now + self.terms.poll
        tasks: list[Task] = []
        with self._outage(now), self.engine.begin() as db:
            units = self._take(db, at_most)
            tasks = self._tasks(db, units)
            if not units and self.offered is None:
                self.is_done = True
            elif not units and not self._held:
                self.is_done = work_units.since(db, self.leader) is None
            self.has_more = len(units) == at_most
        self._held |= {task.location_id for task in tasks}
        if not self.has_more and not self.is_led():
            raise LeaderGoneError
        return tasks

    def _take(self, db: sa.Connection, at_most: int) -> list[Unit]:
        """Take the units after the last ones taken, so that held units are not scanned every time;
        then those from the beginning, whose leases may have expired."""
        units: list[Unit] = []
        for after in dict.fromkeys((self._after, "")):
            units += work_units.take(
                db, self.leader, self._holder, at_most - len(units), self._lease, after
            )
            self._after = units[-1].location_id if units else ""
            if len(units) == at_most:
                break
        return units

    def _tasks(self, db: sa.Connection, units: list[Unit]) -> list[Task]:
        if self.offered is not None:
            return [self.offered[unit.location_id] for unit in units]
        user_ids = [user_id for unit in units for user_id in unit.user_ids]
        found = connection_queries.all_connections(db, user_ids) if user_ids else []
        connections = {one.user.id: one for one in found}
        tasks = []
        for unit in units:
            theirs = [connections[one] for one in unit.user_ids if one in connections]
            if theirs:
                tasks.append(Task(unit.location_id, theirs, unit.days, unit.known))
            else:  # the users were deleted
                work_units.finish(db, self.leader, self._holder, [unit.location_id])
        return tasks

    def finish(self, location_ids: Collection[str]) -> None:
        """Delete the units of these locations: they are done.

        Raises:
            sqlalchemy.exc.OperationalError: the database stays unreachable.
        """
        self.finished |= set(location_ids)
        self._held -= set(location_ids)
        self._unsaid |= set(location_ids)
        if not self._held:
            self._next_look = 0.0
        with self._outage(self.monotonic()), self.engine.begin() as db:
            work_units.finish(db, self.leader, self._holder, self._unsaid)
            self._unsaid.clear()

    def keep(self, silent: Collection[str]) -> None:
        """Extend the leases of the units taken, except those of ``silent`` locations.

        Raises:
            LeaderGoneError: the leader has ended.
            sqlalchemy.exc.OperationalError: the database stays unreachable.
        """
        if not self.is_led():
            raise LeaderGoneError
        held = (self._held | self._unsaid) - set(silent)
        with self._outage(self.monotonic()), self.engine.begin() as db:
            work_units.keep(db, self.leader, self._holder, held, self._lease)

    def give_back(self) -> None:
        """Let other runs take the units that are not done."""
        with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.begin() as db:
            work_units.give_back(db, self.leader, self._holder, self._held)

    @property
    def _lease(self) -> timedelta:
        return LEASES * self.terms.lease

    @contextmanager
    def _outage(self, now: float) -> Iterator[None]:
        """Suppress the error of an unreachable database for up to ``Terms.outage``."""
        try:
            yield
            self._away_since = None
        except sa.exc.OperationalError as error:
            self._away_since = now if self._away_since is None else self._away_since
            waited = now - self._away_since
            if not is_unreachable(error) or waited >= self.terms.outage.total_seconds():
                raise

    def results_of_helpers(self) -> list[DayResult]:
        """The results, from the ledger, of the leader's tasks that helpers did."""
        tasks = (task for name, task in (self.offered or {}).items() if name not in self.finished)
        found: list[DayResult] = []
        while batch := list(islice(tasks, _BATCH)):
            wanted = {
                (one.user.id, task.location_id, day)
                for task in batch
                for one in task.connections
                for day in task.days
            }
            days = sorted({day for _, _, day in wanted})
            users = sorted({user_id for user_id, _, _ in wanted})
            with self.engine.begin() as db:
                rows = ledger.results(db, days=days, user_ids=users)
            found += [row for row in rows if (row.user.id, row.location_id, row.day) in wanted]
        return found


@contextmanager
def offering(
    engine: sa.Engine, leader: str, terms: Terms, tasks: Collection[Task], since: datetime
) -> Iterator[SharedWork]:
    """Offer a run's tasks to helpers until the ``with`` block ends.

    Args:
        leader: the run's id.
        since: when the run was requested (UTC).

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the tasks cannot be offered.
    """
    with engine.begin() as db:
        work_units.post(db, leader, tasks, since)
    try:
        yield SharedWork(engine, leader, terms, {task.location_id: task for task in tasks})
    finally:
        # Units that cannot be deleted now are deleted by the sensor ``open_work``.
        with contextlib.suppress(sa.exc.SQLAlchemyError), engine.begin() as db:
            work_units.forget(db, leader)

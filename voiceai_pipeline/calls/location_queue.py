"""The queue of locations that a run reads, each under its lease: only one run, on any machine,
reads a location at a time.

Two runs that want the same days (a backfill and the schedule) share a location's rate limit and do
its work once: while another run holds the location, a run reads other locations, and then takes
over the days that the other run completed. ``window_sync`` reads a window, ``worker_pool`` limits
how many are read concurrently, ``leases`` has the lease rows.

A lease lasts a minute and is extended while its worker shows signs of life, so a killed run delays
others by a minute, and a hung one by ``Terms.silence``. No database connection is held while
waiting. A restart of the database costs only the reads in progress.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import leases, ledger
from voiceai_pipeline.calls.lease import Lease, LeaseLostError
from voiceai_pipeline.calls.leases import Holder
from voiceai_pipeline.calls.task_source import TaskSource
from voiceai_pipeline.calls.worker_pool import WorkerPool
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.database.engine import is_unreachable


@dataclass(frozen=True)
class Terms:
    """Timeouts of leases and of the queue.

    Attributes:
        lease: how long a lease lasts, and so how long a dead holder blocks its location. It is
            extended after a third of this time.
        silence: a worker that finishes no request for this long is hung, and its lease expires.
            Longer than a request with all its retries, and than the commit of a large window.
        patience: how long to wait for a location that other runs hold. Longer than ``silence``, so
            that a hung holder's location is taken over, not reported as busy.
        outage: how long to wait for an unreachable database; a restart takes seconds.
        poll: seconds between two attempts to lease a location or reach the database.
        slow: seconds of waiting for a response after which a worker gives up its slot.
        linger: seconds that a small window may wait to be stored together with others.
    """

    lease: timedelta = timedelta(minutes=1)
    silence: timedelta = timedelta(minutes=10)
    patience: timedelta = timedelta(minutes=30)
    outage: timedelta = timedelta(minutes=2)
    poll: float = 2.0
    slow: float = 1.0
    linger: float = 1.0


TERMS: Final = Terms()


@dataclass(frozen=True, slots=True)  # a hundred thousand
class Task:
    """The days of one location that a run has to read.

    Attributes:
        connections: of the location's users who can be synced.
        known: pairs of user id and day that were already complete; None to treat all as such. For
            these, another run's read counts only if it started after this run was requested.
        taken_over: results that other runs completed since this run was requested.
        alone: store its windows on their own, not together with others.
    """

    location_id: str
    connections: list[Connection]
    days: list[date]
    known: Collection[tuple[UUID, date]] | None = ()
    taken_over: tuple[DayResult, ...] = ()
    alone: bool = False

    def after(self, rows: Iterable[DayResult], since: datetime, zone: ZoneInfo) -> "Task":
        """The task without the days that other runs have read for all its users.

        Args:
            rows: ledger rows.
            since: when this run was requested (UTC).
        """
        found = {
            (row.user.id, row.day): row
            for row in rows
            if row.location_id == self.location_id and self._counts(row, since, zone)
        }
        users = [one.user.id for one in self.connections]
        done = [day for day in self.days if all((user, day) in found for user in users)]
        if not done:
            return self
        rest = [day for day in self.days if day not in done]
        theirs = tuple(found[user, day] for user in users for day in done)
        return replace(self, days=rest, taken_over=(*self.taken_over, *theirs))

    def _counts(self, row: DayResult, since: datetime, zone: ZoneInfo) -> bool:
        if row.read_until is None or row.finished_at is None or row.started_at is None:
            return False
        must_be_new = self.known is None or (row.user.id, row.day) in self.known
        return (
            row.state is DayState.COMPLETE
            and row.finished_at > since
            and row.read_until >= min(Window.of_day(row.day, zone).end, since)
            and (row.started_at > since or not must_be_new)
        )


@dataclass
class _Entry:
    """A queued task; times are monotonic."""

    task: Task
    not_before: float = 0.0
    give_up_at: float | None = None
    away_since: float | None = None


@dataclass
class _Running:
    entry: _Entry
    lease: Lease


class Unstored(Protocol):
    """A window that was read and is not stored yet."""

    def close(self) -> None:
        """Free its resources, once it is stored or given up."""


U = TypeVar("U", bound=Unstored)

Found = tuple[list[DayResult], U | None]
"""The results of a location's days, and a window of it that is still to be stored."""


@dataclass
class LocationQueue(Generic[U]):
    """Reads locations concurrently, each under its lease.

    Args:
        since: when this run was requested (UTC).
        prepare: for each of these tasks, returns a function that reads its days in a worker thread;
            the function must wrap each request in ``Lease.requesting``.
        store: stores windows of several locations in one transaction.
        give_up: records, and returns, the results of a task that other runs have held too long.
        interruptible: wraps the wait for reads; on an interrupt it aborts the reads in progress.
    """

    engine: sa.Engine
    workers: int
    run_id: str | None
    since: datetime
    zone: ZoneInfo
    prepare: Callable[[Sequence[Task]], Sequence[Callable[[Lease], Found[U]]]]
    store: Callable[[Sequence[U]], list[DayResult]]
    give_up: Callable[[Task, Holder | None], list[DayResult]]
    interruptible: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    terms: Terms = TERMS
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _holder: UUID = field(default_factory=uuid4)
    _source: TaskSource[Task] = field(init=False)
    _delayed: list[_Entry] = field(default_factory=list)
    _pool: WorkerPool[Found[U]] = field(init=False)
    _running: dict[Future[Found[U]], _Running] = field(default_factory=dict)
    _unstored: list[tuple[_Entry, list[DayResult], U]] = field(default_factory=list)
    _store_at: float = 0.0
    _to_release: list[str] = field(default_factory=list)
    _extended_at: float = 0.0

    def run(self, source: TaskSource[Task]) -> list[DayResult]:
        """Read each location as soon as its lease is acquired; return the results of all days taken
        from ``source``.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database stays unreachable. Other exceptions of
                reading are raised, too.
        """
        self._source = source
        self._extended_at = self.monotonic()
        outcomes: list[DayResult] = []
        self._pool = WorkerPool(self.workers, self.terms.slow)
        try:
            with self.interruptible(), self._yielding():
                while self._delayed or self._running or not source.is_done:
                    found = [*self._start(), *self._collect(), *self._store_batch()]
                    if found:
                        # A location's results come all at once.
                        source.finish({outcome.location_id for outcome in found})
                        outcomes += found
                    self._extend()
        finally:
            # If this takes longer than the lease, running workers stop at their next request. Work
            # that has not started is dropped.
            self._pool.close()
            for _, _, unstored in self._unstored:
                unstored.close()
            with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.begin() as db:
                leases.release(db, None, self._holder)
        return outcomes

    @contextlib.contextmanager
    def _yielding(self) -> Iterator[None]:
        """Invalidate the leases if the run is interrupted, so that no read that this aborts is
        recorded as a day's failure."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            for running in self._running.values():
                running.lease.lose()
            raise

    def _start(self) -> list[DayResult]:
        """Start tasks whose lease is acquired; returns the results of tasks that other runs have
        completed or held too long."""
        now = self.monotonic()
        batch = self._next(self._pool.wanted, now)
        if not batch:
            return []
        tasks = [entry.task for entry in batch]
        try:
            with self.engine.begin() as db:
                wanted = [task.location_id for task in tasks]
                acquired = leases.acquire(db, wanted, self._holder, self.run_id, self.terms.lease)
                # After acquiring the leases, so that no other run completes a day in between.
                tasks = self._without_completed(db, tasks)
        except sa.exc.OperationalError as error:
            for entry in batch:
                self._retry_after_outage(error, entry)
            if not self._running:
                self.sleep(self.terms.poll)
            return []
        outcomes: list[DayResult] = []
        ours: list[_Entry] = []
        for entry, task in zip(batch, tasks, strict=True):
            entry.task = task
            if not task.days:
                outcomes += task.taken_over
                self._to_release.append(task.location_id)
            elif task.location_id in acquired:
                ours.append(entry)
            else:
                outcomes += self._keep_waiting(entry, now)
        # After acquiring the leases, so that no other run writes in between.
        reads = self.prepare([entry.task for entry in ours]) if ours else ()
        for entry, read in zip(ours, reads, strict=True):
            lease = Lease(now + self.terms.lease.total_seconds(), self.monotonic)
            future = self._pool.submit(partial(read, lease), lease.is_blocked)
            self._running[future] = _Running(entry, lease)
            entry.give_up_at = None
        return outcomes

    def _next(self, at_most: int, now: float) -> list[_Entry]:
        ready = [entry for entry in self._delayed if entry.not_before <= now][:at_most]
        for entry in ready:
            self._delayed.remove(entry)
        return ready + [_Entry(task) for task in self._source.take(at_most - len(ready))]

    def _without_completed(self, db: sa.Connection, tasks: Sequence[Task]) -> list[Task]:
        """The tasks without the days that other runs completed since this run was requested."""
        rows = ledger.completed_since(
            db,
            [(one.user.id, task.location_id) for task in tasks for one in task.connections],
            {day for task in tasks for day in task.days},
            self.since,
        )
        return [task.after(rows, self.since, self.zone) for task in tasks] if rows else list(tasks)

    def _keep_waiting(self, entry: _Entry, now: float) -> list[DayResult]:
        if entry.give_up_at is None:
            entry.give_up_at = now + self.terms.patience.total_seconds()
        if now < entry.give_up_at:
            self._delay(entry, now)
            return []
        location_id = entry.task.location_id
        with self.engine.begin() as db:
            holder = leases.holders(db, [location_id]).get(location_id)
        return [*entry.task.taken_over, *self.give_up(entry.task, holder)]

    def _delay(self, entry: _Entry, now: float) -> None:
        entry.not_before = now + self.terms.poll
        self._delayed.append(entry)

    def _retry_after_outage(self, error: sa.exc.OperationalError, entry: _Entry) -> None:
        """Requeue a task that failed because the database is unreachable.

        Raises:
            sqlalchemy.exc.OperationalError: it is reachable, or has been unreachable for too long.
        """
        now = self.monotonic()
        entry.away_since = now if entry.away_since is None else entry.away_since
        waited = now - entry.away_since
        if not is_unreachable(error) or waited >= self.terms.outage.total_seconds():
            raise error
        self._delay(entry, now)

    def _collect(self) -> list[DayResult]:
        """Results of finished workers; waits until a worker finishes or something else is due."""
        now = self.monotonic()
        due = [self._extended_at + self.terms.lease.total_seconds() / 3]
        if self._pool.wanted:
            due += [entry.not_before for entry in self._delayed]
        if self._unstored:
            due.append(self._store_at)
        timeout = max(min(due) - now, 0.0)
        outcomes: list[DayResult] = []
        if self._running:
            for future in self._pool.finished(timeout):
                outcomes += self._finish(future, self._running.pop(future).entry, now)
        elif not self._source.has_more and (self._delayed or not self._source.is_done):
            self.sleep(min(timeout, self.terms.poll))
        return outcomes

    def _finish(self, future: Future[Found[U]], entry: _Entry, now: float) -> list[DayResult]:
        try:
            found, unstored = future.result()
        except LeaseLostError:
            self._delay(entry, now)
        except sa.exc.OperationalError as error:
            self._retry_after_outage(error, entry)
        else:
            if unstored is not None:
                if not self._unstored:
                    self._store_at = now + self.terms.linger
                self._unstored.append((entry, found, unstored))
                return []
            self._to_release.append(entry.task.location_id)
            return found
        self._to_release.append(entry.task.location_id)
        return []

    def _store_batch(self) -> list[DayResult]:
        """Store the collected windows together, and release the leases that are done. Waits for a
        pool's worth or ``Terms.linger``, but not once the source has no more tasks: other runs may
        be waiting for the last locations."""
        finished = len(self._to_release) + len(self._unstored)
        is_due = bool(self._unstored) and self.monotonic() >= self._store_at
        if not is_due and self._source.has_more and finished < self.workers:
            return []
        batch, self._unstored = self._unstored, []
        outcomes: list[DayResult] = []
        try:
            if batch:
                outcomes += self.store([unstored for _, _, unstored in batch])
                outcomes += [outcome for _, found, _ in batch for outcome in found]
        except Exception as error:
            for entry, _, _ in batch:
                if isinstance(error, sa.exc.OperationalError) and is_unreachable(error):
                    self._retry_after_outage(error, entry)
                else:
                    # Re-read each on its own: the one at fault reports it, the others succeed.
                    entry.task = replace(entry.task, alone=True)
                    entry.not_before = self.monotonic()
                    self._delayed.append(entry)
        finally:
            for _, _, unstored in batch:
                unstored.close()
        self._to_release += [entry.task.location_id for entry, _, _ in batch]
        self._release()
        return outcomes

    def _extend(self) -> None:
        now = self.monotonic()
        duration = self.terms.lease.total_seconds()
        if now - self._extended_at < duration / 3:
            return
        self._extended_at = now
        silence = self.terms.silence.total_seconds()
        leases_held = {one.entry.task.location_id: one.lease for one in self._running.values()}
        alive = {name: one for name, one in leases_held.items() if not one.is_silent(silence)}
        self._source.keep(leases_held.keys() - alive.keys())
        if not alive:
            return
        # If the database is unreachable now, leases are lost only if it stays unreachable.
        with contextlib.suppress(sa.exc.OperationalError), self.engine.begin() as db:
            ours = leases.extend(db, alive, self._holder, self.terms.lease)
            for location_id, lease in alive.items():
                lease.extend(now + duration) if location_id in ours else lease.lose()

    def _release(self) -> None:
        if self._to_release:
            # A lease that cannot be released now is released with the next batch, or expires.
            with contextlib.suppress(sa.exc.OperationalError), self.engine.begin() as db:
                leases.release(db, self._to_release, self._holder)
                self._to_release.clear()

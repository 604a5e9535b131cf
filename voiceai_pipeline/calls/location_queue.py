"""Whose turn it is to read a location: one run at a time, whatever process or machine it is in.

Two runs that want the same days (a backfill and the schedule) share a location's rate limit and do
its work once: a run holds a lease on what it reads, does other locations while somebody else holds
this one, and takes over what the other has completed meanwhile. How a window is read is
``sync.py``; how many are read side by side, ``worker_pool.py``; what a lease is in the database,
``calls/leases.py``.

A lease lasts a minute and is prolonged while its reader gives signs of life, so a killed holder
delays others by a minute, a hung one by ``Terms.silence``. No connection is held while anybody
waits, and a database that restarts meanwhile costs what was under way, nothing else.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
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
from voiceai_pipeline.calls.worker_pool import WorkerPool
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.database.engine import is_away


@dataclass(frozen=True)
class Terms:
    """How patient turns are.

    Attributes:
        lease: how long a dead holder keeps others from its location; prolonged at a third of it.
        silence: a reader that finishes no request for so long hangs, and its lease runs out. Longer
            than a request with all its retries and the commit of a large window.
        patience: how long a location that others hold is waited for; longer than ``silence``, so
            that a hung holder is succeeded, not reported.
        outage: how long a database that is away is waited for; it restarts within seconds.
        look_again: seconds between two attempts to get a location, or the database.
        slow: seconds of waiting for an answer after which a reader's place is another's.
        together: seconds for which what was read may wait to be stored with others.
    """

    lease: timedelta = timedelta(minutes=1)
    silence: timedelta = timedelta(minutes=10)
    patience: timedelta = timedelta(minutes=30)
    outage: timedelta = timedelta(minutes=2)
    look_again: float = 2.0
    slow: float = 1.0
    together: float = 1.0


TERMS: Final = Terms()


@dataclass(frozen=True)
class Task:
    """What one run wants of one location.

    Attributes:
        known: (user, day) to be read though complete before (None: all): for them only a read that
            began since this run asked counts.
        taken_over: what others have completed since this run asked.
        alone: what is read is not to be stored with others.
    """

    location_id: str
    people: list[Connection]
    days: list[date]
    known: Collection[tuple[UUID, date]] | None = ()
    taken_over: tuple[DayResult, ...] = ()
    alone: bool = False

    def after(self, rows: Iterable[DayResult], since: datetime, zone: ZoneInfo) -> "Task":
        """What is left of it once others have read some of its days for all its users."""
        found = {
            (row.user.id, row.day): row
            for row in rows
            if row.location_id == self.location_id and self._counts(row, since, zone)
        }
        settled = [day for day in self.days if all((p.user.id, day) in found for p in self.people)]
        if not settled:
            return self
        rest = [day for day in self.days if day not in settled]
        theirs = tuple(found[p.user.id, day] for p in self.people for day in settled)
        return replace(self, days=rest, taken_over=(*self.taken_over, *theirs))

    def _counts(self, row: DayResult, since: datetime, zone: ZoneInfo) -> bool:
        if row.read_until is None or row.finished_at is None or row.started_at is None:
            return False
        to_be_new = self.known is None or (row.user.id, row.day) in self.known
        return (
            row.state is DayState.COMPLETE
            and row.finished_at > since
            and row.read_until >= min(Window.of_day(row.day, zone).end, since)
            and (row.started_at > since or not to_be_new)
        )


@dataclass
class _Waiting:
    task: Task
    not_before: float = 0.0
    give_up_at: float | None = None
    away_since: float | None = None


@dataclass
class _Reading:
    waiting: _Waiting
    lease: Lease


class Unsettled(Protocol):
    """What was read of a location and is not stored yet."""

    def close(self) -> None:
        """It is stored, or never will be."""


U = TypeVar("U", bound=Unsettled)

Found = tuple[list[DayResult], U | None]
"""What became of a location's days, and what is still to be stored of them."""


@dataclass
class LocationQueue(Generic[U]):
    """Reads locations side by side, each while nobody else does.

    Args:
        since: when this run was asked for (UTC).
        read: reads a location's days; runs in a thread and does each request within
            ``Lease.asking``.
        settle: stores what was read of some locations in one transaction.
        give_up: what becomes of days that others have held for too long.
    """

    engine: sa.Engine
    workers: int
    run_id: str | None
    since: datetime
    zone: ZoneInfo
    read: Callable[[Task, Lease], Found[U]]
    settle: Callable[[Sequence[U]], list[DayResult]]
    give_up: Callable[[Task, Holder | None], list[DayResult]]
    terms: Terms = TERMS
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _holder: UUID = field(default_factory=uuid4)
    _fresh: deque[_Waiting] = field(default_factory=deque)
    _resting: list[_Waiting] = field(default_factory=list)
    _readers: WorkerPool[Found[U]] = field(init=False)
    _under_way: dict[Future[Found[U]], _Reading] = field(default_factory=dict)
    _unsettled: list[tuple[_Waiting, list[DayResult], U]] = field(default_factory=list)
    _settle_at: float = 0.0
    _ended: list[str] = field(default_factory=list)
    _prolonged_at: float = 0.0

    def take(self, tasks: Iterable[Task]) -> list[DayResult]:
        """Read every location once it is this run's turn, and return what became of all days.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database stays away; whatever else ``read`` raises.
        """
        self._fresh.extend(_Waiting(task) for task in tasks)
        self._prolonged_at = self.monotonic()
        outcomes: list[DayResult] = []
        self._readers = WorkerPool(self.workers, self.terms.slow)
        try:
            while self._fresh or self._resting or self._under_way:
                outcomes += self._start()
                outcomes += self._collect()
                outcomes += self._settle()
                self._prolong()
        finally:
            # Readers that are under way end at their next request, if this takes longer than the
            # lease; what nobody has begun is left.
            self._readers.close()
            for _, _, unsettled in self._unsettled:
                unsettled.close()
            with contextlib.suppress(sa.exc.SQLAlchemyError), self.engine.begin() as db:
                leases.release(db, None, self._holder)
        return outcomes

    def _start(self) -> list[DayResult]:
        """Begin what nobody else is reading; results of what needs no reading any more."""
        now = self.monotonic()
        batch = self._next(self._readers.wanted, now)
        if not batch:
            return []
        tasks = [waiting.task for waiting in batch]
        try:
            with self.engine.begin() as db:
                places = [task.location_id for task in tasks]
                taken = leases.take(db, places, self._holder, self.run_id, self.terms.lease)
                # After the lease, so that nobody completes anything between the two.
                tasks = self._without_what_others_did(db, tasks)
        except sa.exc.OperationalError as error:
            for waiting in batch:
                self._bear(error, waiting)
            if not self._under_way:
                self.sleep(self.terms.look_again)
            return []
        outcomes: list[DayResult] = []
        for waiting, task in zip(batch, tasks, strict=True):
            waiting.task = task
            if not task.days:
                outcomes += task.taken_over
                self._ended.append(task.location_id)
            elif task.location_id in taken:
                lease = Lease(now + self.terms.lease.total_seconds(), self.monotonic)
                future = self._readers.begin(partial(self.read, task, lease), lease.has_been_asking)
                self._under_way[future] = _Reading(waiting, lease)
                waiting.give_up_at = None
            else:
                outcomes += self._wait_longer(waiting, now)
        return outcomes

    def _next(self, at_most: int, now: float) -> list[_Waiting]:
        rested = [waiting for waiting in self._resting if waiting.not_before <= now][:at_most]
        for waiting in rested:
            self._resting.remove(waiting)
        fresh = min(at_most - len(rested), len(self._fresh))
        return rested + [self._fresh.popleft() for _ in range(fresh)]

    def _without_what_others_did(self, db: sa.Connection, tasks: Sequence[Task]) -> list[Task]:
        rows = ledger.completed_since(
            db,
            [(person.user.id, task.location_id) for task in tasks for person in task.people],
            {day for task in tasks for day in task.days},
            self.since,
        )
        return [task.after(rows, self.since, self.zone) for task in tasks] if rows else list(tasks)

    def _wait_longer(self, waiting: _Waiting, now: float) -> list[DayResult]:
        if waiting.give_up_at is None:
            waiting.give_up_at = now + self.terms.patience.total_seconds()
        if now < waiting.give_up_at:
            self._rest(waiting, now)
            return []
        place = waiting.task.location_id
        with self.engine.begin() as db:
            holder = leases.holders(db, [place]).get(place)
        return [*waiting.task.taken_over, *self.give_up(waiting.task, holder)]

    def _rest(self, waiting: _Waiting, now: float) -> None:
        waiting.not_before = now + self.terms.look_again
        self._resting.append(waiting)

    def _bear(self, error: sa.exc.OperationalError, waiting: _Waiting) -> None:
        """The database is away: what was under way is begun again, by the ledger, when it is back.

        Raises:
            sqlalchemy.exc.OperationalError: it is not away, or has been for too long.
        """
        now = self.monotonic()
        waiting.away_since = now if waiting.away_since is None else waiting.away_since
        if not is_away(error) or now - waiting.away_since >= self.terms.outage.total_seconds():
            raise error
        self._rest(waiting, now)

    def _collect(self) -> list[DayResult]:
        """Results of what has ended, once something has or something else is due."""
        now = self.monotonic()
        due = [self._prolonged_at + self.terms.lease.total_seconds() / 3]
        if self._readers.wanted:
            due += [waiting.not_before for waiting in self._resting]
        if self._unsettled:
            due.append(self._settle_at)
        pause = max(min(due) - now, 0.0)
        outcomes: list[DayResult] = []
        if self._under_way:
            for future in self._readers.ended(pause):
                outcomes += self._end(future, self._under_way.pop(future).waiting, now)
        elif not self._fresh and self._resting:
            self.sleep(pause)
        return outcomes

    def _end(self, future: Future[Found[U]], waiting: _Waiting, now: float) -> list[DayResult]:
        try:
            found, unsettled = future.result()
        except LeaseLostError:
            self._rest(waiting, now)
        except sa.exc.OperationalError as error:
            self._bear(error, waiting)
        else:
            if unsettled is not None:
                if not self._unsettled:
                    self._settle_at = now + self.terms.together
                self._unsettled.append((waiting, found, unsettled))
                return []
            self._ended.append(waiting.task.location_id)
            return found
        self._ended.append(waiting.task.location_id)
        return []

    def _settle(self) -> list[DayResult]:
        """Store what was read, and let others read it: together, as it was begun; at once where
        somebody may be waiting for the last of it."""
        settled = len(self._ended) + len(self._unsettled)
        is_due = bool(self._unsettled) and self.monotonic() >= self._settle_at
        if not is_due and self._fresh and settled < self.workers:
            return []
        batch, self._unsettled = self._unsettled, []
        outcomes: list[DayResult] = []
        try:
            if batch:
                outcomes += self.settle([unsettled for _, _, unsettled in batch])
                outcomes += [outcome for _, found, _ in batch for outcome in found]
        except Exception as error:
            for waiting, _, _ in batch:
                if isinstance(error, sa.exc.OperationalError) and is_away(error):
                    self._bear(error, waiting)
                else:
                    # Whoever it is about says so when it is read again; the others are unharmed.
                    waiting.task = replace(waiting.task, alone=True)
                    waiting.not_before = self.monotonic()
                    self._resting.append(waiting)
        finally:
            for _, _, unsettled in batch:
                unsettled.close()
        self._ended += [waiting.task.location_id for waiting, _, _ in batch]
        self._release()
        return outcomes

    def _prolong(self) -> None:
        now = self.monotonic()
        lasting = self.terms.lease.total_seconds()
        if now - self._prolonged_at < lasting / 3:
            return
        self._prolonged_at = now
        silence = self.terms.silence.total_seconds()
        alive: Mapping[str, Lease] = {
            reading.waiting.task.location_id: reading.lease
            for reading in self._under_way.values()
            if not reading.lease.has_been_silent(silence)
        }
        if not alive:
            return
        # A database that is away for a moment costs the lease only if it stays away.
        with contextlib.suppress(sa.exc.OperationalError), self.engine.begin() as db:
            ours = leases.prolong(db, alive, self._holder, self.terms.lease)
            for place, lease in alive.items():
                lease.prolong(now + lasting) if place in ours else lease.lose()

    def _release(self) -> None:
        if self._ended:
            # One that cannot be released now is with the next, or ends by itself.
            with contextlib.suppress(sa.exc.OperationalError), self.engine.begin() as db:
                leases.release(db, self._ended, self._holder)
                self._ended.clear()

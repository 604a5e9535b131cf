"""From a range of days to a true ledger: complete read, verified write, honest status.

Users who share a location share one read. Every location is on its own: whatever happens to one
touches no other. Calls, ledger and ``sync_status`` of a window commit together, so a killed process
leaves the old state or the new one, never a mix.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import partial
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store, day_status, ledger
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.lease import Lease, LeaseLostError
from voiceai_pipeline.calls.leases import Holder
from voiceai_pipeline.calls.location_queue import TERMS, LocationQueue, Task, Terms
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.shared_location import AllRefusedError, read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import (
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import asking, database_error, is_away, read_clock
from voiceai_pipeline.highlevel.calls import Page, call_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.window import WindowRead, read_window

log = logging.getLogger(__name__)

WORKERS: Final = 16
"""Locations read side by side: the work waits for the network. At 50 ms a request they keep a
processor busy; 32 end no sooner there and take 40 MB more. Tenants that answer slowly do not count
(``worker_pool.py``)."""

_OF_A_DAY: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.MALFORMED,
        FailureClass.INCOMPLETE,
        FailureClass.UNKNOWN_ANSWER,
    }
)
"""Failures that one bad day can cause: the other days of the range are then read one by one."""

_OUTAGE: Final = PROVIDER_FAILURES - {FailureClass.RATE_LIMITED}
"""Failures that are waited for: once in vain, and the days after it only ask whether it is over."""


class Mode(StrEnum):
    """Which users of a day are read."""

    RESUME = "resume"
    """Those without a complete day; if everybody is complete, everybody again."""
    ONLY_FAILED = "only_failed"
    """Those without a complete day, and nobody else."""
    REREAD = "reread"
    """Everybody: late summaries and vanished calls show only when a day is read again."""


class SyncRequestError(ValueError):
    """What was asked for makes no sense; the text says why and what to write instead."""


class Sync:
    """Syncs days of users into PostgreSQL.

    Args:
        zone: whose days are the partitions.
        now: replaces the database's clock where time is simulated; aware UTC.
        terms: how long a location that another run reads is waited for.
    """

    def __init__(
        self,
        engine: sa.Engine,
        tokens: Tokens,
        client: HighLevelClient,
        zone: ZoneInfo,
        *,
        now: Callable[[], datetime] | None = None,
        workers: int = WORKERS,
        terms: Terms = TERMS,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._client = client
        self._zone = zone
        self._now = now
        self._workers = workers
        self._terms = terms

    def sync_days(
        self,
        days: Collection[date],
        *,
        user_ids: Sequence[UUID] | None = None,
        mode: Mode = Mode.RESUME,
        run_id: str | None = None,
    ) -> list[DayResult]:
        """Sync some days of some users (default: everyone) and return what became of each.

        A user's failure is a result, not an exception: nobody else is touched by it. Users whom no
        rerun can help get a WAITING row. Days already complete and not asked for again are absent
        from the result.

        Raises:
            UnknownUserError: naming every id that is no user.
            SyncRequestError: a day lies in the future, or there is none.
            PipelineError: DATABASE, if the ledger itself cannot be read or written.
        """
        try:
            return self._sync_days(sorted(set(days)), user_ids, mode, run_id)
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None

    def _sync_days(
        self, days: list[date], user_ids: Sequence[UUID] | None, mode: Mode, run_id: str | None
    ) -> list[DayResult]:
        now = self._clock()
        self._refuse_impossible(days, now)
        with self._engine.begin() as db:
            people = connections.all_connections(db, user_ids)
            # Day by day: of ten thousand users a month at once is a few hundred MB.
            done = set[tuple[UUID, date]]().union(
                *(
                    day_status.finished(
                        ledger.results(db, days=[day], user_ids=user_ids), people, self._zone
                    )
                    for day in days
                )
            )
        if user_ids is not None and (
            unknown := set(user_ids) - {person.user.id for person in people}
        ):
            raise UnknownUserError(
                f"No user with id {', '.join(sorted(map(str, unknown)))}. "
                "List the users with: voiceai-pipeline users"
            )
        # Who misses a re-read waits for it, complete or not: no total shows what came late.
        settled: set[tuple[UUID, date]] = set() if mode is Mode.REREAD else done
        outcomes = self._record_waiting(people, days, settled, now, run_id)
        turns = LocationQueue(
            self._engine,
            self._workers,
            run_id,
            since=now,
            zone=self._zone,
            read=lambda task, lease: self._sync_location(task, lease, run_id),
            settle=self._store,
            give_up=lambda task, holder: self._give_up(task, holder, run_id),
            terms=self._terms,
        )
        known = None if mode is Mode.REREAD else done
        outcomes += turns.take(
            Task(location_id, users, needed, known)
            for location_id, (users, needed) in _wanted(people, days, done, mode).items()
        )
        return sorted(outcomes, key=lambda o: (o.user.name, str(o.user.id), o.day))

    def _clock(self) -> datetime:
        with asking(self._engine) as db:
            return read_clock(db, self._now)

    def _refuse_impossible(self, days: list[date], now: datetime) -> None:
        if not days:
            raise SyncRequestError("No day was given: the start lies after the end.")
        today = now.astimezone(self._zone).date()
        if days[-1] > today:
            raise SyncRequestError(
                f"{days[-1]} lies in the future; the last day that can be synced is today, {today}."
            )

    def _record_waiting(
        self,
        people: Iterable[Connection],
        days: Sequence[date],
        settled: set[tuple[UUID, date]],
        now: datetime,
        run_id: str | None,
    ) -> list[DayResult]:
        waiting = [
            DayResult(
                user=person.user,
                location_id=person.location_id or "",
                day=day,
                state=DayState.WAITING,
                failure=person.obstacle,
                message=person.message,
                started_at=now,
                finished_at=now,
            )
            for person in people
            if not person.can_sync
            for day in days
            if (person.user.id, day) not in settled
        ]
        with self._engine.begin() as db:
            self._record(db, waiting, waiting, run_id)
        return waiting

    def _sync_location(
        self, task: Task, lease: Lease, run_id: str | None
    ) -> "tuple[list[DayResult], _Verified | None]":
        """Sync a location's days, for all its users; never raises but for a lost database or
        lease.

        Returns:
            What became of its days; and its last window, if so little in it is new that it is
            better stored together with others.
        """
        progress = _Progress(list(task.taken_over))
        windows = stretches(task.days)
        for number, stretch in enumerate(windows, 1):
            progress.may_wait = number == len(windows) and not task.alone
            self._sync_stretch(task, stretch, lease, run_id, progress)
        return progress.outcomes, progress.waiting

    def _give_up(self, task: Task, holder: Holder | None, run_id: str | None) -> list[DayResult]:
        """Days that another run has been reading for so long that nobody knows what becomes of
        them."""
        who = f"run {holder.run_id}, since {holder.taken_at:%Y-%m-%d %H:%M} UTC" if holder else ""
        busy = PipelineError(FailureClass.BUSY, who)
        now = self._clock()
        attempt = _Attempt(task.location_id, task.people, task.days, now, run_id, task.taken_over)
        return self._store_failure(attempt, {person.user.id: busy for person in task.people})

    def _sync_stretch(
        self,
        task: Task,
        days: list[date],
        lease: Lease,
        run_id: str | None,
        progress: "_Progress",
    ) -> None:
        """Sync consecutive days as one window; if a single day may be at fault, day by day."""
        lease.check()
        people, started_at, before = task.people, self._clock(), tuple(progress.outcomes)
        attempt = _Attempt(task.location_id, people, days, started_at, run_id, before)
        try:
            self._read_and_store(attempt, lease, progress)
            return
        except LeaseLostError:
            raise
        except PipelineError as error:
            failure = error
        except sa.exc.SQLAlchemyError as error:
            if is_away(error):
                raise  # nothing could be written about it either
            failure = database_error(error)
        except Exception as error:
            failure = unexpected(error)
        if len(days) > 1 and failure.failure in _OF_A_DAY:
            progress.may_wait = False
            for day in days:
                self._sync_stretch(task, [day], lease, run_id, progress)
            return
        lease.check()  # whoever reads now knows better than this failure
        if failure.failure is FailureClass.LOCATION_PAUSED:
            for person in people:
                self._tokens.report(person.user.id, failure.failure)
        failures = dict.fromkeys((person.user.id for person in people), failure)
        progress.outcomes += self._store_failure(attempt, failures)

    def _read_and_store(self, attempt: "_Attempt", lease: Lease, progress: "_Progress") -> None:
        days = [Window.of_day(day, self._zone) for day in attempt.days]
        window = Window(days[0].start, min(days[-1].end, attempt.started_at))
        refused: dict[UUID, PipelineError] = {}
        new_intake = partial(
            Intake,
            self._engine,
            attempt.location_id,
            [day.start for day in days],
            call_of,
            self._tokens.vault.call_fingerprint,
            attempt.started_at,
        )
        with ExitStack() as stack:
            reading = stack.enter_context(closing(_Reading(new_intake, days)))
            try:
                read = read_with_any(
                    attempt.people,
                    lambda user: self._read(user.user.id, attempt, window, reading, lease),
                    refused,
                )
            except AllRefusedError:
                progress.outcomes += self._store_failure(attempt, refused)
                return
            verified = _Verified(attempt, window, read, reading, refused)
            if progress.may_wait and reading.intake.is_light:
                progress.waiting = verified
                stack.pop_all()  # whoever settles it closes it
            else:
                progress.outcomes += self._store([verified])

    def _read(
        self,
        user_id: UUID,
        attempt: "_Attempt",
        window: Window,
        reading: "_Reading",
        lease: Lease,
    ) -> WindowRead:
        spend = self._tokens.spender(user_id)
        client = self._client.asking_once() if attempt.in_outage else self._client

        def fetch(start: datetime, end: datetime, page: int) -> Page:
            with lease.asking():
                return spend(
                    lambda token: client.call_logs_page(
                        token, attempt.location_id, start, end, page
                    )
                )

        read = read_window(fetch, window, reading.begin)
        reading.intake.finish(window.end, read.set_aside)
        return read

    def _store(self, reads: "Sequence[_Verified]") -> list[DayResult]:
        """Commit calls, ledger and status of verified reads together, of one run and of a location
        each.

        Raises:
            PipelineError: INCOMPLETE, with nothing written, if the table does not hold what was
                read (REQUIREMENTS S6).
        """
        outcomes: list[DayResult] = []
        with self._engine.begin() as db:
            call_store.lock_locations(db, [one.attempt.location_id for one in reads])
            finished_at = read_clock(db, self._now)
            stored = call_store.store(db, [one.reading.intake for one in reads], finished_at)
            for one, written in zip(reads, stored, strict=True):
                outcomes += one.outcomes(written, finished_at)
            before = [outcome for one in reads for outcome in one.attempt.before]
            self._record(db, outcomes, (*before, *outcomes), reads[0].attempt.run_id)
        return outcomes

    def _store_failure(
        self, attempt: "_Attempt", refused: dict[UUID, PipelineError]
    ) -> list[DayResult]:
        outcomes = attempt.failures(refused, self._clock())
        with self._engine.begin() as db:
            self._record(db, outcomes, (*attempt.before, *outcomes), attempt.run_id)
        for error in {error.message: error for error in refused.values()}.values():
            log.warning("location %s: %s", attempt.location_id, error.message)
        return outcomes

    @staticmethod
    def _record(
        db: sa.Connection,
        outcomes: Sequence[DayResult],
        so_far: Sequence[DayResult],
        run_id: str | None,
    ) -> None:
        """Ledger rows for ``outcomes``; each user's status from all of this sync so far."""
        ledger.lock_users(db, {outcome.user.id for outcome in outcomes})
        ledger.record(db, outcomes, run_id)
        by_user: defaultdict[UUID, list[DayResult]] = defaultdict(list)
        for outcome in so_far:
            by_user[outcome.user.id].append(outcome)
        concerned = {outcome.user.id for outcome in outcomes}
        ledger.record_statuses(db, {user: _status(by_user[user]) for user in concerned})

    def report(self, days: Collection[date]) -> list[DayReport]:
        """How days stand for everyone, from the ledger and today's connections.

        Raises:
            PipelineError: DATABASE.
        """
        try:
            with self._engine.begin() as db:
                people = connections.all_connections(db)
                now = read_clock(db, self._now)
                # Day by day: of ten thousand users a month at once is a few hundred MB.
                return [
                    report
                    for day in sorted(days)
                    for report in day_status.report(
                        [day], ledger.results(db, days=[day]), people, self._zone, now
                    )
                ]
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None


@dataclass(frozen=True)
class _Attempt:
    """One window of one location: what is tried for whom, and what this sync did before."""

    location_id: str
    people: list[Connection]
    days: list[date]
    started_at: datetime
    run_id: str | None
    before: tuple[DayResult, ...]

    @property
    def in_outage(self) -> bool:
        """HighLevel did not work for the days just before these."""
        return bool(self.before) and self.before[-1].failure in _OUTAGE

    def failures(
        self, refused: dict[UUID, PipelineError], finished_at: datetime
    ) -> list[DayResult]:
        return [
            DayResult(
                user=person.user,
                location_id=self.location_id,
                day=day,
                state=DayState.WAITING if error.failure.needs_action else DayState.FAILED,
                failure=error.failure,
                message=f"{error.message}. Fix: {error.failure.explanation.fix}",
                started_at=self.started_at,
                finished_at=finished_at,
            )
            for person in self.people
            if (error := refused.get(person.user.id)) is not None
            for day in self.days
        ]


@dataclass
class _Progress:
    """How far a location's days are.

    Attributes:
        outcomes: of the days that are done.
        may_wait: whether a window in which little is new may be left for later.
        waiting: one that was.
    """

    outcomes: list[DayResult]
    may_wait: bool = False
    waiting: "_Verified | None" = None


@dataclass(frozen=True)
class _Verified:
    """A window that was read completely, and is to be stored.

    Attributes:
        refused: whose credentials did not read it.
    """

    attempt: _Attempt
    window: Window
    read: WindowRead
    reading: "_Reading"
    refused: dict[UUID, PipelineError]

    def close(self) -> None:
        self.reading.close()

    def outcomes(self, written: Written, finished_at: datetime) -> list[DayResult]:
        """What became of its days.

        Raises:
            PipelineError: INCOMPLETE, if the table does not hold what was read.
        """
        attempt, reading = self.attempt, self.reading
        listed = reading.intake.listed
        for day, count, stored in zip(attempt.days, listed, written.stored, strict=True):
            if stored != count:
                raise PipelineError(
                    FailureClass.INCOMPLETE, f"{day}: {count} calls read, {stored} stored"
                )
        aside = reading.count(c.started_at or self.window.start for c in self.read.set_aside)
        complete = [
            DayResult(
                user=person.user,
                location_id=attempt.location_id,
                day=day,
                state=DayState.COMPLETE,
                read_until=min(end, self.window.end),
                api_total=listed[n] + aside[n],
                stored=written.stored[n],
                new=written.new[n],
                changed=written.changed[n],
                missing=written.missing[n],
                set_aside=aside[n],
                unknown_actions=reading.unknown_actions[n],
                pages=self.read.pages,
                started_at=attempt.started_at,
                finished_at=finished_at,
            )
            for person in attempt.people
            if person.user.id not in self.refused
            for n, (day, end) in enumerate(zip(attempt.days, reading.ends, strict=True))
        ]
        return complete + attempt.failures(self.refused, finished_at)


class _Reading:
    """What a read of some days has brought so far: calls on their way into the table, and
    counts by day. A read that begins anew starts from nothing.

    Attributes:
        ends: of the days, UTC.
        unknown_actions: of undocumented types, by day.
    """

    def __init__(self, new_intake: Callable[[], Intake], days: Sequence[Window]) -> None:
        self._new_intake = new_intake
        self.ends = [day.end for day in days]
        self._reset()

    def _reset(self) -> None:
        self.unknown_actions = [0] * len(self.ends)
        self.intake = self._new_intake()

    def close(self) -> None:
        self.intake.close()

    def begin(self) -> Callable[[list[ListedCall]], None]:
        self.close()
        self._reset()
        return self._take

    def _take(self, listed: list[ListedCall]) -> None:
        for call in listed:
            if call.unknown_actions:
                self.unknown_actions[self.intake.part_of(call.started_at)] += call.unknown_actions
        self.intake.take(listed)

    def count(self, instants: Iterable[datetime]) -> list[int]:
        """How many of them lie in each day."""
        counts = [0] * len(self.ends)
        for instant in instants:
            counts[self.intake.part_of(instant)] += 1
        return counts


def _wanted(
    people: Iterable[Connection], days: Sequence[date], done: set[tuple[UUID, date]], mode: Mode
) -> dict[str, tuple[list[Connection], list[date]]]:
    """Which days of which locations to read, and for whom."""
    places = connections.by_location(people)
    able = [person.user.id for group in places.values() for person in group]
    green = {day for day in days if all((user_id, day) in done for user_id in able)}

    def is_wanted(person: Connection, day: date) -> bool:
        return (
            mode is Mode.REREAD
            or (person.user.id, day) not in done
            or (mode is Mode.RESUME and day in green)
        )

    wanted = {
        location_id: (group, [d for d in days if any(is_wanted(person, d) for person in group)])
        for location_id, group in places.items()
    }
    return {
        location_id: (group, needed) for location_id, (group, needed) in wanted.items() if needed
    }


def _status(outcomes: Sequence[DayResult]) -> ledger.UserStatus:
    """A user's ``sync_status`` after these days: success only if every one is complete."""
    unfinished = [outcome for outcome in outcomes if outcome.state is not DayState.COMPLETE]
    stored = sum(outcome.stored or 0 for outcome in outcomes)
    span = f"{len(outcomes)} day{'s' if len(outcomes) != 1 else ''}"
    if unfinished:
        message = unfinished[-1].message
        if len(unfinished) < len(outcomes):
            message = f"{message} ({len(unfinished)} of {span}, latest {unfinished[-1].day})"
    else:
        new, changed = (sum(getattr(o, name) for o in outcomes) for name in ("new", "changed"))
        message = f"Synced {span}: {stored} calls, {new} new, {changed} changed"
    return ledger.UserStatus(
        last_sync_at=max((o.finished_at for o in outcomes if o.finished_at), default=None),
        status="failure" if unfinished else "success",
        message=message,
        records_synced=stored,
    )

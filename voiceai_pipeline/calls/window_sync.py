"""Reads and stores the days of one location: consecutive days as one window, and day by day where a
single day may be at fault.

Calls, ledger rows and ``sync_status`` of a window commit together, so a killed process leaves the
old state or the new one, never a mix. Which locations are read, and when, is decided by ``sync``
and ``location_queue``.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store, ledger
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.lease import Lease, LeaseLostError
from voiceai_pipeline.calls.leases import Holder
from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.connections.shared_location import AllRefusedError, read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import autocommit, database_error, is_unreachable, read_clock
from voiceai_pipeline.highlevel.calls import Page, call_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.window import WindowRead, read_window

log = logging.getLogger(__name__)

_OF_A_DAY: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.MALFORMED,
        FailureClass.INCOMPLETE,
        FailureClass.UNKNOWN_ANSWER,
    }
)
"""Failures that one bad day can cause: the window is then read day by day."""

_OUTAGE: Final = PROVIDER_FAILURES - {FailureClass.RATE_LIMITED}
"""Failures that retries wait for. After one that all retries did not outlast, each further day is
requested only once, to see whether the outage is over."""


class WindowSync:
    """Syncs the days of locations for one run; used by many worker threads at once.

    Args:
        zone: the time zone of the days.
        run_id: recorded in the ledger.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        tokens: Tokens,
        client: HighLevelClient,
        zone: ZoneInfo,
        run_id: str | None,
        now: Callable[[], datetime] | None,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._client = client
        self._zone = zone
        self._run_id = run_id
        self._now = now

    def sync_location(
        self, task: Task, lease: Lease
    ) -> "tuple[list[DayResult], VerifiedWindow | None]":
        """Sync a location's days for all its users.

        Returns:
            The results of its days; and its last window, if so little in it is new that it is
            better stored together with others.

        Raises:
            LeaseLostError: the lease expired.
            sqlalchemy.exc.OperationalError: the database is unreachable.
        """
        progress = _Progress(list(task.taken_over))
        windows = stretches(task.days)
        for number, days in enumerate(windows, 1):
            progress.may_defer = number == len(windows) and not task.alone
            self._sync_window(task, days, lease, progress)
        return progress.outcomes, progress.deferred

    def give_up(self, task: Task, holder: Holder | None) -> list[DayResult]:
        """Record days as BUSY that another run has been reading for too long."""
        who = f"run {holder.run_id}, since {holder.taken_at:%Y-%m-%d %H:%M} UTC" if holder else ""
        busy = PipelineError(FailureClass.BUSY, who)
        attempt = _Attempt(
            task.location_id, task.connections, task.days, self._clock(), task.taken_over
        )
        return self._store_failure(attempt, {one.user.id: busy for one in task.connections})

    def store(self, windows: "Sequence[VerifiedWindow]") -> list[DayResult]:
        """Commit calls, ledger rows and statuses of verified windows together.

        Args:
            windows: at most one of each location.

        Raises:
            PipelineError: INCOMPLETE, with nothing written, if the table does not hold what was
                read (REQUIREMENTS S6).
        """
        outcomes: list[DayResult] = []
        with self._engine.begin() as db:
            call_store.lock_locations(db, [one.attempt.location_id for one in windows])
            finished_at = read_clock(db, self._now)
            stored = call_store.store(db, [one.intake.calls for one in windows], finished_at)
            for one, written in zip(windows, stored, strict=True):
                outcomes += one.outcomes(written, finished_at)
            before = [outcome for one in windows for outcome in one.attempt.before]
            ledger.record_with_statuses(db, outcomes, (*before, *outcomes), self._run_id)
        return outcomes

    def _sync_window(
        self, task: Task, days: list[date], lease: Lease, progress: "_Progress"
    ) -> None:
        """Sync consecutive days as one window; day by day if a single day may be at fault."""
        lease.check()
        connections, started_at = task.connections, self._clock()
        attempt = _Attempt(
            task.location_id, connections, days, started_at, tuple(progress.outcomes)
        )
        try:
            self._read_and_store(attempt, lease, progress)
            return
        except LeaseLostError:
            raise
        except PipelineError as error:
            failure = error
        except sa.exc.SQLAlchemyError as error:
            if is_unreachable(error):
                raise  # the failure could not be recorded either
            failure = database_error(error)
        except Exception as error:
            failure = unexpected(error)
        if len(days) > 1 and failure.failure in _OF_A_DAY:
            progress.may_defer = False
            for day in days:
                self._sync_window(task, [day], lease, progress)
            return
        lease.check()  # a run that has taken over the lease knows more than this failure
        if failure.failure is FailureClass.LOCATION_PAUSED:
            for one in connections:
                self._tokens.report(one.user.id, failure.failure)
        failures = dict.fromkeys((one.user.id for one in connections), failure)
        progress.outcomes += self._store_failure(attempt, failures)

    def _read_and_store(self, attempt: "_Attempt", lease: Lease, progress: "_Progress") -> None:
        days = [Window.of_day(day, self._zone) for day in attempt.days]
        window = Window(days[0].start, min(days[-1].end, attempt.started_at))
        refused: dict[UUID, PipelineError] = {}
        new_calls = partial(
            Intake,
            self._engine,
            attempt.location_id,
            [day.start for day in days],
            call_of,
            self._tokens.vault.call_fingerprint,
            attempt.started_at,
        )
        with ExitStack() as stack:
            intake = stack.enter_context(closing(_DayIntake(new_calls, days)))
            try:
                read = read_with_any(
                    attempt.connections,
                    lambda one: self._read(one.user.id, attempt, window, intake, lease),
                    refused,
                )
            except AllRefusedError:
                progress.outcomes += self._store_failure(attempt, refused)
                return
            verified = VerifiedWindow(attempt, window, read, intake, refused)
            if progress.may_defer and intake.calls.is_light:
                progress.deferred = verified
                stack.pop_all()  # whatever stores it closes it
            else:
                progress.outcomes += self.store([verified])

    def _read(
        self,
        user_id: UUID,
        attempt: "_Attempt",
        window: Window,
        intake: "_DayIntake",
        lease: Lease,
    ) -> WindowRead:
        spend = self._tokens.spender(user_id)
        client = self._client.without_retries() if attempt.in_outage else self._client

        def fetch(start: datetime, end: datetime, page: int) -> Page:
            with lease.requesting():
                return spend(
                    lambda token: client.call_logs_page(
                        token, attempt.location_id, start, end, page
                    )
                )

        read = read_window(fetch, window, intake.start)
        intake.calls.finish(window.end, read.set_aside)
        return read

    def _store_failure(
        self, attempt: "_Attempt", refused: dict[UUID, PipelineError]
    ) -> list[DayResult]:
        outcomes = attempt.failures(refused, self._clock())
        with self._engine.begin() as db:
            ledger.record_with_statuses(db, outcomes, (*attempt.before, *outcomes), self._run_id)
        for error in {error.message: error for error in refused.values()}.values():
            log.warning("location %s: %s", attempt.location_id, error.message)
        return outcomes

    def _clock(self) -> datetime:
        with autocommit(self._engine) as db:
            return read_clock(db, self._now)


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a window of a location.

    Attributes:
        before: results of the location's days that this run synced before.
    """

    location_id: str
    connections: list[Connection]
    days: list[date]
    started_at: datetime
    before: tuple[DayResult, ...]

    @property
    def in_outage(self) -> bool:
        """Whether HighLevel did not work for the previous days."""
        return bool(self.before) and self.before[-1].failure in _OUTAGE

    def failures(
        self, refused: dict[UUID, PipelineError], finished_at: datetime
    ) -> list[DayResult]:
        return [
            DayResult(
                user=one.user,
                location_id=self.location_id,
                day=day,
                state=DayState.WAITING if error.failure.needs_action else DayState.FAILED,
                failure=error.failure,
                message=f"{error.message}. Fix: {error.failure.explanation.fix}",
                started_at=self.started_at,
                finished_at=finished_at,
            )
            for one in self.connections
            if (error := refused.get(one.user.id)) is not None
            for day in self.days
        ]


@dataclass
class _Progress:
    """How far a location's days are.

    Attributes:
        outcomes: of the days that are done.
        may_defer: whether a window with little new in it may be stored later.
        deferred: a window that is.
    """

    outcomes: list[DayResult]
    may_defer: bool = False
    deferred: "VerifiedWindow | None" = None


@dataclass(frozen=True)
class VerifiedWindow:
    """A window that was read completely and is to be stored.

    Attributes:
        refused: users whose credentials could not read it.
    """

    attempt: _Attempt
    window: Window
    read: WindowRead
    intake: "_DayIntake"
    refused: dict[UUID, PipelineError]

    def close(self) -> None:
        self.intake.close()

    def outcomes(self, written: Written, finished_at: datetime) -> list[DayResult]:
        """The results of its days.

        Raises:
            PipelineError: INCOMPLETE, if the table does not hold what was read.
        """
        attempt, intake = self.attempt, self.intake
        listed = intake.calls.listed
        for day, count, stored in zip(attempt.days, listed, written.stored, strict=True):
            if stored != count:
                raise PipelineError(
                    FailureClass.INCOMPLETE, f"{day}: {count} calls read, {stored} stored"
                )
        aside = intake.count(c.started_at or self.window.start for c in self.read.set_aside)
        complete = [
            DayResult(
                user=one.user,
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
                unknown_actions=intake.unknown_actions[n],
                pages=self.read.pages,
                started_at=attempt.started_at,
                finished_at=finished_at,
            )
            for one in attempt.connections
            if one.user.id not in self.refused
            for n, (day, end) in enumerate(zip(attempt.days, intake.ends, strict=True))
        ]
        return complete + attempt.failures(self.refused, finished_at)


class _DayIntake:
    """What a read of some days has brought in so far: calls on their way into the table, and counts
    by day. A read that restarts starts from nothing.

    Attributes:
        ends: of the days (UTC).
        unknown_actions: call actions of undocumented types, by day.
    """

    def __init__(self, new_calls: Callable[[], Intake], days: Sequence[Window]) -> None:
        self._new_calls = new_calls
        self.ends = [day.end for day in days]
        self._reset()

    def _reset(self) -> None:
        self.unknown_actions = [0] * len(self.ends)
        self.calls = self._new_calls()

    def close(self) -> None:
        self.calls.close()

    def start(self) -> Callable[[list[ListedCall]], None]:
        """Start or restart the read; returns what takes its calls."""
        self.close()
        self._reset()
        return self._take

    def _take(self, listed: list[ListedCall]) -> None:
        for call in listed:
            if call.unknown_actions:
                self.unknown_actions[self.calls.part_of(call.started_at)] += call.unknown_actions
        self.calls.take(listed)

    def count(self, instants: Iterable[datetime]) -> list[int]:
        """How many instants fall on each day."""
        counts = [0] * len(self.ends)
        for instant in instants:
            counts[self.calls.part_of(instant)] += 1
        return counts

"""Reads and stores the days of one location: consecutive days as one window, or day by day after a
failure that a single day may have caused.

Calls, ledger rows and ``sync_status`` of a window commit together, so a killed process leaves the
old state or the new one, never a mix. ``sync`` and ``location_queue`` decide which locations are
read, and when.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store, ledger
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.lease import Lease, LeaseLostError
from voiceai_pipeline.calls.leases import Holder
from voiceai_pipeline.calls.location_queue import Found, Task
from voiceai_pipeline.calls.read_ahead import LocationAhead, ReadsAhead
from voiceai_pipeline.calls.verified_window import Attempt, DayIntake, VerifiedWindow
from voiceai_pipeline.calls.window_reader import read_with
from voiceai_pipeline.connections.shared_location import AllRefusedError, read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.days import DayResult, Window, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import (
    database_error,
    is_of_data,
    is_unreachable,
    read_clock,
)
from voiceai_pipeline.database.shared_clock import SharedClock
from voiceai_pipeline.highlevel.calls import call_of
from voiceai_pipeline.highlevel.client import HighLevelClient

log = logging.getLogger(__name__)

_OF_A_DAY: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.MALFORMED,
        FailureClass.INCOMPLETE,
        FailureClass.UNKNOWN_ANSWER,
        FailureClass.UNSTORABLE,
        FailureClass.INTERNAL,
    }
)
"""Failures that one bad day can cause: the window is then read day by day."""


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
        self._clock = SharedClock(engine, now)
        self._reads_ahead = ReadsAhead(engine, tokens, self._clock, zone)

    def prepare(self, tasks: Sequence[Task]) -> list[Callable[[Lease], Found[VerifiedWindow]]]:
        """For each of these tasks, a function that syncs its location. What they first need from
        the database is read for all of them at once."""
        ahead = self._reads_ahead.of(tasks)
        return [partial(self.sync_location, task, ahead.get(task.location_id)) for task in tasks]

    def sync_location(
        self, task: Task, ahead: LocationAhead | None, lease: Lease
    ) -> Found[VerifiedWindow]:
        """Sync a location's days for all its users.

        Args:
            ahead: what was read ahead for the location, if anything.

        Returns:
            The results of the days that are done, and the last window if it is still to be stored:
            it has so little to write that it is better stored together with others.

        Raises:
            LeaseLostError: the lease expired.
            sqlalchemy.exc.OperationalError: the database is unreachable.
        """
        progress = _Progress(list(task.taken_over))
        windows = stretches(task.days)
        for number, days in enumerate(windows, 1):
            progress.may_defer = number == len(windows) and not task.alone
            self._sync_window(task, days, lease, progress, ahead if number == 1 else None)
        return progress.outcomes, progress.deferred

    def give_up(self, task: Task, holder: Holder | None) -> list[DayResult]:
        """Record days as BUSY that another run has been reading for too long."""
        who = f"run {holder.run_id}, since {holder.taken_at:%Y-%m-%d %H:%M} UTC" if holder else ""
        busy = PipelineError(FailureClass.BUSY, who)
        attempt = Attempt(
            task.location_id, task.connections, task.days, self._clock.now(), task.taken_over
        )
        return self._store_failure(attempt, {one.user.id: busy for one in task.connections})

    def store(self, windows: Sequence[VerifiedWindow]) -> list[DayResult]:
        """Commit calls, ledger rows and statuses of verified windows together.

        A call that the database refuses is set aside if its window is stored alone.

        Args:
            windows: at most one of each location.

        Raises:
            PipelineError: INCOMPLETE, with nothing written, if the table does not hold what was
                read (REQUIREMENTS S6).
        """
        try:
            return self._store(windows)
        except sa.exc.DBAPIError as error:
            if len(windows) > 1 or not is_of_data(error):
                raise
            with self._engine.begin() as db:
                refused = call_store.refused(db, windows[0].intake.calls, read_clock(db, self._now))
            if not refused:
                raise
            windows[0].intake.calls.refuse(refused)
            return self._store(windows)

    def _store(self, windows: Sequence[VerifiedWindow]) -> list[DayResult]:
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
        self,
        task: Task,
        days: list[date],
        lease: Lease,
        progress: "_Progress",
        ahead: LocationAhead | None = None,
    ) -> None:
        """Sync consecutive days as one window; day by day if a single day may be at fault."""
        lease.check()
        if ahead is not None and not ahead.is_fresh:
            ahead = None
        connections = task.connections
        started_at = ahead.started_at if ahead else self._clock.now()
        attempt = Attempt(task.location_id, connections, days, started_at, tuple(progress.outcomes))
        try:
            self._read_and_store(attempt, lease, progress, ahead)
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
        lease.check()  # if another run has taken over the location, this failure is outdated
        if failure.failure is FailureClass.LOCATION_PAUSED:
            for one in connections:
                self._tokens.report(one.user.id, failure.failure)
        failures = dict.fromkeys((one.user.id for one in connections), failure)
        progress.outcomes += self._store_failure(attempt, failures)

    def _read_and_store(
        self,
        attempt: Attempt,
        lease: Lease,
        progress: "_Progress",
        ahead: LocationAhead | None,
    ) -> None:
        days = [Window.of_day(day, self._zone) for day in attempt.days]
        window = Window(days[0].start, min(days[-1].end, attempt.started_at))
        refused: dict[UUID, PipelineError] = {}
        client = self._client.without_retries() if attempt.in_outage else self._client
        new_calls = partial(
            Intake,
            self._engine,
            attempt.location_id,
            [day.start for day in days],
            call_of,
            self._tokens.vault.call_fingerprint,
            attempt.started_at,
            ahead.known if ahead else None,
        )
        row = ahead.row if ahead else None
        with ExitStack() as stack:
            intake = stack.enter_context(closing(DayIntake(new_calls, days)))
            try:
                read = read_with_any(
                    attempt.connections,
                    lambda one: read_with(
                        self._tokens,
                        client,
                        one.user.id,
                        attempt.location_id,
                        window,
                        intake,
                        lease,
                        row if row and row.user_id == one.user.id else None,
                    ),
                    refused,
                )
            except AllRefusedError:
                progress.outcomes += self._store_failure(attempt, refused)
                return
            verified = VerifiedWindow(attempt, window, read, intake, refused)
            if progress.may_defer and intake.calls.is_light:
                progress.deferred = verified
                stack.pop_all()  # closed by the code that stores it
            else:
                progress.outcomes += self.store([verified])

    def _store_failure(
        self, attempt: Attempt, refused: dict[UUID, PipelineError]
    ) -> list[DayResult]:
        outcomes = attempt.failures(refused, self._clock.now())
        with self._engine.begin() as db:
            ledger.record_with_statuses(db, outcomes, (*attempt.before, *outcomes), self._run_id)
        for error in {error.message: error for error in refused.values()}.values():
            log.warning("location %s: %s", attempt.location_id, cleaned(error.message))
        return outcomes


@dataclass
class _Progress:
    """The progress of a location's sync.

    Attributes:
        outcomes: results of the days that are done.
        may_defer: whether a window with little to write may be stored later.
        deferred: the window that is to be stored later.
    """

    outcomes: list[DayResult]
    may_defer: bool = False
    deferred: VerifiedWindow | None = None

"""Syncs days of users: decides which days of which locations to read, and reports the status of
days.

Users who share a location share one read. Locations are independent: a failure of one affects no
other. ``window_sync`` reads and stores a location's days.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import (
    completeness,
    day_status,
    deleted_months,
    ledger,
    shared_work,
    work_units,
)
from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.location_queue import TERMS, LocationQueue, Task, Terms
from voiceai_pipeline.calls.shared_work import LeaderGoneError, SharedWork
from voiceai_pipeline.calls.task_source import Listed
from voiceai_pipeline.calls.verified_window import VerifiedWindow
from voiceai_pipeline.calls.window_sync import WindowSync
from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections.probe import probe
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core import kept_days
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.database.engine import autocommit, database_error, read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient

WORKERS: Final = 16
"""Locations read concurrently: the work is network-bound. At 50 ms a request, 24 take a seventh to
a quarter less time, but with them a run takes more than 200 MB (REQUIREMENTS P6). Locations that
respond slowly do not count (``worker_pool``)."""


class Mode(StrEnum):
    """For which users a day is read."""

    RESUME = "resume"
    """Users without a complete day; all users if all are complete."""
    ONLY_FAILED = "only_failed"
    """Users without a complete day, and no others."""
    REREAD = "reread"
    """All users: late summaries and vanished calls show only in a re-read."""


class SyncRequestError(ValueError):
    """The request makes no sense; the text says why and what to ask for instead."""


class Sync:
    """Syncs days of users into PostgreSQL.

    Args:
        zone: the time zone of the days.
        now: replaces the database's clock where time is simulated; aware UTC.
        terms: timeouts of leases and of the queue.
        helpers: how many other runs may help with a sync; 0: none, and no work is offered.
        keep_days: how many days calls are kept; None: for ever.
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
        helpers: int = 0,
        keep_days: int | None = None,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._client = client
        self._zone = zone
        self._now = now
        self._workers = workers
        self._terms = terms
        self._helpers = helpers
        self._keep_days = keep_days

    def sync_days(
        self,
        days: Collection[date],
        *,
        user_ids: Sequence[UUID] | None = None,
        mode: Mode = Mode.RESUME,
        run_id: str | None = None,
        at_once: bool = False,
    ) -> list[DayResult]:
        """Sync days of some users (default: all) and return the result of each.

        A user's failure is a result, not an exception, and affects no other user. Users who need
        action first get a WAITING row. Days that are already complete and not to be re-read are
        absent from the result.

        Args:
            at_once: an operator asked for it, so everything that rests after failures is tried
                first (``connections/probe.py``).

        Raises:
            UnknownUserError: there is no user with one of the ids; the text names all such ids.
            SyncRequestError: a day is in the future or no longer kept, or no day was given.
            PipelineError: DATABASE, if the ledger itself cannot be read or written.
        """
        try:
            return self._sync_days(sorted(set(days)), user_ids, mode, run_id, at_once)
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None

    def _sync_days(
        self,
        days: list[date],
        user_ids: Sequence[UUID] | None,
        mode: Mode,
        run_id: str | None,
        at_once: bool,
    ) -> list[DayResult]:
        with autocommit(self._engine) as db:
            now = read_clock(db, self._now)
        self._refuse_impossible(days, now)
        if at_once:
            with self._engine.begin() as db:
                resting = connection_queries.all_connections(db, user_ids)
            # A paused user makes no day red, so a rerun is about them only if it names them.
            probe(self._engine, self._tokens, resting, paused=user_ids is not None)
        with self._engine.begin() as db:
            connections = list(connection_queries.to_sync(db, user_ids))
            # A re-read includes complete days.
            done = set[tuple[UUID, date]]()
            if mode is not Mode.REREAD:
                done = self._finished(db, days, user_ids, connections)
        _refuse_unknown(user_ids, connections)
        # A re-read makes a blocked user's day WAITING even if it is complete: there may be late
        # edits.
        outcomes = self._record_waiting(connections, days, done, now, run_id)
        tasks = _tasks(connections, days, done, mode)
        del connections, done
        outcomes += self._read(tasks, now, run_id)
        return sorted(outcomes, key=lambda o: (o.user.name, str(o.user.id), o.day))

    def _read(self, tasks: list[Task], since: datetime, run_id: str | None) -> list[DayResult]:
        """Read the tasks, with helpers if they are allowed and there is enough for them to do."""
        queue = self._queue(since, run_id)
        if run_id is None or not self._helpers or len(tasks) <= self._workers:
            return queue.run(Listed(tasks))
        with shared_work.offering(self._engine, run_id, self._terms, tasks, since) as work:
            own = queue.run(work)
            return own + work.results_of_helpers()

    def help(self, leader: str, run_id: str | None, is_led: Callable[[], bool]) -> int:
        """Read locations that a leader has offered, until none is left to take or it has ended.

        Args:
            leader: the id of the Dagster run to help.
            run_id: the id of this run.
            is_led: whether the leader is still running.

        Returns:
            How many locations this run finished.

        Raises:
            PipelineError: DATABASE, if the ledger or the work cannot be read or written.
        """
        try:
            with self._engine.begin() as db:
                since = work_units.since(db, leader)
            if since is None or not is_led():
                return 0
            work = SharedWork(self._engine, leader, self._terms, is_led=is_led)
            try:
                self._queue(since, run_id, leader).run(work)
            except LeaderGoneError:
                pass  # the rest is no longer needed
            finally:
                work.give_back()
            return len(work.finished)
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None

    def _queue(
        self, since: datetime, run_id: str | None, leader: str | None = None
    ) -> LocationQueue[VerifiedWindow]:
        """A queue of this run. What a helper reads is recorded under its leader's id."""
        window_sync = WindowSync(
            self._engine, self._tokens, self._client, self._zone, leader or run_id, self._now
        )
        return LocationQueue(
            self._engine,
            self._workers,
            run_id,
            since=since,
            zone=self._zone,
            prepare=window_sync.prepare,
            store=window_sync.store,
            give_up=window_sync.give_up,
            interruptible=self._client.reads.interruptible,
            terms=self._terms,
        )

    def _finished(
        self,
        db: sa.Connection,
        days: list[date],
        user_ids: Sequence[UUID] | None,
        connections: Iterable[Connection],
    ) -> set[tuple[UUID, date]]:
        """Which (user, day) are complete to the day's end, at the user's current location."""
        at = {one.user.id: (one.user.id, one.location_id) for one in connections}
        ends = {day: Window.of_day(day, self._zone).end for day in days}
        found = set()
        for user_id, location_id, day in completeness.read_to(db, ends, user_ids):
            known, current = at.get(user_id, (user_id, None))
            if location_id == current:
                found.add((known, day))
        return found

    def _refuse_impossible(self, days: list[date], now: datetime) -> None:
        if not days:
            raise SyncRequestError("No day was given: the start is after the end.")
        today = now.astimezone(self._zone).date()
        if days[-1] > today:
            raise SyncRequestError(
                f"{days[-1]} lies in the future; the last day that can be synced is today, {today}."
            )
        since = kept_days.kept_since(today, self._keep_days)
        if since is not None and self._keep_days is not None and days[0] < since:
            raise SyncRequestError(kept_days.refusal(days[0], since, self._keep_days))

    def first_day(self) -> date | None:
        """The first day that is kept, so that it can be synced; None: every day can.

        Raises:
            PipelineError: DATABASE.
        """
        try:
            with autocommit(self._engine) as db:
                today = read_clock(db, self._now).astimezone(self._zone).date()
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        return kept_days.kept_since(today, self._keep_days)

    def _record_waiting(
        self,
        connections: Iterable[Connection],
        days: Sequence[date],
        settled: set[tuple[UUID, date]],
        now: datetime,
        run_id: str | None,
    ) -> list[DayResult]:
        waiting = [
            DayResult(
                user=one.user,
                location_id=one.location_id or "",
                day=day,
                state=DayState.WAITING,
                failure=one.sync_obstacle,
                message=one.message,
                started_at=now,
                finished_at=now,
            )
            for one in connections
            if not one.can_sync
            for day in days
            if (one.user.id, day) not in settled
        ]
        with self._engine.begin() as db:
            ledger.record_with_statuses(db, waiting, waiting, run_id)
        return waiting

    def report(self, days: Collection[date]) -> list[DayReport]:
        """The status of each day for all users, from the ledger and today's connections.

        Raises:
            PipelineError: DATABASE.
        """
        try:
            with self._engine.begin() as db:
                connections = connection_queries.all_connections(db)
                now = read_clock(db, self._now)
                since = deleted_months.kept_since(db, self._zone, self._keep_days, now)
                # Day by day: a month of ten thousand users would take a few hundred MB.
                return [
                    report
                    for day in sorted(days)
                    for report in day_status.report(
                        [day], ledger.results(db, days=[day]), connections, self._zone, now, since
                    )
                ]
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None


def _refuse_unknown(user_ids: Sequence[UUID] | None, connections: Iterable[Connection]) -> None:
    unknown = set(user_ids or ()) - {one.user.id for one in connections}
    if unknown:
        raise UnknownUserError(
            f"No user with id {', '.join(sorted(map(str, unknown)))}. "
            "List the users with: voiceai-pipeline users"
        )


def _tasks(
    connections: Iterable[Connection],
    days: Sequence[date],
    done: set[tuple[UUID, date]],
    mode: Mode,
) -> list[Task]:
    """Which days of which locations to read, and for which users."""
    shared = connection_queries.by_location(connections)
    able = [one.user.id for group in shared.values() for one in group]
    green = {day for day in days if all((user_id, day) in done for user_id in able)}

    def is_wanted(connection: Connection, day: date) -> bool:
        return (
            mode is Mode.REREAD
            or (connection.user.id, day) not in done
            or (mode is Mode.RESUME and day in green)
        )

    known = None if mode is Mode.REREAD else done
    # Few different lists of days, very many locations.
    lists: dict[tuple[date, ...], list[date]] = {}
    tasks = []
    for location_id, group in shared.items():
        needed = tuple(day for day in days if any(is_wanted(one, day) for one in group))
        if needed:
            tasks.append(Task(location_id, group, lists.setdefault(needed, list(needed)), known))
    return tasks

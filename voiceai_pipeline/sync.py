"""From a range of days to a true ledger: complete read, verified write, honest status.

Users who share a location share one read. Every location is on its own: whatever happens to one
touches no other. Calls, ledger and ``sync_status`` of a window commit together, so a killed process
leaves the old state or the new one, never a mix.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.highlevel.calls import WindowRead, read_window
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.models import (
    Connection,
    DayResult,
    DayState,
    FailureClass,
    PipelineError,
    Remedy,
    User,
    Window,
)
from voiceai_pipeline.storage import calls, connections, directory, ledger
from voiceai_pipeline.storage.engine import database_error, database_now
from voiceai_pipeline.tokens import Tokens, UnknownUserError

log = logging.getLogger(__name__)

WORKERS: Final = 8
"""Locations read side by side: the work waits for the network."""

_OWN: Final = frozenset(
    {
        FailureClass.REFRESH_REJECTED,
        FailureClass.ACCESS_REJECTED,
        FailureClass.NO_CONNECTION,
        FailureClass.NO_LOCATION,
        FailureClass.SCOPE_MISSING,
        FailureClass.WRONG_LOCATION,
        FailureClass.IN_DOUBT,
        FailureClass.TOKEN_UNREADABLE,
    }
)
"""Failures of one user's credentials: somebody else's may still read the shared location."""

_OF_A_DAY: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.MALFORMED,
        FailureClass.INCOMPLETE,
        FailureClass.UNKNOWN_ANSWER,
    }
)
"""Failures that one bad day can cause: the other days of the range are then read one by one."""


RETRY_DELAYS: Final = tuple(timedelta(minutes=m) for m in (15, 60, 240, 720, 720, 720))
"""How long after the n-th failure in a row a day is tried again by itself; then people must."""

FIRST_DAYS: Final = 30
"""How many days back a newly connected user is filled without anybody asking."""


def retry_at(row: DayResult) -> datetime | None:
    """When a failed day is tried again by itself (UTC); None if it takes somebody first."""
    if row.failure is None or row.failure.explanation.remedy is not Remedy.RERUN:
        return None
    if row.finished_at is None or not 1 <= row.attempt <= len(RETRY_DELAYS):
        return None
    return row.finished_at + RETRY_DELAYS[row.attempt - 1]


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


@dataclass(frozen=True)
class DayReport:
    """How one day stands for every user, by the ledger and today's connections.

    Attributes:
        complete: read and verified, up to the end of the day (today: up to the last read).
        failed: a rerun, or mending our configuration, can help.
        waiting: a person must reconnect or re-enable first.
        unread: can be synced, and nobody has tried yet.
    """

    day: date
    complete: tuple[DayResult, ...]
    failed: tuple[DayResult, ...]
    waiting: tuple[DayResult, ...]
    unread: tuple[User, ...]

    @property
    def is_green(self) -> bool:
        """Every user who can be synced is complete."""
        return not self.failed and not self.unread


class Sync:
    """Syncs days of users into PostgreSQL.

    Args:
        zone: whose days are the partitions.
        now: replaces the database's clock where time is simulated; aware UTC.
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
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._client = client
        self._zone = zone
        self._now = now
        self._workers = workers

    # Syncing -------------------------------------------------------------------------------------

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
            people = connections.everyone(db, user_ids)
            done = self._done(ledger.results(db, days=days, user_ids=user_ids), people)
        if user_ids is not None and (
            unknown := set(user_ids) - {person.user.id for person in people}
        ):
            raise UnknownUserError(
                f"No user with id {', '.join(sorted(map(str, unknown)))}. "
                "List the users with: voiceai-pipeline users"
            )
        outcomes = self._record_waiting(people, days, done, now, run_id)
        wanted = _wanted(people, days, done, mode)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="sync") as pool:
            jobs = [
                pool.submit(self._sync_location, location_id, users, needed, run_id)
                for location_id, (users, needed) in wanted.items()
            ]
            for job in jobs:
                outcomes += job.result()
        return sorted(outcomes, key=lambda o: (o.user.name, str(o.user.id), o.day))

    def _clock(self) -> datetime:
        with self._engine.begin() as db:
            return self._clock_of(db)

    def _clock_of(self, db: sa.Connection) -> datetime:
        return self._now() if self._now else database_now(db)

    def _refuse_impossible(self, days: list[date], now: datetime) -> None:
        if not days:
            raise SyncRequestError("No day was given: the start lies after the end.")
        today = now.astimezone(self._zone).date()
        if days[-1] > today:
            raise SyncRequestError(
                f"{days[-1]} lies in the future; the last day that can be synced is today, {today}."
            )

    def _done(
        self, rows: Iterable[DayResult], people: Iterable[Connection]
    ) -> set[tuple[UUID, date]]:
        """Which (user, day) are complete to the day's end, at the user's present location."""
        places = {person.user.id: person.location_id for person in people}
        return {
            (row.user.id, row.day)
            for row in rows
            if row.state is DayState.COMPLETE
            and row.location_id == places.get(row.user.id)
            and row.read_until is not None
            and row.read_until >= Window.of_day(row.day, self._zone).end
        }

    def _record_waiting(
        self,
        people: Iterable[Connection],
        days: Sequence[date],
        done: set[tuple[UUID, date]],
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
            if (person.user.id, day) not in done
        ]
        with self._engine.begin() as db:
            self._record(db, waiting, waiting, run_id)
        return waiting

    def _sync_location(
        self, location_id: str, people: list[Connection], days: list[date], run_id: str | None
    ) -> list[DayResult]:
        """Sync a location's days, for all its users; never raises but for a lost database."""
        outcomes: list[DayResult] = []
        for stretch in stretches(days):
            outcomes += self._sync_stretch(location_id, people, stretch, run_id, tuple(outcomes))
        return outcomes

    def _sync_stretch(
        self,
        location_id: str,
        people: list[Connection],
        days: list[date],
        run_id: str | None,
        before: tuple[DayResult, ...],
    ) -> list[DayResult]:
        """Sync consecutive days as one window; if a single day may be at fault, day by day."""
        started_at = self._clock()
        attempt = _Attempt(location_id, people, days, started_at, run_id, before)
        try:
            return self._read_and_store(attempt)
        except PipelineError as error:
            failure = error
        except sa.exc.SQLAlchemyError as error:
            failure = database_error(error)
        except Exception as error:
            # Only the name: the text of a foreign exception may quote a call or a token.
            failure = PipelineError(FailureClass.INTERNAL, type(error).__name__)
        if len(days) > 1 and failure.failure in _OF_A_DAY:
            outcomes: list[DayResult] = []
            for day in days:
                outcomes += self._sync_stretch(
                    location_id, people, [day], run_id, (*before, *outcomes)
                )
            return outcomes
        if failure.failure is FailureClass.LOCATION_PAUSED:
            for person in people:
                self._tokens.report(person.user.id, failure.failure)
        return self._store_failure(attempt, dict.fromkeys((p.user.id for p in people), failure))

    def _read_and_store(self, attempt: "_Attempt") -> list[DayResult]:
        window = Window(
            Window.of_day(attempt.days[0], self._zone).start,
            min(Window.of_day(attempt.days[-1], self._zone).end, attempt.started_at),
        )
        refused: dict[UUID, PipelineError] = {}
        for person in attempt.people:
            try:
                read = self._read(person.user.id, attempt.location_id, window)
            except PipelineError as error:
                if error.failure not in _OWN:
                    raise
                refused[person.user.id] = error
            else:
                return self._store(attempt, window, read, refused)
        return self._store_failure(attempt, refused)

    def _read(self, user_id: UUID, location_id: str, window: Window) -> WindowRead:
        return read_window(
            lambda start, end, page: self._tokens.spend(
                user_id,
                lambda token: self._client.call_logs_page(token, location_id, start, end, page),
            ),
            window,
        )

    def _store(
        self,
        attempt: "_Attempt",
        window: Window,
        read: WindowRead,
        refused: dict[UUID, PipelineError],
    ) -> list[DayResult]:
        """Commit calls, ledger and status of a verified read together.

        Raises:
            PipelineError: INCOMPLETE, with nothing written, if the table does not hold what was
                read (REQUIREMENTS S6).
        """
        day_of = _day_counter(self._zone)
        windows = {day: Window.of_day(day, self._zone) for day in attempt.days}
        listed = day_of(call.started_at for call in read.calls)
        aside = day_of(c.started_at or window.start for c in read.set_aside)
        with self._engine.begin() as db:
            calls.lock_location(db, attempt.location_id)
            finished_at = self._clock_of(db)
            written = calls.store_window(
                db,
                attempt.location_id,
                window,
                read.calls,
                read.set_aside,
                finished_at,
                read_at=attempt.started_at,
            )
            stored = calls.stored_by_day(db, attempt.location_id, windows, read.calls)
            new = day_of(c.started_at for c in read.calls if c.call_id in written.new)
            changed = day_of(c.started_at for c in read.calls if c.call_id in written.changed)
            missing = day_of(written.missing)
            for day in attempt.days:
                if stored[day] != listed[day]:
                    raise PipelineError(
                        FailureClass.INCOMPLETE,
                        f"{day}: {listed[day]} calls read, {stored[day]} stored",
                    )
            outcomes = [
                DayResult(
                    user=person.user,
                    location_id=attempt.location_id,
                    day=day,
                    state=DayState.COMPLETE,
                    read_until=min(windows[day].end, window.end),
                    api_total=listed[day] + aside[day],
                    stored=stored[day],
                    new=new[day],
                    changed=changed[day],
                    missing=missing[day],
                    set_aside=aside[day],
                    pages=read.pages,
                    started_at=attempt.started_at,
                    finished_at=finished_at,
                )
                for person in attempt.people
                if person.user.id not in refused
                for day in attempt.days
            ]
            outcomes += attempt.failures(refused, finished_at)
            self._record(db, outcomes, (*attempt.before, *outcomes), attempt.run_id)
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
        ledger.record(db, outcomes, run_id)
        by_user: defaultdict[UUID, list[DayResult]] = defaultdict(list)
        for outcome in so_far:
            by_user[outcome.user.id].append(outcome)
        for user_id in sorted({outcome.user.id for outcome in outcomes}, key=str):
            ledger.record_status(db, user_id, _status(by_user[user_id]))

    # Directory -----------------------------------------------------------------------------------

    def sync_agents(self) -> dict[str, int | PipelineError]:
        """Store the agents of every location that can be read: how many, or why not."""

        def one(person: Connection, location_id: str) -> int:
            listed = self._tokens.spend(
                person.user.id, lambda token: list(self._client.agents(token, location_id))
            )
            with self._engine.begin() as db:
                directory.store_agents(db, location_id, listed, self._clock_of(db))
            return len(listed)

        return self._each_location(one)

    def sync_locations(self) -> dict[str, int | PipelineError]:
        """Store name and time zone of every location that can be read: 1, or why not."""

        def one(person: Connection, location_id: str) -> int:
            place = self._tokens.spend(
                person.user.id, lambda token: self._client.location(token, location_id)
            )
            with self._engine.begin() as db:
                directory.store_location(db, place, self._clock_of(db))
                connections.name_location(db, person.user.id, place.name, place.timezone)
            return 1

        return self._each_location(one)

    def _each_location(
        self, one: Callable[[Connection, str], int]
    ) -> dict[str, int | PipelineError]:
        """Do ``one`` for a user of each location, the next user where a credential fails."""

        def attempt(location_id: str, people: list[Connection]) -> int | PipelineError:
            failure = PipelineError(FailureClass.NO_CONNECTION)
            for person in people:
                try:
                    return one(person, location_id)
                except PipelineError as error:
                    failure = error
                except sa.exc.SQLAlchemyError as error:
                    return database_error(error)
                except Exception as error:
                    return PipelineError(FailureClass.INTERNAL, type(error).__name__)
            return failure

        try:
            with self._engine.begin() as db:
                places = _by_location(connections.everyone(db))
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        with ThreadPoolExecutor(self._workers, thread_name_prefix="directory") as pool:
            return dict(zip(places, pool.map(attempt, places, places.values()), strict=True))

    # Reporting -----------------------------------------------------------------------------------

    def report(self, days: Collection[date]) -> list[DayReport]:
        """How days stand for everyone, from the ledger and today's connections.

        Raises:
            PipelineError: DATABASE.
        """
        try:
            with self._engine.begin() as db:
                people = connections.everyone(db)
                rows = ledger.results(db, days=list(days))
                now = self._clock_of(db)
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        done = self._done(rows, people)
        found = {(row.user.id, row.location_id, row.day): row for row in rows}
        return [self._report_day(day, people, found, done, now) for day in sorted(days)]

    def _report_day(
        self,
        day: date,
        people: Iterable[Connection],
        rows: dict[tuple[UUID, str, date], DayResult],
        done: set[tuple[UUID, date]],
        now: datetime,
    ) -> DayReport:
        is_open = Window.of_day(day, self._zone).end > now
        complete, failed, waiting, unread = [], [], [], []
        for person in people:
            row = rows.get((person.user.id, person.location_id or "", day))
            read = row is not None and row.state is DayState.COMPLETE
            if row is not None and read and (is_open or (person.user.id, day) in done):
                complete.append(row)
            elif person.obstacle is not None:
                empty = DayResult(person.user, person.location_id or "", day, DayState.WAITING)
                waiting.append(
                    replace(row or empty, state=DayState.WAITING, failure=person.obstacle,
                            message=person.message)
                )  # fmt: skip
            elif row is not None and row.state is DayState.FAILED:
                failed.append(row)
            else:
                unread.append(person.user)
        return DayReport(day, tuple(complete), tuple(failed), tuple(waiting), tuple(unread))


@dataclass(frozen=True)
class _Attempt:
    """One window of one location: what is tried for whom, and what this sync did before."""

    location_id: str
    people: list[Connection]
    days: list[date]
    started_at: datetime
    run_id: str | None
    before: tuple[DayResult, ...]

    def failures(
        self, refused: dict[UUID, PipelineError], finished_at: datetime
    ) -> list[DayResult]:
        return [
            DayResult(
                user=person.user,
                location_id=self.location_id,
                day=day,
                state=DayState.WAITING if error.failure.waits_for_person else DayState.FAILED,
                failure=error.failure,
                message=f"{error.message}. Fix: {error.failure.explanation.fix}",
                started_at=self.started_at,
                finished_at=finished_at,
            )
            for person in self.people
            if (error := refused.get(person.user.id)) is not None
            for day in self.days
        ]


def _wanted(
    people: Iterable[Connection], days: Sequence[date], done: set[tuple[UUID, date]], mode: Mode
) -> dict[str, tuple[list[Connection], list[date]]]:
    """Which days of which locations to read, and for whom."""
    places = _by_location(people)
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


def _by_location(people: Iterable[Connection]) -> dict[str, list[Connection]]:
    places: defaultdict[str, list[Connection]] = defaultdict(list)
    for person in people:
        if person.can_sync and person.location_id:
            places[person.location_id].append(person)
    return dict(places)


def stretches(days: Sequence[date], at_most: int | None = None) -> list[list[date]]:
    """Cut sorted days into runs of consecutive ones, of ``at_most`` days each.

    A run of days is read as one window, which takes the fewest requests.
    """
    runs: list[list[date]] = []
    for day in days:
        follows = bool(runs) and day - runs[-1][-1] == timedelta(days=1)
        if follows and (at_most is None or len(runs[-1]) < at_most):
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def _day_counter(zone: ZoneInfo) -> Callable[[Iterable[datetime]], defaultdict[date, int]]:
    def count(instants: Iterable[datetime]) -> defaultdict[date, int]:
        counts: defaultdict[date, int] = defaultdict(int)
        for instant in instants:
            counts[instant.astimezone(zone).date()] += 1
        return counts

    return count


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

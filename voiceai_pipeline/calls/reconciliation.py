"""Compares recent days with HighLevel's current totals, and re-opens the days that differ.

Once a verified day has left the trailing window, no sync reads it again; a call that arrives or
vanishes later shows only in HighLevel's total. So totals are compared with the table: one request
for all days of a location, and one per day only if that total differs. A total does not show a call
that changed, or two differences of a location that cancel out; only a re-read does.

A day that differs is opened: its ledger rows become FAILED with INCOMPLETE, so it is retried
automatically like any other failed day. It is opened once per difference. If a later read leaves
the day complete with the same numbers, HighLevel's list contradicts its total and no further read
can help, so the day is only reported until the numbers change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store, day_status, ledger, mismatches
from voiceai_pipeline.calls.call_store import MILLISECOND
from voiceai_pipeline.calls.mismatches import Mismatch
from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections.shared_location import read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient

DAYS: Final = 30
"""How many days back totals are compared."""

WORKERS: Final = 8
"""Locations compared concurrently: the work is network-bound."""

_DAY: Final = timedelta(days=1)


class Verdict(StrEnum):
    """The result of comparing a day."""

    EQUAL = "equal"
    """HighLevel counts as many calls as we hold."""
    OPENED = "opened"
    """HighLevel counts a different number; the day will be re-synced automatically."""
    CONTRADICTED = "contradicted"
    """HighLevel's total contradicts its list: the day was re-read for this very difference, and
    nothing changed."""
    NO_TOTAL = "no_total"
    """HighLevel gave no total, so the day cannot be compared."""


@dataclass(frozen=True)
class DayComparison:
    """A day of a location: HighLevel's call count beside ours.

    Attributes:
        day: a day of the pipeline's time zone.
        stored: calls we hold: stored and not missing, or set aside.
        total: calls HighLevel counts; None if it gave no total.
    """

    day: date
    stored: int
    total: int | None
    verdict: Verdict

    @property
    def difference(self) -> int:
        """How many more calls HighLevel counts than we hold; negative if fewer."""
        return 0 if self.total is None else self.total - self.stored


@dataclass(frozen=True)
class LocationComparison:
    """The comparison of a location's days.

    Attributes:
        name: for display; the id if no name is known.
        days: the days compared, up to the failure if there is one.
        failure: why the location could not be compared, or not completely.
    """

    location_id: str
    name: str
    days: tuple[DayComparison, ...] = ()
    failure: PipelineError | None = None


class Reconciliation:
    """Compares those of the last ``DAYS`` days that are complete, of every location that can be
    read.

    Args:
        zone: the time zone of the days.
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

    def reconcile(self, *, run_id: str | None = None) -> list[LocationComparison]:
        """Compare, and open the days that differ; one result per location, by name.

        Only days that are complete for at least one user are compared: today is not over, and
        failed or waiting days are re-read anyway. A location's failure is a result, not an
        exception, and affects no other location.

        Raises:
            PipelineError: DATABASE, if the days to compare cannot be determined.
        """
        try:
            locations = self._locations()
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        with (
            ThreadPoolExecutor(self._workers, thread_name_prefix="reconciliation") as pool,
            self._client.reads.interruptible(),
        ):
            results = pool.map(lambda one: self._reconcile(one, run_id), locations)
            return sorted(results, key=lambda result: (result.name, result.location_id))

    def _locations(self) -> list["_Location"]:
        with self._engine.begin() as db:
            today = read_clock(db, self._now).astimezone(self._zone).date()
            days = [today - _DAY * ago for ago in range(DAYS, 0, -1)]
            mismatches.clear_before(db, days[0])
            connections = connection_queries.all_connections(db)
            # The day before the first is not compared; it decides where the bound lies.
            rows = ledger.results(db, days=[days[0] - _DAY, *days])
        done = day_status.finished(rows, connections, self._zone)
        by_location: dict[str, list[DayResult]] = {}
        for row in rows:
            if (row.user.id, row.day) in done:
                by_location.setdefault(row.location_id, []).append(row)
        locations = []
        for location_id, group in connection_queries.by_location(connections).items():
            able = {one.user.id for one in group}
            held = [row for row in by_location.get(location_id, ()) if row.user.id in able]
            aside = {row.day: row.set_aside for row in sorted(held, key=_read_at)}
            compared = [day for day in days if day in aside]
            locations.append(_Location(location_id, group, {}, compared, aside))
        return locations

    def _reconcile(self, location: "_Location", run_id: str | None) -> LocationComparison:
        """Compare a location's days; never raises."""
        found: list[DayComparison] = []
        failure: PipelineError | None = None
        try:
            for days in stretches(location.days):
                # One by one: keep what was compared before a failure.
                for comparison in self._compare(location, days, run_id):
                    found.append(comparison)
        except PipelineError as error:
            failure = error
        except sa.exc.SQLAlchemyError as error:
            failure = database_error(error)
        except Exception as error:
            failure = unexpected(error)
        return LocationComparison(location.location_id, location.name, tuple(found), failure)

    def _compare(
        self, location: "_Location", days: list[date], run_id: str | None
    ) -> Iterator[DayComparison]:
        """Compare consecutive days by one total; if it differs, each day by its own.

        Bisecting would take fewer requests, but miss two differences that cancel out in one half.
        """
        with self._engine.begin() as db:
            asked_at = read_clock(db, self._now)
            asked = self._bounds(db, location, days)
        total = self._ask(location, asked)
        with self._engine.begin() as db:
            inside, by_day = self._held(db, location, days, asked)
            if total == inside:
                mismatches.clear(db, location.location_id, days)
        if total is None or total == inside:
            verdict = Verdict.NO_TOTAL if total is None else Verdict.EQUAL
            for day, stored in by_day.items():
                yield DayComparison(day, stored, None if total is None else stored, verdict)
        elif len(days) > 1:
            for day in days:
                yield from self._compare(location, [day], run_id)
        else:
            yield from self._settle(location, days[0], asked, total, asked_at, run_id)

    def _bounds(self, db: sa.Connection, location: "_Location", days: Sequence[date]) -> Window:
        """The bounds of a request whose total is the same whether HighLevel includes or excludes
        the bounds themselves (unknown, CONTRACT 2.1).

        No call that we hold lies on a bound. If the neighbouring day was read too, the bound lies a
        millisecond outside the days, so that no instant is left out; otherwise inside, because that
        day's calls may not be stored. This leaves out only the instants up to the bound.
        """
        window = Window(
            Window.of_day(days[0], self._zone).start, Window.of_day(days[-1], self._zone).end
        )
        start, to_start = window.start, MILLISECOND
        if days[0] - _DAY in location.aside:
            start, to_start = window.start - MILLISECOND, -MILLISECOND
        end, to_end = window.end - MILLISECOND, -MILLISECOND
        if days[-1] + _DAY in location.aside:
            end, to_end = window.end, MILLISECOND
        return Window(
            call_store.free_instant(db, location.location_id, start, to_start),
            call_store.free_instant(db, location.location_id, end, to_end),
        )

    def _ask(self, location: "_Location", asked: Window) -> int | None:
        """HighLevel's total, read with the credentials of any user of the location.

        Raises:
            PipelineError: no user's credentials can read it, or HighLevel gave no answer.
        """

        def total(user: Connection) -> int | None:
            return self._tokens.spend(
                user.user.id,
                lambda token: self._client.call_total(
                    token, location.location_id, asked.start, asked.end
                ),
            )

        try:
            return read_with_any(location.connections, total, location.refused)
        except PipelineError as error:
            if error.failure is FailureClass.LOCATION_PAUSED:
                for one in location.connections:
                    self._tokens.report(one.user.id, error.failure)
            raise

    def _held(
        self, db: sa.Connection, location: "_Location", days: Sequence[date], asked: Window
    ) -> tuple[int, dict[date, int]]:
        """How many calls we hold within the requested bounds, and in each day."""
        windows = [Window.of_day(day, self._zone) for day in days]
        inside, *counts = call_store.count(
            db, [(location.location_id, window) for window in (asked, *windows)]
        )
        aside = [location.aside[day] for day in days]
        by_day = {day: n + a for day, n, a in zip(days, counts, aside, strict=True)}
        return inside + sum(aside), by_day

    def _settle(
        self,
        location: "_Location",
        day: date,
        asked: Window,
        total: int,
        asked_at: datetime,
        run_id: str | None,
    ) -> Iterator[DayComparison]:
        """Open a day that differs, unless a read has finished since the request, or the day was
        already re-read for this difference."""
        with self._engine.begin() as db:
            # No run is storing calls of this location until we commit.
            call_store.lock_locations(db, [location.location_id])
            now = read_clock(db, self._now)
            rows = self._complete(db, location, day)
            if not rows or max(map(_read_at, rows)) > asked_at:
                return  # a read that finished meanwhile is newer than the total
            inside, by_day = self._held(db, location, [day], asked)
            stored, difference = by_day[day], total - inside
            # The bounds may include a call of a neighbouring day, or leave one of this day out.
            total = stored + difference
            before = mismatches.read(db, location.location_id, day)
            verdict = Verdict.OPENED
            if difference == 0:
                verdict = Verdict.EQUAL
                mismatches.clear(db, location.location_id, [day])
            elif before is not None and _was_followed_up(before, total, stored, rows):
                verdict = Verdict.CONTRADICTED
            else:
                mismatches.record(db, location.location_id, day, Mismatch(total, stored, now))
                ledger.record(db, [_opened(row, total, stored, now) for row in rows], run_id)
        yield DayComparison(day, stored, total, verdict)

    def _complete(self, db: sa.Connection, location: "_Location", day: date) -> list[DayResult]:
        """The day's rows of the location's users for whom it is complete."""
        user_ids: list[UUID] = [one.user.id for one in location.connections]
        rows = ledger.results(db, days=[day], user_ids=user_ids)
        done = day_status.finished(rows, location.connections, self._zone)
        return [
            row
            for row in rows
            if row.location_id == location.location_id and (row.user.id, row.day) in done
        ]


@dataclass(frozen=True)
class _Location:
    """A location to compare.

    Attributes:
        connections: of its users who can be synced.
        refused: users whose credentials have failed so far, and why.
        days: to compare, in order.
        aside: how many calls the last read of each complete day set aside; includes the day before
            ``days`` if that is complete.
    """

    location_id: str
    connections: list[Connection]
    refused: dict[UUID, PipelineError]
    days: list[date]
    aside: Mapping[date, int]

    @property
    def name(self) -> str:
        names = (one.location_name for one in self.connections)
        return next(filter(None, names), self.location_id)


def _read_at(row: DayResult) -> datetime:
    """When the row's read finished (UTC); a row without a time counts as older than any other."""
    return row.finished_at or datetime.min.replace(tzinfo=UTC)


def _was_followed_up(before: Mismatch, total: int, stored: int, rows: Sequence[DayResult]) -> bool:
    """Whether the day was opened for these very numbers and every read since then started later."""
    return (before.total, before.stored) == (total, stored) and all(
        row.started_at is not None and row.started_at >= before.opened_at for row in rows
    )


def _opened(row: DayResult, total: int, stored: int, now: datetime) -> DayResult:
    """The FAILED row of a day that is not complete after all, with the numbers that show it."""
    error = PipelineError(FailureClass.INCOMPLETE, f"total {total} now, {stored} stored")
    return replace(
        row,
        state=DayState.FAILED,
        failure=error.failure,
        message=f"{error.message}. Fix: {error.failure.explanation.fix}",
        api_total=total,
        stored=stored,
        finished_at=now,
    )

"""Whether the last days hold what HighLevel counts now; those that do not are read again.

A day that was read and verified is not looked at again by the sync once it has left the trailing
window; a call that arrives or vanishes in it later shows only in HighLevel's total. So totals are
compared with the table: one request for all days of a location, and one for each day only where
that one differs. A total shows neither a call that changed, nor two differences of a location
that cancel out, until a third one joins them: that takes reading a day again.

A day that differs is opened: its ledger rows become FAILED with INCOMPLETE, so it is read again by
itself like any other failed day. It is opened once for a difference: if a read that began after
that leaves the day complete with the very same numbers, HighLevel's list contradicts its total, no
further read can help, and the day is only reported until the numbers change.
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
from voiceai_pipeline.calls.mismatches import Drift
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.shared_location import read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient

DAYS: Final = 30
"""How many complete days back totals are compared."""

WORKERS: Final = 8
"""Locations asked side by side: the work waits for the network."""

_DAY: Final = timedelta(days=1)


class Verdict(StrEnum):
    """What became of a day that was compared."""

    EQUAL = "equal"
    """HighLevel counts what we hold."""
    OPENED = "opened"
    """It counts something else: the day will be read again by itself."""
    CONTRADICTED = "contradicted"
    """It counts something else than it lists: the day was read again for this very difference,
    and is what it was."""
    NO_TOTAL = "no_total"
    """HighLevel gave no total, so nothing can be said."""


@dataclass(frozen=True)
class DayComparison:
    """A day of a location: HighLevel's number of calls beside ours.

    Attributes:
        day: a day of the pipeline's time zone.
        stored: calls we hold: stored and not missing, or set aside.
        total: calls HighLevel counts; None if it did not say.
    """

    day: date
    stored: int
    total: int | None
    verdict: Verdict

    @property
    def difference(self) -> int:
        """How many calls more HighLevel counts than we hold; below 0: fewer."""
        return 0 if self.total is None else self.total - self.stored


@dataclass(frozen=True)
class LocationComparison:
    """A location after its days were compared.

    Attributes:
        name: for people; the id where no name is known.
        days: what was compared, before ``failure`` if there is one.
        failure: why the location could not be asked, or no further; None if it could.
    """

    location_id: str
    name: str
    days: tuple[DayComparison, ...] = ()
    failure: PipelineError | None = None


class Reconciliation:
    """Compares the last ``DAYS`` complete days of every location that can be read.

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

    def reconcile(self, *, run_id: str | None = None) -> list[LocationComparison]:
        """Compare, and open what differs; a location per result, by name.

        Only days that are complete for somebody are compared: today is not over, and what failed or
        waits is read again anyway. A location's failure is a result, not an exception: no other is
        touched by it.

        Raises:
            PipelineError: DATABASE, if it cannot be found out what there is to compare.
        """
        try:
            places = self._places()
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        with ThreadPoolExecutor(self._workers, thread_name_prefix="reconciliation") as pool:
            results = pool.map(lambda place: self._reconcile(place, run_id), places)
            return sorted(results, key=lambda result: (result.name, result.location_id))

    def _places(self) -> list["_Place"]:
        with self._engine.begin() as db:
            today = read_clock(db, self._now).astimezone(self._zone).date()
            days = [today - _DAY * ago for ago in range(DAYS, 0, -1)]
            mismatches.clear_before(db, days[0])
            people = connections.all_connections(db)
            # The day before the first is not compared; it matters where the bound is put.
            rows = ledger.results(db, days=[days[0] - _DAY, *days])
        done = day_status.finished(rows, people, self._zone)
        by_location: dict[str, list[DayResult]] = {}
        for row in rows:
            if (row.user.id, row.day) in done:
                by_location.setdefault(row.location_id, []).append(row)
        places = []
        for location_id, group in connections.by_location(people).items():
            able = {person.user.id for person in group}
            held = [row for row in by_location.get(location_id, ()) if row.user.id in able]
            aside = {row.day: row.set_aside for row in sorted(held, key=_read_at)}
            compared = [day for day in days if day in aside]
            places.append(_Place(location_id, group, {}, compared, aside))
        return places

    def _reconcile(self, place: "_Place", run_id: str | None) -> LocationComparison:
        """Compare a location's days; never raises."""
        found: list[DayComparison] = []
        failure: PipelineError | None = None
        try:
            for days in stretches(place.days):
                # One by one: what was compared before a failure counts.
                for comparison in self._compare(place, days, run_id):
                    found.append(comparison)
        except PipelineError as error:
            failure = error
        except sa.exc.SQLAlchemyError as error:
            failure = database_error(error)
        except Exception as error:
            failure = unexpected(error)
        return LocationComparison(place.location_id, place.name, tuple(found), failure)

    def _compare(
        self, place: "_Place", days: list[date], run_id: str | None
    ) -> Iterator[DayComparison]:
        """Compare consecutive days by one total; where it differs, each by its own.

        Halving the days would take fewer requests, and miss two differences that cancel out in
        one half.
        """
        with self._engine.begin() as db:
            asked_at = read_clock(db, self._now)
            asked = self._bounds(db, place, days)
        total = self._ask(place, asked)
        with self._engine.begin() as db:
            inside, by_day = self._held(db, place, days, asked)
            if total == inside:
                mismatches.clear(db, place.location_id, days)
        if total is None or total == inside:
            verdict = Verdict.NO_TOTAL if total is None else Verdict.EQUAL
            for day, stored in by_day.items():
                yield DayComparison(day, stored, None if total is None else stored, verdict)
        elif len(days) > 1:
            for day in days:
                yield from self._compare(place, [day], run_id)
        else:
            yield from self._settle(place, days[0], asked, total, asked_at, run_id)

    def _bounds(self, db: sa.Connection, place: "_Place", days: Sequence[date]) -> Window:
        """From where to where to ask, so that the total is the same whether HighLevel's bounds are
        inclusive or exclusive (unknown, CONTRACT 2.1).

        A bound lies on no call we hold. It lies a millisecond outside the days where the
        neighbouring day was read too, so that no instant is left out; else inside, because a call
        out there need not be stored. That leaves out at most the instants up to the bound.
        """
        window = Window(
            Window.of_day(days[0], self._zone).start, Window.of_day(days[-1], self._zone).end
        )
        start, to_start = window.start, MILLISECOND
        if days[0] - _DAY in place.aside:
            start, to_start = window.start - MILLISECOND, -MILLISECOND
        end, to_end = window.end - MILLISECOND, -MILLISECOND
        if days[-1] + _DAY in place.aside:
            end, to_end = window.end, MILLISECOND
        return Window(
            call_store.free_instant(db, place.location_id, start, to_start),
            call_store.free_instant(db, place.location_id, end, to_end),
        )

    def _ask(self, place: "_Place", asked: Window) -> int | None:
        """HighLevel's total, read with the credentials of any user of the location.

        Raises:
            PipelineError: no user's credentials can read it, or HighLevel gave no answer.
        """

        def total(user: Connection) -> int | None:
            return self._tokens.spend(
                user.user.id,
                lambda token: self._client.call_total(
                    token, place.location_id, asked.start, asked.end
                ),
            )

        try:
            return read_with_any(place.people, total, place.refused)
        except PipelineError as error:
            if error.failure is FailureClass.LOCATION_PAUSED:
                for person in place.people:
                    self._tokens.report(person.user.id, error.failure)
            raise

    def _held(
        self, db: sa.Connection, place: "_Place", days: Sequence[date], asked: Window
    ) -> tuple[int, dict[date, int]]:
        """What we hold of what was asked for, and of each day."""
        windows = [Window.of_day(day, self._zone) for day in days]
        inside, *counts = call_store.count(
            db, [(place.location_id, window) for window in (asked, *windows)]
        )
        aside = [place.aside[day] for day in days]
        by_day = {day: n + a for day, n, a in zip(days, counts, aside, strict=True)}
        return inside + sum(aside), by_day

    def _settle(
        self,
        place: "_Place",
        day: date,
        asked: Window,
        total: int,
        asked_at: datetime,
        run_id: str | None,
    ) -> Iterator[DayComparison]:
        """Open a day that differs, unless it was read since or has been read again for this."""
        with self._engine.begin() as db:
            # Whoever stores this location's calls has finished, or waits until we have.
            call_store.lock_locations(db, [place.location_id])
            now = read_clock(db, self._now)
            rows = self._complete(db, place, day)
            if not rows or max(map(_read_at, rows)) > asked_at:
                return  # a read under way meanwhile knows better than a total asked for before
            inside, by_day = self._held(db, place, [day], asked)
            stored, difference = by_day[day], total - inside
            # A bound beside the day's own may take in a neighbour's call, or leave one out.
            total = stored + difference
            before = mismatches.read(db, place.location_id, day)
            verdict = Verdict.OPENED
            if difference == 0:
                verdict = Verdict.EQUAL
                mismatches.clear(db, place.location_id, [day])
            elif before is not None and _was_followed_up(before, total, stored, rows):
                verdict = Verdict.CONTRADICTED
            else:
                mismatches.record(db, place.location_id, day, Drift(total, stored, now))
                ledger.record(db, [_opened(row, total, stored, now) for row in rows], run_id)
        yield DayComparison(day, stored, total, verdict)

    def _complete(self, db: sa.Connection, place: "_Place", day: date) -> list[DayResult]:
        """The day's rows of those users of the location for whom it is complete."""
        user_ids: list[UUID] = [person.user.id for person in place.people]
        rows = ledger.results(db, days=[day], user_ids=user_ids)
        done = day_status.finished(rows, place.people, self._zone)
        return [
            row
            for row in rows
            if row.location_id == place.location_id and (row.user.id, row.day) in done
        ]


@dataclass(frozen=True)
class _Place:
    """A location to compare.

    Attributes:
        people: its users who can be synced.
        refused: users whose credentials have failed so far, and why.
        days: what to compare, in order.
        aside: calls set aside by the last read of each complete day, the day before ``days`` too.
    """

    location_id: str
    people: list[Connection]
    refused: dict[UUID, PipelineError]
    days: list[date]
    aside: Mapping[date, int]

    @property
    def name(self) -> str:
        names = (person.location_name for person in self.people)
        return next(filter(None, names), self.location_id)


def _read_at(row: DayResult) -> datetime:
    """When a row was written (UTC); one that does not say is older than any that does."""
    return row.finished_at or datetime.min.replace(tzinfo=UTC)


def _was_followed_up(before: Drift, total: int, stored: int, rows: Sequence[DayResult]) -> bool:
    """Whether the day was opened for these very numbers and has been read from then on."""
    return (before.total, before.stored) == (total, stored) and all(
        row.started_at is not None and row.started_at >= before.opened_at for row in rows
    )


def _opened(row: DayResult, total: int, stored: int, now: datetime) -> DayResult:
    """The row of a day that is not complete after all."""
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

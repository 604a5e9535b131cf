"""Builds the marts: reads one snapshot, computes, verifies and replaces, all or nothing.

A day's marts depend on calls of other days too: callers of the week, calls that follow within 24
hours. So this module also decides which days are stale: those that depend on a day with a newer
ledger entry than the build saw, those built in another time zone or by other rules, and those with
outcomes that have become final since.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import sqlalchemy as sa

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.core.batches import batches
from voiceai_pipeline.core.days import Window, stretches
from voiceai_pipeline.core.outcome import not_final_since, sentences
from voiceai_pipeline.core.settings import BOOKING, MetricRules
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import (
    database_error,
    database_now,
    is_unreachable,
    read_clock,
)
from voiceai_pipeline.database.mart_tables import FIRST_DAY, LAST_DAY, LOOK_BACK
from voiceai_pipeline.marts import (
    call_fact_store,
    call_reader,
    frozen,
    location_reader,
    mart_status,
    mart_store,
    metrics,
    period_store,
)
from voiceai_pipeline.marts.mart_store import MartState

CALLS_AT_ONCE: Final = 125_000
"""The most calls of a batch, unless one location alone has more; bounds memory."""

BATCHES_AT_ONCE: Final = 2
"""Batches built concurrently. The database does nearly all of the work, in one process each."""

LOCATIONS_AT_ONCE: Final = 200

ENTRIES_AT_ONCE: Final = 50_000
"""The most ledger entries that one check for stale marts reads, which takes about a second."""

VISIBILITY_LAG: Final = timedelta(hours=6)
"""A ledger entry can become visible this long after its time: as long as a run may take
(dagster.yaml)."""

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Stale:
    """The stale marts that one check of the ledger found.

    Attributes:
        days: the stale days, each with the ids of its locations.
        checked_until: if there are none, the next check can start here (UTC).
        fingerprint: changes when something new makes a mart stale.
    """

    days: Mapping[date, Collection[str]]
    checked_until: datetime
    fingerprint: str


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        days: the days built, in order.
        locations: how many locations have marts for them.
        disagreements: sentences about marts that do not add up to the calls; these locations keep
            the marts they had.
        failures: sentences about days of locations whose marts could not be built, and why. They
            too keep the marts they had.
    """

    days: tuple[date, ...]
    locations: int
    disagreements: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass
class _Wrong:
    disagreements: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Marts:
    """Builds marts, and finds the stale ones.

    Args:
        zone: the pipeline's time zone, which defines the ledger's days.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        zone: ZoneInfo,
        rules: MetricRules,
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._zone = zone
        self._rules = rules
        self._version = metrics.version(rules)
        self._now = now

    def build(
        self, days: Collection[date], location_ids: Collection[str] | None = None
    ) -> BuildResult:
        """Compute the marts of ``days`` and replace the stored ones.

        A location's marts are replaced only if they add up to its calls: all days together, or day
        by day if that fails. A failure of one location affects no other.

        Args:
            days: days of each location's own time zone.
            location_ids: None: all locations with calls or a ledger entry.

        Raises:
            PipelineError: DATABASE, if the database cannot be reached or read.
        """
        wanted = sorted(days)
        locations, wrong = 0, _Wrong()
        try:
            for stretch in stretches(wanted):
                found = self._sizes(stretch, location_ids)
                parts = list(batches(found, CALLS_AT_ONCE, LOCATIONS_AT_ONCE))
                self._build_all(parts, stretch, wrong)
                locations = max(locations, len(found))
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        sentences = tuple(wrong.disagreements), tuple(wrong.failures)
        return BuildResult(tuple(wanted), locations, *sentences)

    def _build_all(self, batches: list[list[str]], days: list[date], wrong: _Wrong) -> None:
        """Build batches, which have different locations, ``BATCHES_AT_ONCE`` at a time."""
        if len(batches) < 2:
            for batch in batches:
                self._build_apart(batch, days, wrong)
            return
        with ThreadPoolExecutor(BATCHES_AT_ONCE, thread_name_prefix="marts") as pool:
            found = [_Wrong() for _ in batches]
            futures = [
                pool.submit(self._build_apart, batch, days, one)
                for batch, one in zip(batches, found, strict=True)
            ]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for one in found:
            wrong.disagreements += one.disagreements
            wrong.failures += one.failures

    def _sizes(self, days: list[date], location_ids: Collection[str] | None) -> dict[str, int]:
        first, last = _enclosing(days)
        with self._engine.begin() as db:
            found = call_reader.sizes(db, first, last, location_ids)
        # A requested location that has no calls any more must not keep its old rows.
        return dict.fromkeys(location_ids or (), 0) | found

    def _build_apart(self, location_ids: list[str], days: list[date], wrong: _Wrong) -> None:
        """Build a batch in one transaction. If that fails, build its halves, down to single
        locations and then single days."""
        try:
            found = self._build(location_ids, days)
            if not found or len(location_ids) == 1:
                wrong.disagreements += found
                return
        except sa.exc.SQLAlchemyError as error:
            if is_unreachable(error):
                raise
            failure = database_error(error)
        except Exception as error:
            failure = unexpected(error)
        if len(location_ids) > 1:
            middle = len(location_ids) // 2
            self._build_apart(location_ids[:middle], days, wrong)
            self._build_apart(location_ids[middle:], days, wrong)
        elif len(days) > 1:
            for day in days:
                self._build_apart(location_ids, [day], wrong)
        else:
            wrong.failures.append(f"{days[0]}, location {location_ids[0]}: {failure.message}.")

    def _build(self, location_ids: list[str], days: list[date]) -> list[str]:
        """Build a batch in one transaction, and roll back if it does not add up; returns the
        disagreements."""
        with self._engine.begin() as holder:
            mart_store.lock(holder, location_ids)
            with call_reader.snapshot(self._engine) as db, db.begin() as transaction:
                self._take_snapshot(db, location_ids)
                wrong = self._compute_and_replace(db, location_ids, days)
                if wrong:
                    transaction.rollback()
        return wrong

    def _take_snapshot(self, db: sa.Connection, location_ids: list[str]) -> None:
        """Start the snapshot of ``db`` at a moment when no sync is writing these locations.

        A ledger entry gets its time before its commit. A snapshot in between could see a newer
        entry but not this one, and the day would never be found stale.
        """
        with self._engine.begin() as gate:
            call_store.lock_locations(gate, location_ids)
            database_now(db)  # the first statement takes the snapshot

    def _compute_and_replace(
        self, db: sa.Connection, location_ids: list[str], days: list[date]
    ) -> list[str]:
        now = read_clock(db, self._now)
        first, last = _enclosing(days)
        ledger = call_reader.ledger_days(
            db, location_ids, days[0] - FIRST_DAY * _DAY, days[-1] + LAST_DAY * _DAY
        )
        windows = {
            location_id: list(mart_status.read_windows(rows, self._zone))
            for location_id, rows in ledger.items()
        }
        locations = location_reader.read_locations(db, location_ids, windows, self._zone)
        zones = {one.location_id: one.zone for one in locations}
        begin = min(days[0] - LOOK_BACK * _DAY, period_store.begin(days[0]))
        kept = frozen.frozen_days(db, zones, self._zone, begin)
        if kept >= {(location_id, day) for location_id in zones for day in days}:
            return []
        weeks = frozen.old_weeks(db, kept, days)
        call_fact_store.refresh(db, zones, first, last, self._rules)
        stored = call_reader.read_calls(db, location_ids, first, last, now)
        rows = metrics.compute(locations, days, stored, self._rules)
        status = mart_status.status(locations, ledger, days, now, self._zone)
        status = status.assign(**_rules_columns(status["day"], self._rules), computed_at=now)
        published = frozen.without(mart_status.published(rows, status), kept, weeks)
        mart_store.replace(db, location_ids, days, published, kept)
        known = frozen.known_from(db, zones, self._zone)
        period_store.replace(db, locations, days[0], now, kept, known)
        return mart_store.disagreements(db, locations, days, kept)

    def unbuilt(self, first: date, before: date) -> int:
        """How many days of locations with calls have no marts of today's definitions yet: from the
        first day to before the second, of the pipeline's zone.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be read.
        """
        with self._engine.begin() as db:
            return frozen.unbuilt_days(db, first, before, self._version)

    def stale(self, since: datetime | None, first: date, last: date) -> Stale:
        """Find the days and locations whose marts are stale or missing.

        Args:
            since: ``checked_until`` of the last check that found nothing (UTC); None: check all.
            first, last: the days that may have marts.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be read.
        """
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            entries = mart_store.ledger_entries(db, since, ENTRIES_AT_ONCE)
            is_all = len(entries) < ENTRIES_AT_ONCE
            finished = {
                (location_id, day): finished_at
                for location_id, day, finished_at in entries
                if location_id
            }
            names = mart_store.zones(db)
            days_read = [day for _, day in finished]
            states = (
                mart_store.mart_states(
                    db,
                    sorted({location_id for location_id, _ in finished}),
                    min(days_read) - LAST_DAY * _DAY,
                    max(days_read) + FIRST_DAY * _DAY,
                )
                if finished
                else {}
            )
            found = set(mart_store.redefined(db, self._zone, self._version, ENTRIES_AT_ONCE))
            found |= mart_store.now_final(db, not_final_since(now))
            by_name = {
                name: location_reader.zone_of(name) or self._zone for name in set(names.values())
            }
            zones = {location: by_name[name] for location, name in names.items()}
            found |= stale_days(finished, states, zones, self._zone)
            found -= frozen.among(db, found, zones, self._zone)
        days: defaultdict[date, set[str]] = defaultdict(set)
        for location_id, day in found:
            if first <= day <= last:
                days[day].add(location_id)
        affected = {location_id for locations in days.values() for location_id in locations}
        causes = (
            entries[-1][2] if entries else None,
            sorted((location, zones[location].key) for location in affected & zones.keys()),
            sorted((day, sorted(locations)) for day, locations in days.items()),
            self._version,
        )
        return Stale(
            days,
            now - VISIBILITY_LAG if is_all else entries[-1][2],
            hashlib.sha256(repr(causes).encode()).hexdigest()[:16],
        )


def stale_days(
    finished: Mapping[tuple[str, date], datetime],
    states: Mapping[tuple[str, date], MartState],
    zones: Mapping[str, ZoneInfo],
    pipeline_zone: ZoneInfo,
) -> set[tuple[str, date]]:
    """Which (location, day) have stale marts: those that depend on a day with a newer ledger entry
    than their build saw, and those that may have calls now and have no mart.

    Args:
        finished: by location and day of the pipeline's zone, when the entry was written (UTC).
        states: of the marts that may depend on these days.
        zones: each location's time zone; for missing locations the pipeline's is used.
    """
    stale = set()
    for (location_id, day), finished_at in finished.items():
        zone = zones.get(location_id, pipeline_zone)
        own = set(mart_status.overlapping(Window.of_day(day, pipeline_zone), zone))
        for offset in range(-LAST_DAY, FIRST_DAY + 1):
            cell = (location_id, day + offset * _DAY)
            mart = states.get(cell)
            if mart is None:
                if cell[1] in own:
                    stale.add(cell)
            elif mart.synced_at is None or mart.synced_at < finished_at:
                stale.add(cell)
    return stale


def _enclosing(days: Sequence[date]) -> tuple[datetime, datetime]:
    """Instants (UTC) that enclose these days in every time zone: UTC-12 to UTC+14."""
    first = datetime.combine(days[0], time(), UTC) - timedelta(hours=14)
    return first, datetime.combine(days[-1] + _DAY, time(), UTC) + timedelta(hours=12)


def _rules_columns(days: pd.Series, rules: MetricRules) -> dict[str, Any]:
    """The columns that say by which rules the numbers were computed."""
    goals = rules.goal_actions
    begin = pd.Timestamp(metrics.BOOKINGS_SINCE)
    return {
        "goal_actions": ",".join(goals),
        "is_goal_comparable": (days >= begin) | (BOOKING not in goals),
        "rules_version": metrics.version(rules),
        "outcome_rules": "\n".join(
            f"{outcome}: {says}" for outcome, says in sentences(rules).items()
        ),
    }

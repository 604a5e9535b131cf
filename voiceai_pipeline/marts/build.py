"""Builds the marts: reads a consistent moment, computes, verifies, replaces, all or nothing.

A mart of a day counts on calls of other days too (callers of a week, calls that follow within a
day), so what a late call, an edit or a vanished call makes stale is decided here as well, by the
ledger: a day is stale when the ledger has a newer entry for a day it counts on than the one it has
seen, or when it was computed in another zone or by other rules than hold now.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pandas as pd
import sqlalchemy as sa

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.core.days import Window, day_range, stretches
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.engine import database_error, database_now, read_clock
from voiceai_pipeline.database.mart_tables import FIRST_DAY, LAST_DAY, LOOK_BACK, MARTS
from voiceai_pipeline.marts import call_reader, metrics
from voiceai_pipeline.marts import mart_store as tables
from voiceai_pipeline.marts.call_facts import Place
from voiceai_pipeline.marts.call_reader import LedgerDay
from voiceai_pipeline.marts.metrics import MartRows

CALLS_AT_ONCE: Final = 250_000
"""How many calls are computed together: memory stays flat beyond it."""

LOCATIONS_AT_ONCE: Final = 200

NEWS_AT_ONCE: Final = 50_000
"""How many entries of the ledger are looked at together: a second's work."""

UNSEEN: Final = timedelta(hours=6)
"""An entry can become visible this long after its time: no run is longer (dagster.yaml)."""

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Stale:
    """Marts that are not what their calls say, as far as the ledger was looked through.

    Attributes:
        days: the days, with the locations it concerns.
        looked_until: if there are none: up to here there is nothing more to find (UTC).
        fingerprint: the same while nothing new has made anything stale.
    """

    days: Mapping[date, Collection[str]]
    looked_until: datetime
    fingerprint: str


@dataclass(frozen=True)
class Built:
    """What a build came to.

    Attributes:
        days: the days built, in order.
        locations: how many locations have marts for them.
        disagreements: where marts and calls did not add up; these locations were left as they were.
    """

    days: tuple[date, ...]
    locations: int
    disagreements: tuple[str, ...] = ()


class Marts:
    """Computes the marts of days, for all locations or some.

    Args:
        zone: the pipeline's, whose days the ledger has.
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

    def build(self, days: Collection[date], location_ids: Collection[str] | None = None) -> Built:
        """Compute the marts of ``days`` and put them in the place of what is there.

        A location's days change together or not at all, and only if they add up to the calls.

        Args:
            days: days of each location's own zone.
            location_ids: None: all that have calls or an entry in the ledger.

        Raises:
            PipelineError: DATABASE.
        """
        wanted = sorted(days)
        locations, wrong = 0, []
        try:
            for stretch in stretches(wanted):
                found = self._sizes(stretch, location_ids)
                for batch in _batches(found):
                    wrong += self._build(batch, stretch)
                locations = max(locations, len(found))
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        return Built(tuple(wanted), locations, tuple(wrong))

    def _sizes(self, days: list[date], location_ids: Collection[str] | None) -> dict[str, int]:
        first, last = _enclosing(days)
        with self._engine.begin() as db:
            found = call_reader.sizes(db, first, last, location_ids)
        # A location that was asked for and has nothing left must not keep its old rows.
        return dict.fromkeys(location_ids or (), 0) | found

    def _build(self, location_ids: list[str], days: list[date]) -> list[str]:
        """Build a batch in one transaction; what does not add up, location by location."""
        with self._engine.begin() as holder:
            tables.lock(holder, location_ids)
            with call_reader.begin(self._engine) as db, db.begin() as transaction:
                self._take_snapshot(db, location_ids)
                wrong = self._compute_and_replace(db, location_ids, days)
                if wrong:
                    transaction.rollback()
        if wrong and len(location_ids) > 1:
            return [text for one in location_ids for text in self._build([one], days)]
        return wrong

    def _take_snapshot(self, db: sa.Connection, location_ids: list[str]) -> None:
        """Let ``db`` see a moment at which nobody is writing these locations.

        A window's entry in the ledger gets its time before it becomes visible. Were the moment in
        between, a newer entry could be seen and this one not, and the day would never look stale.
        """
        with self._engine.begin() as gate:
            call_store.lock_locations(gate, location_ids)
            database_now(db)  # the first statement fixes what the transaction sees

    def _compute_and_replace(
        self, db: sa.Connection, location_ids: list[str], days: list[date]
    ) -> list[str]:
        now = read_clock(db, self._now)
        first, last = _enclosing(days)
        ledger = call_reader.ledger_days(
            db, location_ids, days[0] - FIRST_DAY * _DAY, days[-1] + LAST_DAY * _DAY
        )
        known = {
            location_id: list(known_times(rows, self._zone)) for location_id, rows in ledger.items()
        }
        places = call_reader.places(db, location_ids, known, self._zone)
        stored = call_reader.read_calls(db, location_ids, first, last)
        rows = metrics.compute(places, days, stored, self._rules)
        status = self._status(places, ledger, days, now)
        tables.replace(db, location_ids, days, _published(rows, status))
        return tables.disagreements(db, places, days, first, last)

    def _status(
        self,
        places: Sequence[Place],
        ledger: Mapping[str, Sequence[LedgerDay]],
        days: Sequence[date],
        now: datetime,
    ) -> pd.DataFrame:
        """How each day stands by the ledger: the columns beside the numbers."""
        goals = self._rules.goal_actions
        rows = []
        for place in places:
            entries = ledger.get(place.location_id, ())
            for day in days:
                whole = Window.of_day(day, place.zone)
                ours = [e for e in entries if -FIRST_DAY <= (e.day - day).days <= LAST_DAY]
                beside = {e.day: e for e in ours}
                overlapping = _overlapping(whole, self._zone)
                incomplete = [d for d in overlapping if not self._is_read(beside.get(d))]
                rows.append(
                    {
                        "location": place.location_id,
                        "day": pd.Timestamp(day),
                        "location_name": place.name,
                        "timezone": place.zone.key,
                        "is_timezone_assumed": place.is_zone_assumed,
                        "is_complete": place.is_known(day, day),
                        "is_7d_complete": place.is_known(day - LOOK_BACK * _DAY, day),
                        "is_over": whole.end <= now,
                        "calls_known_until": place.known_until(day),
                        "last_successful_sync_at": max(
                            (e.succeeded_at for e in ours if e.succeeded_at), default=None
                        ),
                        "incomplete_sync_days": len(incomplete),
                        "synced_at": max((e.finished_at for e in ours if e.finished_at),
                                         default=None),
                        "goal_actions": ",".join(goals),
                        "is_goal_comparable": metrics.BOOKING not in goals
                        or day >= metrics.BOOKINGS_SINCE,
                        "rules_version": self._version,
                        "computed_at": now,
                        "is_in_ledger": any(d in beside for d in overlapping),
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def _is_read(self, entry: LedgerDay | None) -> bool:
        return (
            entry is not None
            and entry.read_until is not None
            and entry.read_until >= Window.of_day(entry.day, self._zone).end
        )

    def stale(self, since: datetime | None, first: date, last: date) -> Stale:
        """Which days' marts are stale or missing, and of which locations.

        Args:
            since: where an earlier look that found nothing ended (UTC); None: look at everything.
            first, last: the days that may have marts.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be read.
        """
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            entries = tables.news(db, since, NEWS_AT_ONCE)
            is_all = len(entries) < NEWS_AT_ONCE
            news = {(at, day): moment for at, day, moment in entries if at}
            names = tables.zones(db)
            reach = [day for _, day in news]
            built = (
                tables.built(
                    db,
                    sorted({at for at, _ in news}),
                    min(reach) - LAST_DAY * _DAY,
                    max(reach) + FIRST_DAY * _DAY,
                )
                if news
                else {}
            )
            found = set(tables.redefined(db, self._zone, self._version, NEWS_AT_ONCE))
        by_name = {name: call_reader.zone_of(name) or self._zone for name in set(names.values())}
        zones = {place: by_name[name] for place, name in names.items()}
        found |= stale_days(news, built, zones, self._zone)
        days: defaultdict[date, set[str]] = defaultdict(set)
        for location_id, day in found:
            if first <= day <= last:
                days[day].add(location_id)
        concerned = {location_id for places in days.values() for location_id in places}
        causes = (
            entries[-1][2] if entries else None,
            sorted((place, zones[place].key) for place in concerned & zones.keys()),
            sorted((day, sorted(places)) for day, places in days.items()),
            self._version,
        )
        return Stale(
            days,
            now - UNSEEN if is_all else entries[-1][2],
            hashlib.sha256(repr(causes).encode()).hexdigest()[:16],
        )


def stale_days(
    news: Mapping[tuple[str, date], datetime],
    built: Mapping[tuple[str, date], tables.Built],
    zones: Mapping[str, ZoneInfo],
    pipeline_zone: ZoneInfo,
) -> set[tuple[str, date]]:
    """Which (location, day) the ledger's news make stale: those that count on a day of the news
    and have seen nothing as new, and those that have calls now and no mart.

    Args:
        news: by location and day of the pipeline's zone, when the entry was written (UTC).
    """
    stale = set()
    for (location_id, day), finished_at in news.items():
        zone = zones.get(location_id, pipeline_zone)
        own = set(_overlapping(Window.of_day(day, pipeline_zone), zone))
        for away in range(-LAST_DAY, FIRST_DAY + 1):
            cell = (location_id, day + away * _DAY)
            mart = built.get(cell)
            if mart is None:
                if cell[1] in own:
                    stale.add(cell)
            elif mart.synced_at is None or mart.synced_at < finished_at:
                stale.add(cell)
    return stale


def known_times(entries: Sequence[LedgerDay], zone: ZoneInfo) -> Iterator[Window]:
    """The times of which every call has been read: days read to their ends join the next."""
    current: Window | None = None
    for entry in entries:
        start = Window.of_day(entry.day, zone).start
        if entry.read_until is None or entry.read_until <= start:
            continue
        if current is not None and current.end == start:
            current = Window(current.start, entry.read_until)
            continue
        if current is not None:
            yield current
        current = Window(start, entry.read_until)
    if current is not None:
        yield current


def _overlapping(window: Window, zone: ZoneInfo) -> list[date]:
    """The days of ``zone`` that have an instant in common with ``window``."""
    first = window.start.astimezone(zone).date()
    last = (window.end - timedelta(microseconds=1)).astimezone(zone).date()
    return day_range(first, last)


def _enclosing(days: Sequence[date]) -> tuple[datetime, datetime]:
    """Instants that enclose these days in every zone on earth: UTC-12 to UTC+14."""
    utc = ZoneInfo("UTC")
    first = datetime.combine(days[0], time(), utc) - timedelta(hours=14)
    return first, datetime.combine(days[-1] + _DAY, time(), utc) + timedelta(hours=12)


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    calls = 0
    for location_id, size in sizes.items():
        if batch and (calls + size > CALLS_AT_ONCE or len(batch) == LOCATIONS_AT_ONCE):
            yield batch
            batch, calls = [], 0
        batch.append(location_id)
        calls += size
    if batch:
        yield batch


def _published(rows: MartRows, status: pd.DataFrame) -> MartRows:
    """The rows as their tables have them: with their status, and only where there is something to
    say: a day that the ledger does not know and that has no call is left out."""
    keys = ["location", "day"]
    daily = rows.daily_call_metrics.merge(status, on=keys)
    any_call = daily["calls"] + daily["trial_calls"] + daily["missing_calls"] > 0
    daily = daily[daily["is_in_ledger"] | any_call]
    beside = status[[*keys, "is_complete", "computed_at"]]
    frames = {"daily_call_metrics": daily}
    for table in MARTS[1:]:
        frame = getattr(rows, table.name)
        frames[table.name] = frame.astype({"location": object}).merge(beside, on=keys)
    for name, frame in frames.items():
        frame = frame.rename(columns={"location": "location_id", "agent": "agent_id"})
        frames[name] = frame.assign(day=[day.date() for day in frame["day"]])
    return MartRows(**frames)

"""What a list of calls can be narrowed to: locations with their time zones, and agents. Also how
much of the chosen days has been read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_filter import Scope
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import Window, day_range
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.period_tables import MONTH, agent_period_metrics
from voiceai_pipeline.database.tables import agents, locations


@dataclass(frozen=True)
class Location:
    """A location that has calls, or may have.

    Attributes:
        name: its latest name, else its id.
        zone: its own; the pipeline's if HighLevel gave none.
    """

    location_id: str
    name: str
    zone: ZoneInfo
    is_zone_assumed: bool = False


@dataclass(frozen=True)
class AgentChoice:
    """An agent that calls can be narrowed to.

    Attributes:
        name: its last known name; None if HighLevel never listed it.
    """

    agent_id: str
    name: str | None
    location_id: str
    is_deleted: bool


@dataclass(frozen=True)
class Coverage:
    """How much of a list has been read, counted in pairs of a location and a day.

    Attributes:
        days: pairs whose day has begun.
        read: pairs read to the end of the day; today counts once it has been read at all.
        failed: pairs without a complete read whose sync failed.
        read_until: up to when today has been read for every location (UTC); None if some location
            has not been read today, or today is not in the list.
        not_kept: pairs whose day's calls are no longer kept.
    """

    days: int
    read: int
    failed: int
    read_until: datetime | None = None
    not_kept: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every day that is kept has been read."""
        return self.missing <= 0

    @property
    def kept(self) -> int:
        return self.days - self.not_kept

    @property
    def missing(self) -> int:
        return self.kept - self.read


def all_locations(
    db: sa.Connection, zone: ZoneInfo, connections: Iterable[Connection] = ()
) -> list[Location]:
    """Every location, by name.

    Args:
        zone: for locations without one.
        connections: their locations are included, even without calls. They also supply names and
            zones that are not stored.
    """
    said = {one.location_id: one for one in connections if one.location_id}
    known = {row.location_id: row for row in db.execute(sa.select(locations))}
    ids = {*known, *call_search.location_ids(db), *said}
    found = []
    for location_id in ids:
        row, user = known.get(location_id), said.get(location_id)
        own = zone_of(row.timezone if row else None) or zone_of(
            user.location_timezone if user else None
        )
        name = (row.name if row else None) or (user.location_name if user else None)
        found.append(Location(location_id, name or location_id, own or zone, own is None))
    return sorted(found, key=lambda one: (one.name.casefold(), one.location_id))


def agents_of(db: sa.Connection, location_ids: Sequence[str], limit: int) -> list[AgentChoice]:
    """At most ``limit`` agents of these locations, by name, deleted ones last. Includes agents that
    HighLevel has listed, and agents that the marts know only from calls."""
    ours = sa.any_(sa.literal(list(location_ids), sa.ARRAY(sa.Text)))
    listed = sa.select(
        agents.c.location_id,
        agents.c.agent_id,
        agents.c.name,
        agents.c.missing_since.is_not(None).label("gone"),
    ).where(agents.c.location_id == ours)
    counted = agent_period_metrics
    is_listed = sa.exists().where(
        agents.c.location_id == counted.c.location_id, agents.c.agent_id == counted.c.agent_id
    )
    unlisted = (
        sa.select(
            counted.c.location_id,
            counted.c.agent_id,
            sa.null(),
            sa.func.bool_or(counted.c.is_agent_deleted),
        )
        .where(
            counted.c.location_id == ours,
            counted.c.period == MONTH,
            counted.c.agent_id != "",
            ~is_listed,
        )
        .group_by(counted.c.location_id, counted.c.agent_id)
    )
    every = sa.union_all(listed, unlisted).subquery("every")
    query = (
        sa.select(every)
        .order_by(every.c.gone, sa.func.lower(every.c.name), every.c.location_id, every.c.agent_id)
        .limit(limit)
    )
    return [
        AgentChoice(row.agent_id, row.name, row.location_id, row.gone) for row in db.execute(query)
    ]


def coverage(
    db: sa.Connection,
    scopes: Sequence[Scope],
    zone: ZoneInfo,
    now: datetime,
    kept_since: date | None = None,
) -> Coverage | None:
    """How much of ``scopes`` has been read; None if a scope has no window, no day has begun, or
    there are too many days to look up.

    Args:
        zone: the pipeline's time zone, which defines the ledger's days.
        now: aware UTC.
        kept_since: the first day of which calls are kept; None: all are.
    """
    if len(scopes) > _MOST_DAYS:
        return None
    ranges = [
        (scope.location_id, *_days(scope.window, zone, now)) for scope in scopes if scope.window
    ]
    ranges = [(location, first, last) for location, first, last in ranges if first <= last]
    length = sum((last - first).days + 1 for _, first, last in ranges)
    if any(scope.window is None for scope in scopes) or not 0 < length <= _MOST_DAYS:
        return None
    first, last = min(one[1] for one in ranges), max(one[2] for one in ranges)
    every = day_range(first, last)
    row = db.execute(
        _COVERAGE,
        {
            "ids": [location for location, _, _ in ranges],
            "firsts": [begin for _, begin, _ in ranges],
            "lasts": [end for _, _, end in ranges],
            "days": every,
            "ends": [Window.of_day(day, zone).end for day in every],
            "first": first,
            "last": last,
            "today": now.astimezone(zone).date(),
            "kept_since": kept_since or first,
        },
    ).one()
    return Coverage(row.days, row.read, row.failed, row.read_until, row.not_kept)


# Counted in SQL, not in Python: a page of a hundred locations and thirty days has 3,000 pairs.
_COVERAGE: Final = sa.text(
    """
    WITH wanted AS (
        SELECT DISTINCT given.location_id, one.day, one.ends
        FROM unnest(CAST(:ids AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[]))
          AS given(location_id, first, last)
        JOIN unnest(CAST(:days AS date[]), CAST(:ends AS timestamptz[])) AS one(day, ends)
          ON one.day BETWEEN given.first AND given.last),
    ledger AS (
        SELECT location_id, day, max(read_until) FILTER (WHERE state = 'complete') AS read_until,
               bool_or(state = 'failed') AS failed, bool_or(state <> 'not_kept') AS is_wanted
        FROM sync_ledger WHERE day BETWEEN :first AND :last AND location_id = ANY(:ids)
        GROUP BY location_id, day)
    SELECT count(*) AS days,
           count(*) FILTER (WHERE read_until >= ends OR day = :today AND read_until IS NOT NULL)
             AS read,
           count(*) FILTER (WHERE day < :kept_since AND is_wanted IS NOT TRUE) AS not_kept,
           count(*) FILTER (WHERE failed AND read_until IS NULL) AS failed,
           CASE WHEN count(*) FILTER (WHERE day = :today AND read_until IS NOT NULL)
                   = count(DISTINCT location_id)
                THEN min(read_until) FILTER (WHERE day = :today) END AS read_until
    FROM wanted LEFT JOIN ledger USING (location_id, day)
    """
).columns(
    days=sa.Integer, read=sa.Integer, not_kept=sa.Integer, failed=sa.Integer, read_until=UtcDateTime
)

_MOST_DAYS: Final = 20_000
"""The most pairs of a location and a day that a page looks up in the ledger."""


def _days(window: Window, zone: ZoneInfo, now: datetime) -> tuple[date, date]:
    """The first and the last day of ``zone`` that overlap the window and have begun; if there is
    none, the last is before the first."""
    first, end = window.start.astimezone(zone).date(), min(window.end, now)
    if end <= window.start:
        return first, first - timedelta(days=1)
    return first, (end - timedelta(microseconds=1)).astimezone(zone).date()


def zone_of(name: str | None) -> ZoneInfo | None:
    """The time zone of an IANA name; None without a name, or if it is unknown."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        return None

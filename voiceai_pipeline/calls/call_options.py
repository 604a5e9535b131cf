"""What a list of calls can be narrowed to: locations with their time zones, and agents; and how far
the chosen days have been read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_filter import Scope
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState, Window, day_range
from voiceai_pipeline.database.period_tables import MONTH, agent_period_metrics
from voiceai_pipeline.database.tables import agents, locations, sync_ledger


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
        name: its last known one; None: HighLevel never listed it.
    """

    agent_id: str
    name: str | None
    location_id: str
    is_deleted: bool


@dataclass(frozen=True)
class Coverage:
    """How much of a list has been read, counted in pairs of a location and a day.

    Attributes:
        days: days that have begun.
        read: days read to their end; today counts as soon as it was read.
        failed: days without a complete read whose sync failed.
        read_until: up to when today was read for every location (UTC); None: not for every one, or
            today is not in the list.
    """

    days: int
    read: int
    failed: int
    read_until: datetime | None = None

    @property
    def is_complete(self) -> bool:
        return self.read >= self.days

    @property
    def missing(self) -> int:
        return self.days - self.read


def all_locations(
    db: sa.Connection, zone: ZoneInfo, connections: Iterable[Connection] = ()
) -> list[Location]:
    """Every location, by name.

    Args:
        zone: of locations that have none.
        connections: their locations are added, which may have no calls yet; a connection may
            also know a name or a zone.
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
    """The agents of some locations, those that were deleted last, at most ``limit`` of them: all
    that HighLevel listed, and all that the marts know from calls."""
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
    db: sa.Connection, scopes: Sequence[Scope], zone: ZoneInfo, now: datetime
) -> Coverage | None:
    """How far the days of ``scopes`` have been read; None: too many to look at, or without a
    beginning.

    Args:
        zone: the pipeline's: the ledger has its days.
        now: aware UTC.
    """
    days = {
        (scope.location_id, day)
        for scope in scopes
        if scope.window is not None
        for day in _days(scope.window, zone, now)
    }
    if any(scope.window is None for scope in scopes) or not 0 < len(days) <= _MOST_DAYS:
        return None
    today = now.astimezone(zone).date()
    is_read = (sync_ledger.c.state == DayState.COMPLETE.value) & sync_ledger.c.read_until.is_not(
        None
    )
    query = (
        sa.select(
            sync_ledger.c.location_id,
            sync_ledger.c.day,
            sa.func.max(sync_ledger.c.read_until).filter(is_read).label("read_until"),
            sa.func.bool_or(sync_ledger.c.state == DayState.FAILED.value).label("failed"),
        )
        .where(
            sync_ledger.c.day.between(min(day for _, day in days), max(day for _, day in days)),
            sync_ledger.c.location_id
            == sa.any_(sa.literal(sorted({one for one, _ in days}), sa.ARRAY(sa.Text))),
        )
        .group_by(sync_ledger.c.location_id, sync_ledger.c.day)
    )
    ledger = {(row.location_id, row.day): row for row in db.execute(query)}
    ends = {day: Window.of_day(day, zone).end for day in {day for _, day in days}}
    read, failed, until = 0, 0, []
    for key in days:
        row = ledger.get(key)
        if row is not None and row.read_until is not None:
            is_done = key[1] == today or row.read_until >= ends[key[1]]
            read += is_done
            if key[1] == today:
                until.append(row.read_until)
        if row is None or row.read_until is None:
            failed += bool(row is not None and row.failed)
    is_all = len(until) == len({one for one, _ in days})
    return Coverage(len(days), read, failed, min(until) if until and is_all else None)


_MOST_DAYS: Final = 20_000
"""Days of locations that a page looks up in the ledger."""


def _days(window: Window, zone: ZoneInfo, now: datetime) -> list[date]:
    """The pipeline's days that a window touches and that have begun."""
    end = min(window.end, now)
    if end <= window.start:
        return []
    last = end.astimezone(zone).date()
    if Window.of_day(last, zone).start >= end:
        last = date.fromordinal(last.toordinal() - 1)
    return day_range(window.start.astimezone(zone).date(), last)


def zone_of(name: str | None) -> ZoneInfo | None:
    """The time zone of an IANA name; None for no name and for an unknown one."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        return None

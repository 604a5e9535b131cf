"""Read-only queries of stored calls and of the ledger, for checks and the UI. No result contains a
phone number, a name or a transcript.

Days are passed to the database as instants, so that Python's time zone data is the only one that
matters.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.core.days import Window, day_range


@dataclass(frozen=True)
class Talk:
    """A day's calls: their total length in minutes, and how many of them were trial calls."""

    minutes: float = 0.0
    trial_calls: int = 0


def talk(
    db: sa.Connection, days: Collection[date], zone: ZoneInfo, location_ids: Collection[str]
) -> dict[date, Talk]:
    """Call minutes and trial calls on each of ``days`` at these locations, without missing calls.

    Args:
        zone: the time zone of the days.
    """
    # One scan for all days; a join with their windows would scan once per day.
    query = sa.text(
        "SELECT width_bucket(started_at, CAST(:starts AS timestamptz[])) AS nth, "
        "       coalesce(sum(duration_seconds), 0) / 60 AS minutes, "
        "       count(*) FILTER (WHERE is_trial) AS trial_calls "
        "FROM call_logs WHERE started_at >= :start AND started_at < :end "
        "     AND location_id = ANY(CAST(:locations AS text[])) AND missing_since IS NULL "
        "GROUP BY nth"
    )
    every = day_range(min(days), max(days))
    values = {
        "starts": [Window.of_day(day, zone).start for day in every],
        "start": Window.of_day(every[0], zone).start,
        "end": Window.of_day(every[-1], zone).end,
        "locations": sorted(location_ids),
    }
    found = {
        every[row.nth - 1]: Talk(row.minutes, row.trial_calls) for row in db.execute(query, values)
    }
    return {day: found.get(day, Talk()) for day in days}


def calls_at_several_locations(db: sa.Connection, window: Window) -> dict[str, list[str]]:
    """Calls of ``window`` stored under more than one location: call id to location ids."""
    values: dict[str, Any] = {"start": window.start, "end": window.end}
    inside = "started_at >= :start AND started_at < :end AND missing_since IS NULL"
    # A second query gets their locations, if there are any: a single one would sort all calls.
    query = f"SELECT call_id FROM call_logs WHERE {inside} GROUP BY call_id HAVING count(*) > 1"  # noqa: S608 - our own SQL
    values["ids"] = list(db.execute(sa.text(query), values).scalars())
    if not values["ids"]:
        return {}
    query = (
        "SELECT call_id, array_agg(location_id ORDER BY location_id) AS locations FROM call_logs "  # noqa: S608 - likewise
        f"WHERE {inside} AND call_id = ANY(CAST(:ids AS text[])) GROUP BY call_id ORDER BY call_id"
    )
    return {row.call_id: list(row.locations) for row in db.execute(sa.text(query), values)}


def action_types(db: sa.Connection, window: Window, known: Collection[str]) -> dict[str, int]:
    """Types of call actions in ``window`` that are not in ``known``, and how many of each."""
    query = sa.text(
        "SELECT action ->> 'actionType' AS kind, count(*) AS actions FROM call_logs, "
        "       jsonb_array_elements(executed_call_actions) AS action "
        "WHERE started_at >= :start AND started_at < :end AND missing_since IS NULL "
        "      AND jsonb_typeof(action -> 'actionType') = 'string' "
        "      AND action ->> 'actionType' <> ALL(CAST(:known AS text[])) "
        "GROUP BY kind ORDER BY actions DESC, kind"
    )
    values = {"start": window.start, "end": window.end, "known": sorted(known)}
    return {row.kind: row.actions for row in db.execute(query, values)}


def calls_by_day(
    db: sa.Connection, days: Collection[date], zone: ZoneInfo
) -> dict[tuple[str, date], int]:
    """The number of calls by location and day, from the ledger; only days complete to their end."""
    query = sa.text(
        "SELECT location_id, day, max(stored) AS calls FROM sync_ledger "
        "JOIN unnest(CAST(:days AS date[]), CAST(:ends AS timestamptz[])) AS e(day, ends) "
        "     USING (day) WHERE state = 'complete' AND read_until >= ends "
        "GROUP BY location_id, day"
    )
    rows = db.execute(query, {"days": list(days), "ends": _ends(days, zone)})
    return {(row.location_id, row.day): row.calls or 0 for row in rows}


def last_complete_days(
    db: sa.Connection, locations: Mapping[UUID, str], zone: ZoneInfo
) -> dict[UUID, date]:
    """Each user's last day that is complete to its end, by user id; users without one are absent.

    One primary-key lookup per user, however long the ledger is.

    Args:
        locations: each user's current location, by user id.
    """
    first, last = db.execute(sa.text("SELECT min(day), max(day) FROM sync_ledger")).one()
    if first is None:
        return {}
    query = sa.text(
        "SELECT p.user_id, last.day FROM unnest(CAST(:users AS uuid[]), CAST(:locations AS text[]))"
        " AS p(user_id, location_id), "
        "LATERAL (SELECT l.day FROM sync_ledger l WHERE l.user_id = p.user_id "
        "         AND l.location_id = p.location_id AND l.state = 'complete' "
        "         AND l.read_until >= (CAST(:ends AS timestamptz[]))[l.day - :first + 1] "
        "         ORDER BY l.day DESC LIMIT 1) AS last"
    )
    values = {"users": list(locations), "locations": list(locations.values()), "first": first}
    values |= {"ends": _ends(day_range(first, last), zone)}
    return {row.user_id: row.day for row in db.execute(query, values)}


def _ends(days: Collection[date], zone: ZoneInfo) -> list[datetime]:
    """The instant at which each day ends (UTC)."""
    return [Window.of_day(day, zone).end for day in days]

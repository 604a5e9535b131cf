"""What checks and the UI ask of stored calls and of the ledger. Nothing is written here, and no
answer holds a number, a name or a transcript.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.models import Window


@dataclass(frozen=True)
class Talk:
    """What was said on a day: minutes of all its calls, and how many of them were trial calls."""

    minutes: float = 0.0
    trial_calls: int = 0


def talk(
    db: sa.Connection, windows: Mapping[date, Window], location_ids: Collection[str]
) -> dict[date, Talk]:
    """How long people talked on each day at some locations, missing calls not counted."""
    query = sa.text(
        "SELECT d.day, coalesce(sum(c.duration_seconds), 0) / 60 AS minutes, "
        "       count(*) FILTER (WHERE c.is_trial) AS trial_calls "
        "FROM unnest(CAST(:days AS date[]), CAST(:starts AS timestamptz[]), "
        "            CAST(:ends AS timestamptz[])) AS d(day, starts, ends) "
        "LEFT JOIN call_logs c ON c.location_id = ANY(CAST(:places AS text[])) "
        "     AND c.started_at >= d.starts AND c.started_at < d.ends AND c.missing_since IS NULL "
        "GROUP BY d.day"
    )
    values = {
        "days": list(windows),
        "starts": [window.start for window in windows.values()],
        "ends": [window.end for window in windows.values()],
        "places": sorted(location_ids),
    }
    return {row.day: Talk(row.minutes, row.trial_calls) for row in db.execute(query, values)}


def calls_at_several_locations(db: sa.Connection, window: Window) -> dict[str, list[str]]:
    """Calls of ``window`` that are stored under more than one location: by call id, where."""
    query = sa.text(
        "SELECT call_id, array_agg(location_id ORDER BY location_id) AS places FROM call_logs "
        "WHERE started_at >= :start AND started_at < :end AND missing_since IS NULL "
        "GROUP BY call_id HAVING count(*) > 1 ORDER BY call_id"
    )
    rows = db.execute(query, {"start": window.start, "end": window.end})
    return {row.call_id: list(row.places) for row in rows}


def action_types(db: sa.Connection, window: Window, known: Collection[str]) -> dict[str, int]:
    """The types of the actions in ``window`` that are none of ``known``, and how many of each."""
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
    """How many calls each location has on each of ``days``, by the ledger; only days that are
    complete to their end."""
    query = sa.text(
        "SELECT location_id, day, max(stored) AS calls FROM sync_ledger "
        "WHERE day = ANY(CAST(:days AS date[])) AND state = 'complete' "
        "      AND read_until >= (day + 1)::timestamp AT TIME ZONE :zone "
        "GROUP BY location_id, day"
    )
    rows = db.execute(query, {"days": sorted(days), "zone": zone.key})
    return {(row.location_id, row.day): row.calls or 0 for row in rows}


def last_complete_days(
    db: sa.Connection, places: Mapping[UUID, str], zone: ZoneInfo
) -> dict[UUID, date]:
    """The last day that is complete to its end, of each user at their location; users without one
    are absent. One look into the primary key per user, however long the ledger is."""
    query = sa.text(
        "SELECT p.user_id, last.day FROM unnest(CAST(:users AS uuid[]), CAST(:places AS text[])) "
        "     AS p(user_id, location_id), "
        "LATERAL (SELECT l.day FROM sync_ledger l WHERE l.user_id = p.user_id "
        "         AND l.location_id = p.location_id AND l.state = 'complete' "
        "         AND l.read_until >= (l.day + 1)::timestamp AT TIME ZONE :zone "
        "         ORDER BY l.day DESC LIMIT 1) AS last"
    )
    values = {"users": list(places), "places": list(places.values()), "zone": zone.key}
    return {row.user_id: row.day for row in db.execute(query, values)}

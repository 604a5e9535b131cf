"""Reads the marts' locations and agents: time zones, names, and when which settings applied."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import agent_names, agent_settings, agents
from voiceai_pipeline.marts.call_counts import AgentFacts, AgentSettings, MartLocation

DIRECTORY: Final = (
    sa.text(
        "SELECT location_id, coalesce(l.name, k.location_name) AS name, "
        "       coalesce(l.timezone, k.location_timezone) AS timezone "
        "FROM locations l FULL JOIN (SELECT DISTINCT ON (location_id) location_id, location_name, "
        "       location_timezone FROM api_keys WHERE location_id IS NOT NULL "
        "       ORDER BY location_id, location_timezone IS NULL, updated_at DESC NULLS LAST) AS k "
        "USING (location_id)"
    )
    .columns(sa.column("location_id", sa.Text), sa.column("name", sa.Text),
             sa.column("timezone", sa.Text))
    .subquery("directory")
)  # fmt: skip
"""Name and time zone of every location: from ``locations``, else from a connection."""


def read_locations(
    db: sa.Connection,
    location_ids: Collection[str],
    windows: Mapping[str, Sequence[Window]],
    pipeline_zone: ZoneInfo,
) -> list[MartLocation]:
    """The locations with their agents, as stored today.

    Args:
        windows: ``MartLocation.read_windows``, by location.
        pipeline_zone: for locations without a time zone.
    """
    query = sa.select(DIRECTORY).where(DIRECTORY.c.location_id.in_(location_ids))
    rows = {row["location_id"]: row for row in db.execute(query).mappings()}
    agents_of = _agents(db, location_ids)
    found = []
    for location_id in sorted(location_ids):
        row = rows.get(location_id)
        zone = zone_of(row["timezone"] if row else None)
        found.append(
            MartLocation(
                location_id=location_id,
                zone=zone or pipeline_zone,
                is_zone_assumed=zone is None,
                name=row["name"] if row else None,
                agents=agents_of.get(location_id, {}),
                read_windows=tuple(windows.get(location_id, ())),
            )
        )
    return found


def zone_of(name: str | None) -> ZoneInfo | None:
    """The time zone of an IANA name; None for no name and for an unknown one."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        return None


def _agents(db: sa.Connection, location_ids: Collection[str]) -> dict[str, dict[str, AgentFacts]]:
    names: defaultdict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    history = (
        sa.select(agent_names)
        .where(agent_names.c.location_id.in_(location_ids))
        .order_by(agent_names.c.since)
    )
    for row in db.execute(history):
        names[row.location_id, row.agent_id].append((row.since, row.name))
    query = sa.select(agents).where(agents.c.location_id.in_(location_ids))
    found: defaultdict[str, dict[str, AgentFacts]] = defaultdict(dict)
    settings = _settings(db, location_ids)
    for row in db.execute(query):
        key = row.location_id, row.agent_id
        # Without a history, only today's settings are known.
        today = {"timezone": row.timezone} | {
            name: row.raw.get(name) for name in ("maxCallDuration", "agentWorkingHours")
        }
        found[row.location_id][row.agent_id] = AgentFacts(
            names=tuple(names[key]),
            is_deleted=row.missing_since is not None,
            settings=tuple(settings.get(key, [(row.first_seen_at, _settings_of(today))])),
        )
    return found


def _settings(
    db: sa.Connection, location_ids: Collection[str]
) -> dict[tuple[str, str], list[tuple[datetime, AgentSettings]]]:
    query = (
        sa.select(agent_settings)
        .where(agent_settings.c.location_id.in_(location_ids))
        .order_by(agent_settings.c.since)
    )
    found: defaultdict[tuple[str, str], list[tuple[datetime, AgentSettings]]] = defaultdict(list)
    for row in db.execute(query):
        found[row.location_id, row.agent_id].append((row.since, _settings_of(row.settings)))
    return found


def _settings_of(sent: Mapping[str, Any]) -> AgentSettings:
    longest = sent.get("maxCallDuration")
    is_number = isinstance(longest, (int, float)) and not isinstance(longest, bool)
    return AgentSettings(
        zone=zone_of(sent.get("timezone")),
        # HighLevel may send a number of any size; no call lasts for years.
        max_seconds=float(min(longest, 1e8)) if longest and is_number and longest > 0 else None,
        working_hours=sent.get("agentWorkingHours"),
    )

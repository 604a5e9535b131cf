"""Derives the facts of stored calls; again only if the call, the rules or the time zone changed.

``core/outcome.py`` states the rules in sentences; this module has the SQL that applies them.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.core import outcome
from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.copy_format import errors_as_sqlalchemys
from voiceai_pipeline.database.fact_tables import call_facts
from voiceai_pipeline.marts import offsets
from voiceai_pipeline.marts.call_sql import (
    CALLER,
    CALLS,
    DURATION,
    HAS_WORDS,
    IS_FILLED,
    IS_SPEAKER_UNKNOWN,
    OURS,
    SAID,
    TURNS,
    spellings,
)

_EXTRACTIONS: Final = "'DATA_EXTRACTION', 'IN_CALL_DATA_EXTRACTION'"

_COLUMNS: Final = [column.name for column in call_facts.columns]
_UPDATES: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])

# Each step materialized, or PostgreSQL would read every transcript several times.
_REFRESH: Final = f"""
    WITH call AS MATERIALIZED (
        SELECT location_id, call_id, started_at, coalesce(agent_id, '') AS agent_id,
               {DURATION} AS duration, {CALLER} AS caller,
               missing_since IS NULL AND is_trial IS NOT TRUE AS is_counted,
               CASE WHEN jsonb_typeof(translation -> 'language') = 'string' THEN
               nullif(left(lower(btrim(translation ->> 'language')), 35), '') END AS language,
               call_logs.xmin::text::bigint AS row_version, zoned.zone,
               (started_at AT TIME ZONE 'UTC') + make_interval(secs => zoned.seconds) AS local_at,
               said.has_words, said.is_unknown, said.turns,
               action.has_goal, action.has_transfer, action.has_follow_up, action.has_extraction,
               EXISTS (SELECT FROM jsonb_each(
                   CASE jsonb_typeof(extracted_data) WHEN 'object' THEN extracted_data
                   ELSE '{{}}' END) AS entry WHERE {IS_FILLED}) AS is_filled
        FROM {CALLS}
        JOIN unnest(%(places)s::text[], %(zones)s::text[], %(starts)s::timestamptz[],
                    %(ends)s::timestamptz[], %(offsets)s::int[])
            AS zoned(place, zone, starts, ends, seconds)
            ON place = location_id AND started_at >= starts AND started_at < ends
        CROSS JOIN LATERAL (
            SELECT {HAS_WORDS} AS has_words, {IS_SPEAKER_UNKNOWN} AS is_unknown, {TURNS} AS turns
            FROM (SELECT {SAID} AS said OFFSET 0) AS transcribed OFFSET 0) AS said
        CROSS JOIN LATERAL (
            SELECT coalesce(bool_or(type = ANY(%(goals)s)), false) AS has_goal,
                   coalesce(bool_or(type = 'CALL_TRANSFER' AND executed <> ''), false)
                       AS has_transfer,
                   coalesce(bool_or(type = ANY(%(follow_ups)s)), false) AS has_follow_up,
                   coalesce(bool_or(type IN ({_EXTRACTIONS})), false) AS has_extraction
            FROM (SELECT one ->> 'actionType' AS type, one ->> 'executedAt' AS executed
                  FROM jsonb_array_elements(CASE jsonb_typeof(executed_call_actions)
                      WHEN 'array' THEN executed_call_actions ELSE '[]' END) AS one
                  WHERE jsonb_typeof(one) = 'object') AS listed) AS action
        WHERE {OURS} AND NOT EXISTS (
            SELECT FROM call_facts AS fact
            WHERE (fact.location_id, fact.call_id) = (call_logs.location_id, call_logs.call_id)
              AND fact.row_version = call_logs.xmin::text::bigint
              AND fact.rules_version = %(rules)s AND fact.timezone = zoned.zone)),
    judged AS (
        SELECT *, coalesce(turns >= %(turns)s AND round(duration * 1000) >= %(seconds)s * 1000,
                           false) AS is_engaged FROM call)
    INSERT INTO call_facts ({", ".join(_COLUMNS)})
    SELECT location_id, call_id, started_at, agent_id, duration, caller, is_counted, has_words,
           CASE WHEN NOT is_unknown THEN turns END, language, is_engaged, has_goal, has_transfer,
           is_filled,
           CASE WHEN has_goal THEN '{Outcome.GOAL}'
                WHEN has_transfer THEN '{Outcome.TRANSFERRED}'
                WHEN has_follow_up THEN '{Outcome.FOLLOW_UP}'
                WHEN has_extraction OR is_filled THEN '{Outcome.DATA_TAKEN}'
                WHEN is_engaged THEN '{Outcome.ANSWERED}'
                WHEN is_unknown OR duration IS NULL THEN '{Outcome.UNCLEAR}'
                ELSE '{Outcome.NO_CONVERSATION}' END,
           %(rules)s, row_version, zone, local_at::date, extract(hour FROM local_at)
    FROM judged
    ON CONFLICT (location_id, call_id) DO UPDATE SET {_UPDATES}
"""  # noqa: S608 - our own text


def refresh(
    db: sa.Connection,
    zones: Mapping[str, ZoneInfo],
    first: datetime,
    last: datetime,
    rules: MetricRules,
) -> int:
    """Bring the facts of the calls from ``first`` to before ``last`` (UTC) up to date; returns how
    many were derived. Lock the locations first (``mart_store.lock``).

    Args:
        zones: the locations, each with the time zone of its local days.
    """
    where = {"ids": list(zones), "first": first, "last": last}
    values = {
        **where,
        **spellings(db, where),
        **_offsets(zones, first, last),
        "goals": list(rules.goal_actions),
        "follow_ups": list(rules.follow_up_actions),
        "turns": rules.engaged_turns,
        "seconds": rules.engaged_seconds,
        "rules": outcome.version(rules),
    }
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    with errors_as_sqlalchemys(), driver.cursor() as cursor:
        count: int = cursor.execute(_REFRESH, values).rowcount
    return count


def _offsets(zones: Mapping[str, ZoneInfo], first: datetime, last: datetime) -> dict[str, Any]:
    """Each location's offsets from UTC in seconds, and when each applies. They are computed here,
    because the server may not know the zone."""
    known = {zone: offsets.between(zone, first, last) for zone in set(zones.values())}
    rows = [(place, zone, one) for place, zone in zones.items() for one in known[zone]]
    return {
        "places": [place for place, _, _ in rows],
        "zones": [zone.key for _, zone, _ in rows],
        "starts": [one.start for _, _, one in rows],
        "ends": [one.end for _, _, one in rows],
        "offsets": [one.seconds for _, _, one in rows],
    }

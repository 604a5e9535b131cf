"""Computes the marts of weeks and months from those of days and from the facts of calls, in SQL.

Sums come from the marts of days; distinct callers and percentiles come from the facts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.percent import SMALL
from voiceai_pipeline.database.mart_tables import MEASURES, daily_call_metrics
from voiceai_pipeline.database.period_tables import (
    MONTH,
    PERIOD_MARTS,
    WEEK,
    agent_period_metrics,
    period_metrics,
)
from voiceai_pipeline.marts.call_counts import MartLocation
from voiceai_pipeline.marts.metrics import RATIOS

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Period:
    """A week or month; both days belong to it."""

    kind: str
    first: date
    last: date


def periods(first: date, last: date) -> Iterator[Period]:
    """The weeks and months with a day from ``first`` to ``last``."""
    monday = first - first.weekday() * _DAY
    while monday <= last:
        yield Period(WEEK, monday, monday + 6 * _DAY)
        monday += 7 * _DAY
    begin = first.replace(day=1)
    while begin <= last:
        following = (begin + 31 * _DAY).replace(day=1)
        yield Period(MONTH, begin, following - _DAY)
        begin = following


def begin(first: date) -> date:
    """The start of the week or of the month that contains ``first``, whichever is earlier."""
    return min(first - first.weekday() * _DAY, first.replace(day=1))


def replace(
    db: sa.Connection,
    locations: Sequence[MartLocation],
    first: date,
    now: datetime,
    frozen: Collection[tuple[str, date]] = (),
    known_from: Mapping[str, date] = MappingProxyType({}),
) -> None:
    """Replace the periods of these locations, from those that contain ``first`` on: who is a new
    caller in a later period depends on earlier calls. The marts of days must be up to date.

    Args:
        frozen: days that are never computed again, by location; periods with one of them stay.
        known_from: the day from which on all calls of a location are still there; absent: from
            the first.
    """
    ids = [location.location_id for location in locations]
    newest = _newest_days(db, ids)
    stay = {
        (location_id, period.kind, period.first)
        for location_id, day in frozen
        for period in periods(day, day)
    }
    for table in PERIOD_MARTS:
        # Periods that ended before ``first`` are kept, even if they began after ``begin``.
        db.execute(
            sa.text(
                f"DELETE FROM {table.name} WHERE location_id = ANY(CAST(:ids AS text[])) "  # noqa: S608
                "AND first_day >= :begin AND last_day >= :first "
                "AND (location_id, period, first_day) NOT IN (SELECT * FROM unnest("
                "CAST(:stay_ids AS text[]), CAST(:stay_kinds AS text[]), "
                "CAST(:stay_days AS date[])))"
            ),
            {
                "ids": ids,
                "begin": begin(first),
                "first": first,
                "stay_ids": [one for one, _, _ in stay],
                "stay_kinds": [kind for _, kind, _ in stay],
                "stay_days": [day for _, _, day in stay],
            },
        )
    cells = [
        (location, period)
        for location in locations
        if location.location_id in newest
        for period in periods(first, max(first, newest[location.location_id]))
        if (location.location_id, period.kind, period.first) not in stay
    ]
    windows = [
        (Window.of_day(period.first, one.zone).start, Window.of_day(period.last, one.zone).end)
        for one, period in cells
    ]
    values = {
        "ids": [location.location_id for location, _ in cells],
        "kinds": [period.kind for _, period in cells],
        "firsts": [period.first for _, period in cells],
        "lasts": [period.last for _, period in cells],
        "starts": [start for start, _ in windows],
        "ends": [end for _, end in windows],
        "knowns": [known_from.get(location.location_id, date.min) for location, _ in cells],
        "earliest": min((start for start, _ in windows), default=now),
        "now": now,
        "small": SMALL,
    }
    db.execute(sa.text(_OF_LOCATIONS), values)
    db.execute(sa.text(_OF_AGENTS), values)


def _newest_days(db: sa.Connection, location_ids: Sequence[str]) -> dict[str, date]:
    table = daily_call_metrics
    query = (
        sa.select(table.c.location_id, sa.func.max(table.c.day))
        .where(table.c.location_id.in_(location_ids))
        .group_by(table.c.location_id)
    )
    return {row[0]: row[1] for row in db.execute(query)}


_PERCENTILES: Final = ("p50_duration_seconds", "p90_duration_seconds")
_DERIVED: Final = {
    "avg_duration_seconds": "s.talk_seconds / nullif(s.calls - s.calls_without_duration, 0)",
    "max_duration_seconds": "s.max_duration_seconds",
    "talk_minutes": "s.talk_seconds / 60",
    "is_small_sample": "s.calls < :small",
    "is_engaged_small_sample": "s.engaged_calls < :small",
    **{name: f"s.{over}::float8 / nullif(s.{under}, 0)" for name, over, under in RATIOS},
    "unique_callers": "CASE WHEN s.calls IS NOT NULL THEN coalesce(c.unique_callers, 0) END",
    **{name: f"CASE WHEN s.calls IS NOT NULL THEN c.{name} END" for name in _PERCENTILES},
}
_SUMMED: Final = [name for name in MEASURES if name not in _DERIVED]
_MEASURED: Final = ", ".join(f"{_DERIVED.get(name, f's.{name}')} AS {name}" for name in MEASURES)
_SUMS: Final = (
    ", ".join(f"sum(d.{name}) AS {name}" for name in _SUMMED)
    + ", max(d.max_duration_seconds) AS max_duration_seconds"
)
# Set-based steps, each materialized: the facts were written in this transaction, so PostgreSQL has
# no statistics on them, and looking up each period or caller took minutes.
_WITH: Final = """
    WITH p AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:firsts AS date[]),
            CAST(:lasts AS date[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]),
            CAST(:knowns AS date[]))
        AS given(location_id, period, first_day, last_day, starts, ends, known_from)),
    fact AS MATERIALIZED (
        SELECT location_id, agent_id, started_at, nullif(caller, 0) AS caller,
               round(duration_seconds * 1000) / 1000 AS seconds
        FROM call_facts WHERE location_id = ANY(CAST(:ids AS text[])) AND is_counted
          AND started_at >= :earliest),
    c AS MATERIALIZED (
        SELECT p.location_id, p.period, p.first_day, {agent}
               count(DISTINCT fact.caller) AS unique_callers,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50_duration_seconds,
               percentile_cont(0.9) WITHIN GROUP (ORDER BY seconds) AS p90_duration_seconds
        FROM p JOIN fact ON fact.location_id = p.location_id
          AND fact.started_at >= p.starts AND fact.started_at < p.ends
        GROUP BY 1, 2, 3 {group})
"""
_NEW: Final = """,
    first_call AS MATERIALIZED (
        SELECT location_id, caller, min(started_at) AS at FROM call_facts
        WHERE location_id = ANY(CAST(:ids AS text[])) AND is_counted AND caller <> 0
        GROUP BY 1, 2),
    n AS MATERIALIZED (
        SELECT p.location_id, p.period, p.first_day, count(*) AS new_callers
        FROM p JOIN first_call ON first_call.location_id = p.location_id
          AND first_call.at >= p.starts AND first_call.at < p.ends
        GROUP BY 1, 2, 3)
"""
_STATUS: Final = """
    SELECT count(d.calls) AS days_read, max(d.location_name) AS location_name,
           max(d.timezone) AS timezone, max(d.peak_concurrent_calls) AS peak_concurrent_calls,
           count(*) FILTER (WHERE d.is_complete) = p.last_day - p.first_day + 1 AS is_complete
    FROM daily_call_metrics d
    WHERE d.location_id = p.location_id AND d.day BETWEEN p.first_day AND p.last_day
    HAVING count(*) > 0
"""


def _insert(table: sa.Table, names: Sequence[str], query: str) -> str:
    assert {*names, *MEASURES} == {one.name for one in table.columns}  # noqa: S101 - both ours
    return f"INSERT INTO {table.name} ({', '.join((*names, *MEASURES))}) {query}"


_OF_LOCATIONS: Final = _insert(
    period_metrics,
    ("location_id", "period", "first_day", "last_day", "days_read", "location_name", "timezone",
     "new_callers", "returning_callers", "callers_known_since", "peak_concurrent_calls",
     "is_complete", "computed_at"),
    f"""
    {_WITH.format(agent="", group="")}{_NEW}
    SELECT p.location_id, p.period, p.first_day, p.last_day, o.days_read, o.location_name,
           o.timezone, k.new_callers, c.unique_callers - k.new_callers, k.known_since,
           o.peak_concurrent_calls, o.is_complete, :now, {_MEASURED}
    FROM p
    CROSS JOIN LATERAL ({_STATUS}) AS o
    CROSS JOIN LATERAL (
        SELECT {_SUMS} FROM daily_call_metrics d
        WHERE d.location_id = p.location_id AND d.day BETWEEN p.first_day AND p.last_day) AS s
    LEFT JOIN n ON (n.location_id, n.period, n.first_day) = (p.location_id, p.period, p.first_day)
    LEFT JOIN c AS called ON (called.location_id, called.period, called.first_day)
                           = (p.location_id, p.period, p.first_day)
    CROSS JOIN LATERAL (
        SELECT coalesce(called.unique_callers, 0) AS unique_callers,
               called.p50_duration_seconds, called.p90_duration_seconds) AS c
    CROSS JOIN LATERAL (
        SELECT min(d.day) AS known_since,
               CASE WHEN min(d.day) < p.first_day AND s.calls IS NOT NULL
               THEN coalesce(n.new_callers, 0) END AS new_callers
        FROM daily_call_metrics d
        WHERE d.location_id = p.location_id AND d.calls IS NOT NULL AND d.day >= p.known_from) AS k
    """,  # noqa: S608 - our own text
)  # fmt: skip
_OF_AGENTS: Final = _insert(
    agent_period_metrics,
    ("location_id", "period", "first_day", "agent_id", "last_day", "days_read", "agent_name",
     "is_agent_deleted", "is_complete", "computed_at"),
    f"""
    {_WITH.format(agent="fact.agent_id,", group=", 4")}
    SELECT p.location_id, p.period, p.first_day, s.agent_id, p.last_day, o.days_read,
           s.agent_name, s.is_agent_deleted, o.is_complete, :now, {_MEASURED}
    FROM p
    CROSS JOIN LATERAL ({_STATUS}) AS o
    CROSS JOIN LATERAL (
        SELECT d.agent_id, (array_agg(d.agent_name ORDER BY d.day DESC))[1] AS agent_name,
               (array_agg(d.is_agent_deleted ORDER BY d.day DESC))[1] AS is_agent_deleted, {_SUMS}
        FROM agent_performance d
        WHERE d.location_id = p.location_id AND d.day BETWEEN p.first_day AND p.last_day
        GROUP BY d.agent_id) AS s
    LEFT JOIN c ON (c.location_id, c.period, c.first_day, c.agent_id)
                 = (p.location_id, p.period, p.first_day, s.agent_id)
    """,  # noqa: S608 - our own text
)  # fmt: skip

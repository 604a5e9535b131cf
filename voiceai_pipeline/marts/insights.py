"""The queries of the insights page: sums over some days, and over the days to compare them with.

Plain SQL on the marts, without pandas, because the web process runs it. A number is None, never 0,
if its calls were not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.database.fact_tables import call_facts
from voiceai_pipeline.database.mart_tables import (
    agent_performance,
    daily_call_metrics,
    hourly_activity,
    outcome_metrics,
)
from voiceai_pipeline.database.tables import agents, locations

SUMS: Final = (
    "calls", "talk_seconds", "engaged_calls", "goal_calls", "engaged_goal_calls",
    "transferred_calls", "engaged_transferred_calls", "contained_calls", "captured_calls",
    "engaged_captured_calls", "caller_turns", "calls_with_unknown_speakers",
)  # fmt: skip
BUCKETS: Final = tuple(
    column.name for column in daily_call_metrics.c if column.name.startswith("duration_")
)
MOST_AGENTS: Final = 50
"""The most agents in the ranking, which is by calls."""


@dataclass(frozen=True)
class Days:
    """A range of days, inclusive, in each location's own time zone; empty if ``last`` is before
    ``first``."""

    first: date
    last: date

    @property
    def count(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


@dataclass(frozen=True)
class Scope:
    """Which calls the numbers cover.

    Attributes:
        location_id, agent_id: None for all. An agent belongs to a location.
        before: earlier days of the same weekdays, to compare with; empty if the days are not over.
    """

    days: Days
    before: Days
    location_id: str | None = None
    agent_id: str | None = None


@dataclass(frozen=True)
class DaySums:
    """A day's sums over the scope.

    Attributes:
        locations, read, complete: how many locations have a row, have been read, and are complete.
        sums: by name; a sum is None if no location was read.
    """

    day: date
    locations: int
    read: int
    complete: int
    sums: Mapping[str, Any]


@dataclass(frozen=True)
class AgentSums:
    """An agent's sums over the days (``now``) and over the earlier days (``before``), which is None
    unless the location was read on every one of the earlier days."""

    location_id: str
    agent_id: str
    name: str | None
    location_name: str | None
    is_deleted: bool
    now: Mapping[str, Any]
    before: Mapping[str, Any] | None


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        by_day: of the days and of those before, in order; days without any row are absent.
        hours: calls by weekday (1 is Monday) and hour.
        outcomes, outcomes_before: calls and seconds by outcome.
        agents: the busiest first.
        agents_total: how many agents there are, including those left out.
        zones: the IANA names of the days' time zones.
        rules: the outcome rules that the marts were built with, one per line; "" without marts.
    """

    by_day: Sequence[DaySums]
    hours: Mapping[tuple[int, int], int]
    outcomes: Mapping[Outcome, tuple[int, float]]
    outcomes_before: Mapping[Outcome, tuple[int, float]]
    agents: Sequence[AgentSums] = ()
    agents_total: int = 0
    zones: Sequence[str] = ()
    rules: str = ""
    goal_actions: Sequence[str] = field(default_factory=tuple)


def read(db: sa.Connection, scope: Scope) -> Report:
    """The report of a scope, from the stored marts."""
    found, total = _agents(db, scope)
    zones, rules, goals = _definitions(db, scope)
    return Report(
        by_day=_by_day(db, scope),
        hours=_hours(db, scope),
        outcomes=_outcomes(db, scope, scope.days),
        outcomes_before=_outcomes(db, scope, scope.before),
        agents=found,
        agents_total=total,
        zones=zones,
        rules=rules,
        goal_actions=goals,
    )


def all_locations(db: sa.Connection) -> list[tuple[str, str]]:
    """Every location's id and name, by name."""
    name = sa.func.coalesce(locations.c.name, locations.c.location_id)
    query = sa.select(locations.c.location_id, name).order_by(
        sa.func.lower(name), locations.c.location_id
    )
    return [(row[0], row[1]) for row in db.execute(query)]


def time_zones(db: sa.Connection, location_id: str | None) -> list[str | None]:
    """The time zones of a location, or of all locations: IANA names, None if unknown."""
    query = sa.select(locations.c.timezone).distinct()
    if location_id is not None:
        query = query.where(locations.c.location_id == location_id)
    return list(db.execute(query).scalars())


# Queries -----------------------------------------------------------------------------------------


def within(table: sa.Table, days: Days) -> sa.ColumnElement[bool]:
    """SQL condition: the row of a mart is for one of these days."""
    return table.c.day.between(days.first, days.last)


def of_scope(table: sa.Table, scope: Scope) -> list[sa.ColumnElement[bool]]:
    """SQL conditions: the row belongs to the scope's location, and to its agent if the table has
    agents."""
    found: list[sa.ColumnElement[bool]] = []
    if scope.location_id is not None:
        found.append(table.c.location_id == scope.location_id)
    if scope.agent_id is not None and "agent_id" in table.c:
        found.append(table.c.agent_id == scope.agent_id)
    return found


def _by_day(db: sa.Connection, scope: Scope) -> list[DaySums]:
    daily, agent = daily_call_metrics, agent_performance
    source: sa.FromClause = daily
    measured: sa.Table = daily
    if scope.agent_id is not None:
        measured = agent
        source = daily.outerjoin(
            agent,
            (agent.c.location_id == daily.c.location_id)
            & (agent.c.day == daily.c.day)
            & (agent.c.agent_id == scope.agent_id),
        )
    is_read = daily.c.calls.is_not(None)
    query = (
        sa.select(
            daily.c.day,
            sa.func.count().label("locations"),
            sa.func.count().filter(is_read).label("read"),
            sa.func.count().filter(daily.c.is_complete).label("complete"),
            *(
                # An agent without a row had no calls, if its location was read.
                sa.func.sum(sa.case((is_read, sa.func.coalesce(measured.c[name], 0)))).label(name)
                for name in (*SUMS, *BUCKETS)
            ),
        )
        .select_from(source)
        .where(
            sa.or_(within(daily, scope.days), within(daily, scope.before)), *of_scope(daily, scope)
        )
        .group_by(daily.c.day)
        .order_by(daily.c.day)
    )
    return [
        DaySums(
            row["day"],
            row["locations"],
            row["read"],
            row["complete"],
            {name: row[name] for name in (*SUMS, *BUCKETS)},
        )
        for row in db.execute(query).mappings()
    ]


def _agents(db: sa.Connection, scope: Scope) -> tuple[list[AgentSums], int]:
    table, daily = agent_performance, daily_call_metrics
    now, before = within(table, scope.days), within(table, scope.before)
    newest_first = table.c.day.desc()
    was_read = (
        sa.select(
            daily.c.location_id,
            sa.func.max(daily.c.location_name).label("location_name"),
            sa.func.count()
            .filter(within(daily, scope.before), daily.c.calls.is_not(None))
            .label("days_read"),
        )
        .where(
            sa.or_(within(daily, scope.days), within(daily, scope.before)), *of_scope(daily, scope)
        )
        .group_by(daily.c.location_id)
        .subquery("was_read")
    )
    calls = sa.func.coalesce(sa.func.sum(table.c.calls).filter(now), 0)
    query = (
        sa.select(
            table.c.location_id,
            table.c.agent_id,
            sa.func.coalesce(
                sa.func.array_agg(aggregate_order_by(table.c.agent_name, newest_first))[1],
                sa.func.max(agents.c.name),
            ).label("n"),
            sa.func.array_agg(aggregate_order_by(table.c.is_agent_deleted, newest_first))[1].label(
                "is_deleted"
            ),
            # It may have been deleted since its last call was counted.
            sa.func.bool_or(agents.c.missing_since.is_not(None)).label("is_gone"),
            sa.func.max(was_read.c.location_name).label("location_name"),
            sa.func.max(was_read.c.days_read).label("days_read"),
            *(sa.func.coalesce(sa.func.sum(table.c[s]).filter(now), 0).label(s) for s in SUMS),
            *(
                sa.func.coalesce(sa.func.sum(table.c[s]).filter(before), 0).label(f"before_{s}")
                for s in SUMS
            ),
            sa.func.count().over().label("total"),
        )
        .join(was_read, was_read.c.location_id == table.c.location_id)
        .outerjoin(
            agents,
            (agents.c.location_id == table.c.location_id) & (agents.c.agent_id == table.c.agent_id),
        )
        .where(sa.or_(now, before), *of_scope(table, scope))
        .group_by(table.c.location_id, table.c.agent_id)
        .order_by(calls.desc(), table.c.location_id, table.c.agent_id)
        .limit(MOST_AGENTS)
    )
    rows = list(db.execute(query).mappings())
    found = [
        AgentSums(
            row["location_id"],
            row["agent_id"],
            row["n"],
            row["location_name"],
            row["is_deleted"] or row["is_gone"],
            {name: row[name] for name in SUMS},
            {name: row[f"before_{name}"] for name in SUMS}
            if 0 < scope.before.count == row["days_read"]
            else None,
        )
        for row in rows
    ]
    return found, rows[0]["total"] if rows else 0


def _hours(db: sa.Connection, scope: Scope) -> dict[tuple[int, int], int]:
    if scope.agent_id is not None:
        return _hours_of_agent(db, scope)
    table = hourly_activity
    query = (
        sa.select(table.c.weekday, table.c.hour, sa.func.sum(table.c.calls))
        .where(within(table, scope.days), *of_scope(table, scope))
        .group_by(table.c.weekday, table.c.hour)
        .having(sa.func.sum(table.c.calls) > 0)
    )
    return {(row[0], row[1]): row[2] for row in db.execute(query)}


def _hours_of_agent(db: sa.Connection, scope: Scope) -> dict[tuple[int, int], int]:
    """From the calls' facts, in the zone of the location's marts: no mart has hours by agent."""
    daily, fact = daily_call_metrics, call_facts
    local = sa.func.timezone(daily.c.timezone, fact.c.started_at)
    query = (
        sa.select(
            sa.cast(sa.func.extract("isodow", local), sa.Integer),
            sa.cast(sa.func.extract("hour", local), sa.Integer),
            sa.func.count(),
        )
        .join(daily, daily.c.location_id == fact.c.location_id)
        .where(
            *of_scope(fact, scope),
            within(daily, scope.days),
            fact.c.is_counted,
            # For the index; the local day decides.
            fact.c.started_at >= sa.cast(scope.days.first, sa.Date) - sa.text("interval '1 day'"),
            fact.c.started_at < sa.cast(scope.days.last, sa.Date) + sa.text("interval '2 days'"),
            sa.cast(local, sa.Date) == daily.c.day,
        )
        .group_by(sa.text("1"), sa.text("2"))
    )
    return {(row[0], row[1]): row[2] for row in db.execute(query)}


def _outcomes(db: sa.Connection, scope: Scope, days: Days) -> dict[Outcome, tuple[int, float]]:
    table = outcome_metrics
    query = (
        sa.select(table.c.outcome, sa.func.sum(table.c.calls), sa.func.sum(table.c.talk_seconds))
        .where(within(table, days), *of_scope(table, scope))
        .group_by(table.c.outcome)
    )
    found = {row[0]: (int(row[1]), float(row[2])) for row in db.execute(query)}
    return {one: found.get(one.value, (0, 0.0)) for one in Outcome}


def _definitions(db: sa.Connection, scope: Scope) -> tuple[list[str], str, list[str]]:
    table = daily_call_metrics
    query = (
        sa.select(
            sa.func.array_agg(sa.distinct(table.c.timezone)),
            sa.func.max(table.c.outcome_rules),
            sa.func.max(table.c.goal_actions),
        )
        .where(within(table, scope.days), *of_scope(table, scope))
    )  # fmt: skip
    zones, rules, goals = db.execute(query).one()
    return sorted(zones or []), rules or "", (goals or "").split(",")

"""Queries over the marts, for the tables and charts in Dagster. Nothing is written here."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from voiceai_pipeline.database.mart_tables import (
    action_metrics,
    agent_performance,
    daily_call_metrics,
)
from voiceai_pipeline.database.period_tables import agent_period_metrics, period_metrics
from voiceai_pipeline.database.tables import agents


def read_rows(
    db: sa.Connection, table: sa.Table, first: date, last: date, columns: Sequence[str]
) -> pd.DataFrame:
    """These columns of a mart's rows for these days; NULL is None."""
    query = sa.select(*(table.c[name] for name in columns)).where(table.c.day.between(first, last))
    return pd.DataFrame(db.execute(query).fetchall(), columns=list(columns), dtype=object)


def read_sums(
    db: sa.Connection,
    table: sa.Table,
    first: date,
    last: date,
    by: Sequence[str],
    sums: Sequence[str],
) -> pd.DataFrame:
    """Sums over these days and all locations, for each group of ``by``."""
    keys = [table.c[name] for name in by]
    query = (
        sa.select(*keys, *(sa.func.sum(table.c[name]) for name in sums))
        .where(table.c.day.between(first, last))
        .group_by(*keys)
    )
    return pd.DataFrame(db.execute(query).fetchall(), columns=[*by, *sums])


def busiest_agents(
    db: sa.Connection, first: date, last: date, sums: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """The agents with the most calls on these days: latest name, the location's name, sums, and how
    many agents there are (``total``)."""
    table, daily = agent_performance, daily_call_metrics
    named = sa.func.array_agg(aggregate_order_by(table.c.agent_name, table.c.day.desc()))[1]
    latest = sa.func.array_agg(aggregate_order_by(table.c.is_agent_deleted, table.c.day.desc()))[1]
    # It may have been deleted since its last call was counted.
    deleted = sa.or_(latest, sa.func.bool_or(agents.c.missing_since.is_not(None)))
    location_name = sa.func.max(daily.c.location_name)
    calls = sa.func.sum(table.c.calls)
    query = (
        sa.select(
            table.c.location_id,
            table.c.agent_id,
            named.label("agent_name"),
            deleted.label("is_agent_deleted"),
            location_name.label("location_name"),
            *(sa.func.sum(table.c[name]).label(name) for name in sums),
            sa.func.count().over().label("total"),
        )
        .join(daily, (daily.c.location_id == table.c.location_id) & (daily.c.day == table.c.day))
        .outerjoin(
            agents,
            (agents.c.location_id == table.c.location_id) & (agents.c.agent_id == table.c.agent_id),
        )
        .where(table.c.day.between(first, last))
        .group_by(table.c.location_id, table.c.agent_id)
        .order_by(calls.desc(), table.c.location_id, table.c.agent_id)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def busiest_actions(db: sa.Connection, first: date, last: date, limit: int) -> list[dict[str, Any]]:
    """The actions in the most calls of these days: type, name, sums, and how many actions there
    are (``total``)."""
    table = action_metrics
    calls = sa.func.sum(table.c.calls)
    query = (
        sa.select(
            table.c.action_type,
            table.c.action_name,
            # Not additive over action names, but over days and agents: a call has one of each.
            calls.label("calls"),
            sa.func.sum(table.c.actions).label("actions"),
            sa.func.sum(table.c.executed_actions).label("executed_actions"),
            sa.func.count().over().label("total"),
        )
        .where(table.c.day.between(first, last))
        .group_by(table.c.action_type, table.c.action_name)
        .order_by(calls.desc(), table.c.action_type, table.c.action_name)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def actions_of_day(db: sa.Connection, day: date, limit: int) -> list[dict[str, Any]]:
    """A day's rows of ``action_metrics`` with the most calls, with the names of agent and location,
    and how many rows there are (``total``)."""
    table, agent, daily = action_metrics, agent_performance, daily_call_metrics
    of_agent = (
        (agent.c.location_id == table.c.location_id)
        & (agent.c.day == table.c.day)
        & (agent.c.agent_id == table.c.agent_id)
    )
    query = (
        sa.select(
            table,
            agent.c.agent_name,
            agent.c.is_agent_deleted,
            daily.c.location_name,
            sa.func.count().over().label("total"),
        )
        .join(agent, of_agent)
        .join(daily, (daily.c.location_id == table.c.location_id) & (daily.c.day == table.c.day))
        .where(table.c.day == day)
        .order_by(table.c.calls.desc(), *table.primary_key.columns)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def periods_of(db: sa.Connection, day: date) -> tuple[dict[str, int], dict[str, int]]:
    """For the week and the month that contain the day: sums over all locations, and the number of
    agents with calls. A sum leaves out unknown values; without any known value it is absent."""
    names = ("calls", "new_callers", "returning_callers")
    table, agent = period_metrics, agent_period_metrics
    sums: dict[str, int | None] = {}
    busy: dict[str, int] = {}
    for row in db.execute(
        sa.select(table.c.period, *(sa.func.sum(table.c[name]).label(name) for name in names))
        .where(table.c.first_day <= day, table.c.last_day >= day)
        .group_by(table.c.period)
    ).mappings():
        sums |= {f"{name}_of_the_{row['period']}": row[name] for name in names}
    for period, count in db.execute(
        sa.select(agent.c.period, sa.func.count())
        .where(agent.c.first_day <= day, agent.c.last_day >= day)
        .group_by(agent.c.period)
    ):
        busy[f"agents_of_the_{period}"] = count
    return {name: value for name, value in sums.items() if value is not None}, busy


def captured_values(db: sa.Connection, first: date, last: date, limit: int) -> list[dict[str, Any]]:
    """The values captured in the most engaged calls of these days, with the engaged calls of the
    agents that capture them, and how many values there are (``total``).

    An agent that never captures a value does not ask for it: its calls would dilute every share.
    """
    query = sa.text(
        "WITH captured AS ("
        "  SELECT data_key, location_id, agent_id, sum(engaged_filled_calls) AS filled "
        "  FROM data_capture_metrics WHERE day BETWEEN :first AND :last GROUP BY 1, 2, 3), "
        "agent AS ("
        "  SELECT location_id, agent_id, sum(engaged_calls) AS engaged "
        "  FROM agent_performance WHERE day BETWEEN :first AND :last GROUP BY 1, 2) "
        "SELECT data_key, sum(filled)::bigint AS engaged_filled_calls, "
        "       sum(engaged)::bigint AS engaged_calls, count(*) OVER () AS total "
        "FROM captured JOIN agent USING (location_id, agent_id) "
        "GROUP BY data_key ORDER BY 2 DESC, 1 LIMIT :limit"
    )
    values = {"first": first, "last": last, "limit": limit}
    return [dict(row) for row in db.execute(query, values).mappings()]

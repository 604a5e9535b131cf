"""The metadata of a mart's day, read from the stored marts: numbers that Dagster plots, with the
charts and tables of ``charts`` and ``mart_texts``.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.core.percent import percent
from voiceai_pipeline.database.mart_tables import (
    action_metrics,
    agent_performance,
    daily_call_metrics,
    hourly_activity,
    language_metrics,
    outcome_metrics,
)
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.defs import charts
from voiceai_pipeline.defs.mart_texts import (
    Busiest,
    actions_table,
    agents_table,
    day_of_actions_table,
    locations_table,
    outcomes_table,
    values_table,
)
from voiceai_pipeline.marts import queries as mart_queries

PICTURED: Final = 28
"""Days in a chart: four of each weekday."""

ROWS: Final = 30
"""Rows read for a table: more than fit into it."""


def of_days(engine: sa.Engine, days: Sequence[date]) -> dict[str, dict[date, Mapping[str, Any]]]:
    """What the UI shows, by mart and day, from the stored marts."""
    first, last = min(days) - timedelta(days=PICTURED - 1), max(days)
    with engine.begin() as db:
        rows = mart_queries.read_rows(db, daily_call_metrics, min(days), last, _OF_LOCATION)
        sums = {
            table.name: mart_queries.read_sums(db, table, first, last, by, counts)
            for table, (by, counts) in _SUMS.items()
        }
        busiest = {day: _busiest(db, day) for day in days}
        periods = {day: mart_queries.periods_of(db, day) for day in days}
    shown: dict[str, dict[date, Mapping[str, Any]]] = {table.name: {} for table in ALL_MARTS}
    for day in days:
        month = {name: _until(frame, day, PICTURED) for name, frame in sums.items()}
        today = {name: _until(frame, day) for name, frame in sums.items()}
        places = rows[rows["day"] == day]
        shown["daily_call_metrics"][day] = {
            "last_28_days": dg.MetadataValue.md(
                charts.trend(*_by_day(month["daily_call_metrics"], day))
            ),
            **_of_daily(places),
        }
        shown["agent_performance"][day] = {
            "agents_28_days": dg.MetadataValue.md(agents_table(busiest[day].agents)),
            **_of_agents(today["agent_performance"]),
        }
        shown["hourly_activity"][day] = _of_hours(
            today["hourly_activity"], month["hourly_activity"]
        )
        all_calls = _sum(month["daily_call_metrics"], "calls")
        shown["action_metrics"][day] = {
            "actions_28_days": dg.MetadataValue.md(actions_table(busiest[day], all_calls)),
            "actions_of_the_day": dg.MetadataValue.md(
                day_of_actions_table(busiest[day].of_the_day)
            ),
            **_of_actions(today["action_metrics"], today["daily_call_metrics"]),
        }
        shown["data_capture_metrics"][day] = {
            "values_28_days": dg.MetadataValue.md(values_table(busiest[day].values)),
            **_of_captures(today["daily_call_metrics"]),
        }
        goals = max(places["goal_actions"], default="").split(",")
        shown["outcome_metrics"][day] = {
            "outcomes_28_days": dg.MetadataValue.md(
                outcomes_table(_by_outcome(month["outcome_metrics"]), goals)
            ),
            **_by_outcome(today["outcome_metrics"]),
        }
        shown["language_metrics"][day] = _by_language(today["language_metrics"])
        shown["period_metrics"][day], shown["agent_period_metrics"][day] = periods[day]
    return shown


def _busiest(db: sa.Connection, day: date) -> Busiest:
    first = day - timedelta(days=PICTURED - 1)
    return Busiest(
        agents=mart_queries.busiest_agents(db, first, day, _OF_AGENT, ROWS),
        actions=mart_queries.busiest_actions(db, first, day, ROWS),
        of_the_day=mart_queries.actions_of_day(db, day, ROWS),
        values=mart_queries.captured_values(db, first, day, ROWS),
    )


def _until(frame: pd.DataFrame, day: date, count: int = 1) -> pd.DataFrame:
    """The rows of the ``count`` days that end with ``day``."""
    return frame[(frame["day"] > day - timedelta(days=count)) & (frame["day"] <= day)]


def _by_day(month: pd.DataFrame, day: date) -> tuple[dict[date, int], dict[date, int]]:
    """Calls by day, from the first charted day that has a mart; and by day, how many of them belong
    to locations whose day is not complete."""
    begin = min(month["day"], default=day)
    pictured = day_range(begin, day)
    open_ones = month[~month["is_complete"].astype(bool)]
    counts = []
    for frame in (month, open_ones):
        of_day = frame.groupby("day")["calls"].sum().to_dict()
        counts.append({one: int(of_day.get(one, 0)) for one in pictured})
    return counts[0], counts[1]


_OF_LOCATION: Final = (
    "location_id", "day", "is_complete", "location_name", "calls", "trial_calls", "missing_calls",
    "talk_minutes", "engaged_calls", "contained_calls", "engaged_transferred_calls",
    "engaged_goal_calls", "calls_without_transcript", "calls_7d", "calls_previous_7d",
    "is_7d_complete", "calls_known_until", "goal_actions",
)  # fmt: skip
_OF_AGENT: Final = (
    "calls", "talk_minutes", "engaged_calls", "engaged_transferred_calls", "engaged_goal_calls",
)  # fmt: skip
_SUMS: Final[Mapping[sa.Table, tuple[Sequence[str], Sequence[str]]]] = {
    daily_call_metrics: (
        ("day", "is_complete"),
        ("calls", "calls_with_action", "engaged_calls", "engaged_captured_calls"),
    ),
    agent_performance: (("day", "agent_id", "location_id"), ("calls", "engaged_calls")),
    hourly_activity: (
        ("day", "weekday", "hour"), ("calls", "after_hours_calls", "hours_known_calls"),
    ),
    action_metrics: (("day", "is_unknown_type"), ("actions", "executed_actions")),
    outcome_metrics: (("day", "outcome"), ("calls",)),
    language_metrics: (("day", "language"), ("calls",)),
}  # fmt: skip


def _of_daily(places: pd.DataFrame) -> Mapping[str, Any]:
    known = [at for at in places["calls_known_until"] if pd.notna(at)]
    minutes = places["talk_minutes"].dropna()
    return {
        "locations_of_the_day": dg.MetadataValue.md(locations_table(places)),
        "which_day": "each location's own day, in its own time zone",
        **_sums(places, "calls"),
        **({"talk_minutes": round(float(minutes.sum()), 1)} if len(minutes) else {}),
        **_sums(places, "engaged_calls", "trial_calls", "missing_calls"),
        **_sums(places, "calls_without_transcript"),
        **_week(places),
        "locations": len(places),
        "locations_incomplete": int((~places["is_complete"].astype(bool)).sum()),
        "locations_not_read": int(places["calls"].isna().sum()),
        **_percent("engaged_percent", places, "engaged_calls", "calls"),
        **_percent("contained_percent", places, "contained_calls", "engaged_calls"),
        **_percent("transfer_percent", places, "engaged_transferred_calls", "engaged_calls"),
        **_percent("goal_percent", places, "engaged_goal_calls", "engaged_calls"),
        **({"calls_known_until": dg.MetadataValue.timestamp(min(known))} if known else {}),
    }


def _of_agents(today: pd.DataFrame) -> Mapping[str, Any]:
    return {
        "agents": len(today),
        "calls": _sum(today, "calls"),
        "engaged_calls": _sum(today, "engaged_calls"),
        **_percent("engaged_percent", today, "engaged_calls", "calls"),
    }


def _of_hours(today: pd.DataFrame, month: pd.DataFrame) -> Mapping[str, Any]:
    sums = month.groupby(["weekday", "hour"])["calls"].sum().to_dict()
    grid = [[float(sums.get((day, hour), 0)) for hour in range(24)] for day in range(1, 8)]
    by_hour = {int(row["hour"]): int(row["calls"]) for row in today.to_dict("records")}
    return {
        "when_people_call": dg.MetadataValue.md(charts.heat_map(grid)),
        "calls": _sum(today, "calls"),
        **({"busiest_hour": max(by_hour, key=lambda h: by_hour[h])} if by_hour else {}),
        "hours_known_calls": _sum(today, "hours_known_calls"),
        **_percent("after_hours_percent", today, "after_hours_calls", "hours_known_calls"),
    }


def _of_actions(actions: pd.DataFrame, daily: pd.DataFrame) -> Mapping[str, Any]:
    return {
        "calls": _sum(daily, "calls"),
        "calls_with_action": _sum(daily, "calls_with_action"),
        **_percent("calls_with_action_percent", daily, "calls_with_action", "calls"),
        "actions": _sum(actions, "actions"),
        "executed_actions": _sum(actions, "executed_actions"),
        "unknown_actions": _sum(actions[actions["is_unknown_type"].astype(bool)], "actions"),
    }


def _of_captures(daily: pd.DataFrame) -> Mapping[str, Any]:
    return {
        "engaged_calls": _sum(daily, "engaged_calls"),
        "engaged_captured_calls": _sum(daily, "engaged_captured_calls"),
        **_percent("captured_percent", daily, "engaged_captured_calls", "engaged_calls"),
    }


def _by_outcome(rows: pd.DataFrame) -> dict[str, int]:
    """Calls of every outcome, in the order of the rules."""
    sums = rows.groupby("outcome")["calls"].sum()
    return {outcome.value: int(sums.get(outcome.value, 0)) for outcome in Outcome}


def _by_language(rows: pd.DataFrame) -> dict[str, int]:
    """How many calls there are, how many have a known language, and the number of languages."""
    known = rows[rows["language"] != ""]
    return {
        "calls": _sum(rows, "calls"),
        "calls_of_known_language": _sum(known, "calls"),
        "languages": known["language"].nunique(),
    }


def _week(places: pd.DataFrame) -> dict[str, int]:
    """Calls of two weeks, absent unless both were read to their end at every location: a sum that
    misses a location is no trend, and a part of a day compares with no whole one."""
    is_whole = len(places) and places["is_7d_complete"].astype(bool).all()
    return _sums(places, "calls_7d", "calls_previous_7d") if is_whole else {}


def _sum(frame: pd.DataFrame, name: str) -> int:
    return int(frame[name].dropna().sum())


def _sums(places: pd.DataFrame, *names: str) -> dict[str, int]:
    """Sums over the locations that were read; a sum is absent if none was."""
    return {name: _sum(places, name) for name in names if places[name].notna().any()}


def _percent(name: str, frame: pd.DataFrame, over: str, under: str) -> dict[str, float]:
    """A percentage for Dagster to plot: the sum of ``over`` as a share of the sum of ``under``;
    absent if the latter is 0."""
    total = _sum(frame, under)
    return {name: float(percent(_sum(frame, over), total, 1))} if total else {}

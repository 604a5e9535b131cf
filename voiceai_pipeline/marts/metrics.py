"""The metrics: computes the rows of every mart from the stored calls, in pandas.

Definitions are those of REQUIREMENTS section M; where they leave a choice, a comment says which was
made. No SQL, no clock, no Dagster. What each call contributes is in ``call_counts.py``.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from voiceai_pipeline.core.call import ACTION_TYPES
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.percent import SMALL
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts.call_counts import (
    AgentFacts,
    MartLocation,
    StoredCalls,
    with_counts,
    with_local_time,
)

BOOKINGS_SINCE: Final = date(2025, 9, 9)
"""HighLevel lists APPOINTMENT_BOOKING only in calls from this day on (CONTRACT 2.4)."""

_DAY: Final = timedelta(days=1)

_REVISION: Final = 7
"""Increase this when a definition changes, here or in ``call_counts.py``: every mart is rebuilt."""

RATIOS: Final = (
    ("engagement_rate", "engaged_calls", "calls"),
    ("short_call_rate", "short_calls", "calls"),
    ("transfer_rate", "engaged_transferred_calls", "engaged_calls"),
    ("containment_rate", "contained_calls", "engaged_calls"),
    ("strict_containment_rate", "strictly_contained_calls", "strictly_judged_calls"),
    ("goal_rate", "engaged_goal_calls", "engaged_calls"),
    ("capture_rate", "engaged_captured_calls", "engaged_calls"),
    ("callback_rate", "called_back_calls", "callback_judged_calls"),
    ("max_duration_rate", "calls_at_max_duration", "max_duration_known_calls"),
    ("after_hours_rate", "after_hours_calls", "hours_known_calls"),
)
"""Rate, numerator, denominator. If the denominator is engaged calls, the numerator counts only
engaged calls too, so no rate exceeds 1."""


@dataclass(frozen=True)
class MartRows:
    """One frame for each mart, with the columns of ``mart_tables.py`` that follow from calls."""

    daily_call_metrics: pd.DataFrame
    agent_performance: pd.DataFrame
    hourly_activity: pd.DataFrame
    action_metrics: pd.DataFrame
    data_capture_metrics: pd.DataFrame
    outcome_metrics: pd.DataFrame
    language_metrics: pd.DataFrame


def version(rules: MetricRules) -> str:
    """A fingerprint of the definitions and rules: equal versions mean equal definitions."""
    return hashlib.sha256(f"{_REVISION} {rules}".encode()).hexdigest()[:12]


def compute(
    locations: Sequence[MartLocation], days: Sequence[date], stored: StoredCalls, rules: MetricRules
) -> MartRows:
    """Compute the marts of some days for some locations.

    Args:
        days: days of each location's own time zone, in order and without a gap.
        stored: calls outside the days are ignored.
    """
    calls = with_local_time(stored.calls, locations)
    wanted = (calls["day"] >= pd.Timestamp(days[0])) & (calls["day"] <= pd.Timestamp(days[-1]))
    calls = with_counts(calls[wanted], locations, stored, rules)
    around = with_local_time(stored.around, locations)
    by_day = _measured(calls, ["location", "day"], rules)
    return MartRows(
        daily_call_metrics=_daily(by_day, around, locations, days, rules),
        agent_performance=_agents(_measured(calls, ["location", "day", "agent"], rules), locations),
        hourly_activity=_hours(_measured(calls, ["location", "day", "hour"], rules)),
        action_metrics=_actions(calls, stored.actions),
        data_capture_metrics=_captures(calls, stored.captured),
        outcome_metrics=_by(calls, ["agent", "outcome"]),
        language_metrics=_by(calls, ["language"]),
    )


def _measured(calls: pd.DataFrame, by: list[str], rules: MetricRules) -> pd.DataFrame:
    """All measures, one row for each group with any call, even if only a trial or missing one."""
    not_summed = [
        "location",
        "day",
        "hour",
        "agent",
        "call",
        "caller",
        "duration_ms",
        "outcome",
        "language",
    ]
    summed = [name for name in calls.columns if name not in (*not_summed, "is_agent_deleted")]
    groups = calls.groupby(by, observed=True, sort=True)
    table = groups[summed].sum().astype("int64")
    live = calls[calls["calls"] == 1]
    callers = live.loc[live["caller"] != 0, [*by, "caller"]].drop_duplicates()
    table["unique_callers"] = callers.groupby(by, observed=True).size()
    table["unique_callers"] = table["unique_callers"].fillna(0).astype("int64")
    durations = live.loc[live["duration_ms"].notna(), [*by, "duration_ms"]]
    spread = durations.groupby(by, observed=True)["duration_ms"]
    table["avg_duration_seconds"] = spread.mean() / 1000
    table["max_duration_seconds"] = spread.max() / 1000
    for name, share in (("p50_duration_seconds", 0.5), ("p90_duration_seconds", 0.9)):
        table[name] = spread.quantile(share) / 1000
    table["is_agent_deleted"] = groups["is_agent_deleted"].max()
    return _completed(table, rules).reset_index()


def _completed(table: pd.DataFrame, rules: MetricRules) -> pd.DataFrame:
    """Add everything that follows from the sums."""
    derived: dict[str, Any] = {
        "talk_seconds": table["talk_ms"] / 1000,
        "talk_minutes": table["talk_ms"] / 60_000,
        "estimated_cost": _cost(table["billable_minutes"], rules),
        "is_small_sample": table["calls"] < SMALL,
        "is_engaged_small_sample": table["engaged_calls"] < SMALL,
    }
    derived |= {name: _share(table[over], table[under]) for name, over, under in RATIOS}
    return table.assign(**derived).drop(columns="talk_ms")


def _cost(minutes: pd.Series, rules: MetricRules) -> pd.Series:
    """The estimated cost as exact decimals; None without a rate."""
    rate = rules.cost_per_minute
    costs = [None if rate is None else Decimal(int(count)) * rate for count in minutes]
    return pd.Series(costs, index=minutes.index, dtype=object)


def _share(over: pd.Series, under: pd.Series) -> pd.Series:
    """``over / under``; NaN where ``under`` is 0."""
    return over / under.where(under != 0)


def _daily(
    measured: pd.DataFrame,
    around: pd.DataFrame,
    locations: Sequence[MartLocation],
    days: Sequence[date],
    rules: MetricRules,
) -> pd.DataFrame:
    """A row for every location and day, with the callers and the trend of the days before."""
    cells = pd.MultiIndex.from_product(
        [[location.location_id for location in locations], pd.to_datetime(list(days))],
        names=["location", "day"],
    )
    measured = measured.astype({"location": object}).set_index(["location", "day"])
    table = measured.drop(columns="is_agent_deleted").reindex(cells)
    counts = [name for name in map(str, table.columns) if not _may_be_absent(name)]
    table[counts] = table[counts].fillna(0)
    table = table.astype(dict.fromkeys([n for n in counts if n not in _FLOATS], "int64"))
    table["estimated_cost"] = _cost(table["billable_minutes"], rules)
    table["is_small_sample"] = table["calls"] < SMALL
    table["is_engaged_small_sample"] = table["engaged_calls"] < SMALL
    around = around.astype({"location": object})
    table["peak_concurrent_calls"] = _peaks(around).reindex(cells).fillna(0).astype("int64")
    per_day = around.groupby(["location", "day"]).size().to_dict()
    seen = around[around["caller"] != 0].groupby(["location", "day", "caller"]).size()
    seen_day = seen.index.get_level_values("day")
    rows = []
    for day in map(pd.Timestamp, days):
        week = seen[(seen_day > day - 7 * _DAY) & (seen_day <= day)]
        callers = week.groupby(["location", "caller"]).sum()
        all_callers = callers.groupby("location").size()
        repeated = callers[callers >= 2].groupby("location").size()
        for location in locations:
            at = location.location_id
            last = sum(per_day.get((at, day - n * _DAY), 0) for n in range(7))
            before = sum(per_day.get((at, day - n * _DAY), 0) for n in range(7, 14))
            rows.append(
                {
                    "location": at,
                    "day": day,
                    "callers_7d": int(all_callers.get(at, 0)),
                    "repeat_callers_7d": int(repeated.get(at, 0)),
                    "calls_7d": int(last),
                    "calls_previous_7d": int(before),
                    "calls_by_now_last_week": _by_now_last_week(around, location, day, per_day),
                }
            )
    trend = pd.DataFrame(rows).set_index(["location", "day"])
    trend["repeat_caller_rate"] = _share(trend["repeat_callers_7d"], trend["callers_7d"])
    trend["calls_change_7d"] = _share(
        trend["calls_7d"] - trend["calls_previous_7d"], trend["calls_previous_7d"]
    )
    return table.join(trend).reset_index()


def _peaks(around: pd.DataFrame) -> pd.Series:
    """The most calls in progress at once, by location and day. Only starts of calls are examined,
    because the number rises only there. A call without a duration counts at its start."""
    if around.empty:
        return pd.Series(dtype="float64", index=pd.MultiIndex.from_arrays([[], []]))
    # All locations at once, each moved to a time of its own: one by one they would take half of
    # the build. Of locations that come before, as many calls have ended as started.
    starts = around["started_at"].astype("int64").to_numpy()
    lengths = around["duration_ms"].fillna(0).clip(lower=1) * 1000
    ends = starts + lengths.round().astype("int64").to_numpy()
    shift = pd.factorize(around["location"])[0] * int(ends.max() - starts.min() + 1)
    starts, ends = starts + shift, ends + shift
    busy = np.searchsorted(np.sort(starts), starts, "right")
    busy -= np.searchsorted(np.sort(ends), starts, "right")
    of_day = around[["location", "day"]].assign(busy=busy).groupby(["location", "day"])
    return of_day["busy"].max()


_FLOATS: Final = frozenset({"talk_seconds", "talk_minutes"})


def _may_be_absent(name: str) -> bool:
    """Whether the column is NULL on a day without calls."""
    return name.endswith(("_rate", "_duration_seconds")) or name in (
        "estimated_cost",
        "is_small_sample",
        "is_engaged_small_sample",
    )


def _by_now_last_week(
    around: pd.DataFrame, location: MartLocation, day: pd.Timestamp, per_day: Mapping[Any, int]
) -> int:
    """Calls seven days earlier, up to the local time of day until which this day has been read."""
    week_ago = day - 7 * _DAY
    until = location.read_until(day.date())
    if until is None:
        return 0
    now = pd.Timestamp(until).tz_convert(location.zone).tz_localize(None)
    if now >= day + _DAY:
        return int(per_day.get((location.location_id, week_ago), 0))
    mine = around[(around["location"] == location.location_id) & (around["day"] == week_ago)]
    return int((mine["local"] < now - 7 * _DAY).sum())


def _agents(table: pd.DataFrame, locations: Sequence[MartLocation]) -> pd.DataFrame:
    by_id = {location.location_id: location for location in locations}
    names, deleted = [], []
    for location, day, agent, said in zip(
        table["location"], table["day"], table["agent"], table["is_agent_deleted"], strict=True
    ):
        facts = by_id[location].agents.get(agent, AgentFacts())
        name = facts.name_on(Window.of_day(day.date(), by_id[location].zone).end)
        names.append(None if name is None else masked(name))
        deleted.append(bool(said) or facts.is_deleted)
    return table.assign(
        agent_name=pd.Series(names, index=table.index, dtype=object), is_agent_deleted=deleted
    )


def _hours(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="is_agent_deleted").assign(weekday=table["day"].dt.day_of_week + 1)


def _actions(calls: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
    by = ["location", "day", "agent"]
    live = calls.loc[calls["calls"] == 1, [*by, "call"]]
    found = actions.merge(live, on="call")
    found = found.assign(
        name=masked_all(found["name"]), is_unknown_type=~found["type"].isin(ACTION_TYPES)
    ).assign(type=masked_all(found["type"]))
    latency = (found["executed_at"] - found["triggered_at"]).dt.total_seconds()
    # An execution before its trigger comes from a wrong clock and is not a latency.
    found = found.assign(latency=latency.where(latency >= 0))
    groups = found.groupby([*by, "type", "name"], observed=True)
    table = pd.DataFrame(
        {
            "is_unknown_type": groups["is_unknown_type"].max(),
            "actions": groups.size(),
            "executed_actions": groups["is_executed"].sum().astype("int64"),
            "calls": groups["call"].nunique(),
            "timed_actions": groups["latency"].count(),
            "p50_latency_seconds": groups["latency"].quantile(0.5),
            "p90_latency_seconds": groups["latency"].quantile(0.9),
        }
    ).reset_index()
    of_agent = live.groupby(by, observed=True).size().rename("agent_calls").reset_index()
    table = table.merge(of_agent, on=by, how="left")
    return table.assign(
        call_share=_share(table["calls"], table["agent_calls"]),
        is_small_sample=table["agent_calls"] < SMALL,
    ).rename(columns={"type": "action_type", "name": "action_name"})


def _captures(calls: pd.DataFrame, captured: pd.DataFrame) -> pd.DataFrame:
    by = ["location", "day", "agent"]
    live = calls.loc[calls["calls"] == 1, [*by, "call", "engaged_calls"]]
    found = captured.merge(live, on="call")
    # Two keys may become equal once masked: a call fills such a key once.
    found = found.assign(key=masked_all(found["key"])).drop_duplicates(["call", "key"])
    groups = found.groupby([*by, "key"], observed=True)["engaged_calls"]
    table = pd.DataFrame(
        {"filled_calls": groups.size(), "engaged_filled_calls": groups.sum().astype("int64")}
    ).reset_index()
    of_agent = live.groupby(by, observed=True)["engaged_calls"].sum().astype("int64").reset_index()
    table = table.merge(of_agent, on=by, how="left")
    return table.assign(
        fill_rate=_share(table["engaged_filled_calls"], table["engaged_calls"]),
        is_small_sample=table["engaged_calls"] < SMALL,
    ).rename(columns={"key": "data_key"})


def _by(calls: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Calls and seconds of each day, grouped by ``keys``; a call has one value of each."""
    live = calls[calls["calls"] == 1]
    groups = live.groupby(["location", "day", *keys], observed=True)
    table = groups[["calls", "talk_ms"]].sum().astype("int64").reset_index()
    return table.assign(
        talk_seconds=table["talk_ms"] / 1000, talk_minutes=table["talk_ms"] / 60_000
    ).drop(columns="talk_ms")


# Masking -----------------------------------------------------------------------------------------

_PERSONAL: Final = re.compile(r"\+?\d[\d\s().\-/]{5,}\d|\S+@\S+")


NAME_LENGTH: Final = 200
"""The most characters of a name in a mart: PostgreSQL cannot index a few thousand."""


def masked(name: str) -> str:
    """A name that a user chose, with phone numbers and e-mail addresses replaced by "…"; cut to
    ``NAME_LENGTH``."""
    hidden = _PERSONAL.sub("…", name)
    return hidden if len(hidden) <= NAME_LENGTH else f"{hidden[: NAME_LENGTH - 1]}…"


def masked_all(names: Iterable[str]) -> list[str]:
    """``masked`` for many names, of which few are distinct."""
    known: dict[str, str] = {}
    return [known.setdefault(name, masked(name)) for name in names]

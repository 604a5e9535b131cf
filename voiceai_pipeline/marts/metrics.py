"""The metrics: from stored calls to marts, in pandas. Calls in, marts out.

Definitions are those of REQUIREMENTS section M; where they leave a choice, the comment at the place
says which was made. No SQL, no clock, no Dagster, and nothing personal comes in: callers and calls
are numbers, transcripts are counts of turns.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from voiceai_pipeline.core.call import ACTION_TYPES
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.settings import MetricRules

TRANSFER: Final = "CALL_TRANSFER"
BOOKING: Final = "APPOINTMENT_BOOKING"

BOOKINGS_SINCE: Final = date(2025, 9, 9)
"""HighLevel lists APPOINTMENT_BOOKING in calls from this day on only (CONTRACT 2.4)."""

SMALL: Final = 20
"""With fewer calls than this a share says little."""

SHORT_MS: Final = 10_000
BUCKETS_MS: Final = (10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
_BUCKETS: Final = (
    "duration_under_10s",
    "duration_10_to_30s",
    "duration_30_to_60s",
    "duration_60_to_120s",
    "duration_120_to_300s",
    "duration_300_to_600s",
    "duration_600s_and_more",
)
AT_MAX_MS: Final = 2_000
"""How far below the agent's maximum a call still counts as cut off by it."""

FOLLOW_UP: Final = pd.Timedelta(hours=24)

_NO_ROWS: Final = np.array([], dtype=np.intp)
_MINUTES: Final = 7 * 24 * 60
_DAY: Final = timedelta(days=1)

_REVISION: Final = 1
"""To be raised when a definition in here changes: every mart is then computed anew."""

_RATIOS: Final = (
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
"""Shares of engaged calls count engaged calls only, so that none exceeds 1."""


@dataclass(frozen=True)
class AgentFacts:
    """What is known of an agent today.

    Attributes:
        names: what it was called, and since when (UTC), oldest first.
        max_seconds: its maxCallDuration.
        working_hours: its agentWorkingHours, as HighLevel writes them (CONTRACT 3).
    """

    names: tuple[tuple[datetime, str], ...] = ()
    is_deleted: bool = False
    zone: ZoneInfo | None = None
    max_seconds: float | None = None
    working_hours: Any = None

    def name_on(self, until: datetime) -> str | None:
        """Its last name before ``until``; before the first one is known, the first."""
        names = [name for since, name in self.names if since < until] or [
            name for _, name in self.names[:1]
        ]
        return names[-1] if names else None


@dataclass(frozen=True)
class Place:
    """A location, and for which time its calls are known.

    Attributes:
        zone: whose days its marts have.
        is_zone_assumed: HighLevel did not say; the pipeline's zone stands in.
        known: the times of which every call has been read: apart from each other, in order.
    """

    location_id: str
    zone: ZoneInfo
    is_zone_assumed: bool = False
    name: str | None = None
    agents: Mapping[str, AgentFacts] = field(default_factory=dict)
    known: tuple[Window, ...] = ()

    def known_until(self, day: date) -> datetime | None:
        """Up to when the day's calls are known without a gap (UTC); None: not its beginning."""
        whole = Window.of_day(day, self.zone)
        for window in self.known:
            if whole.start in window:
                return min(window.end, whole.end)
        return None

    def is_known(self, first: date, last: date) -> bool:
        """Every call from the first day's beginning to the last day's end has been read."""
        start, end = Window.of_day(first, self.zone).start, Window.of_day(last, self.zone).end
        return any(window.start <= start and end <= window.end for window in self.known)


@dataclass(frozen=True)
class Calls:
    """The stored calls of some places.

    Attributes:
        calls: of the days asked for: ``location``, ``call``, ``agent`` ('' if none),
            ``started_at`` (UTC), ``duration_ms`` (NaN if not given), ``turns`` (of the caller),
            ``is_trial``, ``is_trial_unknown``, ``is_missing``, ``has_transcript``,
            ``has_summary``, ``caller`` and ``number`` (0 if not known).
        actions: of the base set: ``call``, ``type``, ``name``, ``is_executed``, ``triggered_at``,
            ``executed_at`` (NaT if absent or unreadable).
        captured: of the base set: ``call`` and ``key`` of every value that is not empty.
        around: the base set from ``mart_tables.LOOK_BACK`` days before the first day to 24 hours
            after the last: ``location``, ``started_at``, ``caller``, ``number``.
    """

    calls: pd.DataFrame
    actions: pd.DataFrame
    captured: pd.DataFrame
    around: pd.DataFrame


@dataclass(frozen=True)
class MartRows:
    """One frame for each mart: the columns of ``database/mart_tables.py`` that follow from
    calls."""

    daily_call_metrics: pd.DataFrame
    agent_performance: pd.DataFrame
    hourly_activity: pd.DataFrame
    action_metrics: pd.DataFrame
    data_capture_metrics: pd.DataFrame


def version(rules: MetricRules) -> str:
    """A fingerprint of everything that is counted by: equal version, equal definitions."""
    return hashlib.sha256(f"{_REVISION} {rules}".encode()).hexdigest()[:12]


def compute(
    places: Sequence[Place], days: Sequence[date], stored: Calls, rules: MetricRules
) -> MartRows:
    """The marts of some days for some places.

    Args:
        days: days of each place's own zone, in order and without a gap.
        stored: see ``Calls``; calls outside the days are left out here.
    """
    calls = _localised(stored.calls, places)
    wanted = (calls["day"] >= pd.Timestamp(days[0])) & (calls["day"] <= pd.Timestamp(days[-1]))
    calls = _judged(calls[wanted], places, stored, rules)
    around = _localised(stored.around, places)
    by_day = _measured(calls, ["location", "day"], rules)
    return MartRows(
        daily_call_metrics=_daily(by_day, around, places, days, rules),
        agent_performance=_agents(_measured(calls, ["location", "day", "agent"], rules), places),
        hourly_activity=_hours(_measured(calls, ["location", "day", "hour"], rules)),
        action_metrics=_actions(calls, stored.actions),
        data_capture_metrics=_captures(calls, stored.captured),
    )


# Facts of each call ------------------------------------------------------------------------------


def _localised(frame: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    """With ``day``, ``hour`` and ``local`` (naive) in each location's own zone."""
    zones = {place.location_id: place.zone for place in places}
    # An empty column would turn into strings, which compare with nothing else where pyarrow is.
    zone = frame["location"].map(zones).astype(object)
    local = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    for one in set(zones.values()):
        rows = (zone == one).to_numpy()
        local[rows] = frame.loc[rows, "started_at"].dt.tz_convert(one).dt.tz_localize(None)
    return frame.assign(local=local, day=local.dt.floor("D"), hour=local.dt.hour)


def _judged(
    calls: pd.DataFrame, places: Sequence[Place], stored: Calls, rules: MetricRules
) -> pd.DataFrame:
    """With a column of 0 and 1 for every count: what each call adds to it."""
    # HighLevel leaves trialCall out at times; such a call is counted, or a real one would be lost.
    live = ~calls["is_trial"] & ~calls["is_missing"]
    duration = calls["duration_ms"]
    engaged = (
        live & (calls["turns"] >= rules.engaged_turns) & (duration >= rules.engaged_seconds * 1000)
    )
    actions = stored.actions
    transfers = actions[actions["type"] == TRANSFER]
    transferred = live & calls["call"].isin(transfers.loc[transfers["is_executed"], "call"])
    goal = live & calls["call"].isin(actions.loc[actions["type"].isin(rules.goal_actions), "call"])
    captured = live & calls["call"].isin(stored.captured["call"])
    of_call = actions.groupby("call").size()
    unknown = actions[~actions["type"].isin(ACTION_TYPES)].groupby("call").size()
    followed_up = _is_known_for_a_day(calls, places)
    same_number = _is_followed(calls, stored.around, "number")
    same_caller = _is_followed(calls, stored.around, "caller")
    judged, asked = engaged & followed_up & (calls["number"] != 0), live & (calls["caller"] != 0)
    asked &= followed_up
    limit_known, at_limit = _at_limit(calls, places)
    hours_known, after_hours = _after_hours(calls, places)
    bucket = np.digitize(duration, BUCKETS_MS)
    flags = {
        "calls": live,
        "trial_calls": calls["is_trial"] & ~calls["is_missing"],
        "missing_calls": calls["is_missing"],
        "unknown_trial_calls": live & calls["is_trial_unknown"],
        "calls_without_caller": live & (calls["caller"] == 0),
        "calls_without_duration": live & duration.isna(),
        "calls_without_transcript": live & ~calls["has_transcript"],
        "calls_without_summary": live & ~calls["has_summary"],
        **{
            name: live & duration.notna() & (bucket == number)
            for number, name in enumerate(_BUCKETS)
        },
        "engaged_calls": engaged,
        "short_calls": live & ((duration < SHORT_MS) | (calls["turns"] == 0)),
        "transferred_calls": transferred,
        "engaged_transferred_calls": engaged & transferred,
        "attempted_transfer_calls": live & calls["call"].isin(transfers["call"]) & ~transferred,
        "contained_calls": engaged & ~transferred,
        "strictly_judged_calls": judged,
        "strictly_contained_calls": judged & ~transferred & ~same_number,
        "goal_calls": goal,
        "engaged_goal_calls": engaged & goal,
        "calls_with_action": live & calls["call"].isin(of_call.index),
        "captured_calls": captured,
        "engaged_captured_calls": engaged & captured,
        "callback_judged_calls": asked,
        "called_back_calls": asked & same_caller,
        "max_duration_known_calls": live & limit_known,
        "calls_at_max_duration": live & at_limit,
        "hours_known_calls": live & hours_known,
        "after_hours_calls": live & after_hours,
    }
    counted = live & duration.notna()
    sums = {
        "actions": calls["call"].map(of_call).fillna(0).where(live, 0),
        "unknown_actions": calls["call"].map(unknown).fillna(0).where(live, 0),
        "talk_ms": duration.where(counted, 0),
        "billable_minutes": np.ceil(duration.where(counted, 0) / 60_000),
    }
    keys = calls[["location", "day", "hour", "agent", "call", "caller", "duration_ms"]]
    deleted = calls["is_agent_deleted"]
    columns = {name: values.astype("int8") for name, values in flags.items()}
    columns |= {name: values.astype("int64") for name, values in sums.items()}
    return pd.concat([keys, deleted, pd.DataFrame(columns, index=calls.index)], axis=1)


def _is_known_for_a_day(calls: pd.DataFrame, places: Sequence[Place]) -> pd.Series:
    """All that happened in the 24 hours after the call has been read: they have elapsed, too."""
    known = np.zeros(len(calls), dtype=bool)
    rows_of = calls.groupby("location", observed=True).indices
    for place in places:
        rows = rows_of.get(place.location_id, _NO_ROWS)
        started = calls["started_at"].iloc[rows]
        for window in place.known if len(rows) else ():
            inside = (started >= window.start) & (started + FOLLOW_UP <= window.end)
            known[rows] |= inside.to_numpy()
    return pd.Series(known, index=calls.index)


def _is_followed(calls: pd.DataFrame, around: pd.DataFrame, who: str) -> pd.Series:
    """The same ``who`` called the location again, later and within 24 hours."""
    moments = around.loc[around[who] != 0, ["location", who, "started_at"]].drop_duplicates()
    moments = moments.sort_values(["location", who, "started_at"])
    following = moments.groupby(["location", who], observed=True, sort=False)["started_at"].shift(
        -1
    )
    moments["is_followed"] = following - moments["started_at"] <= FOLLOW_UP
    keys = ["location", who, "started_at"]
    found = calls[keys].merge(moments, on=keys, how="left")["is_followed"]
    return pd.Series(found.eq(True).to_numpy(), index=calls.index)


def _at_limit(calls: pd.DataFrame, places: Sequence[Place]) -> tuple[pd.Series, pd.Series]:
    limits = [
        (place.location_id, agent_id, facts.max_seconds * 1000)
        for place in places
        for agent_id, facts in place.agents.items()
        if facts.max_seconds is not None
    ]
    limit = _of_agent(calls, limits, "limit")
    known = limit.notna() & calls["duration_ms"].notna()
    return known, known & (calls["duration_ms"] >= limit - AT_MAX_MS)


def _of_agent(
    calls: pd.DataFrame, values: Sequence[tuple[str, str, float]], name: str
) -> pd.Series:
    """What is known of each call's agent; NaN where nothing is."""
    table = pd.DataFrame(values, columns=["location", "agent", name])
    found = calls[["location", "agent"]].astype({"location": object, "agent": object})
    return pd.Series(
        found.merge(table, on=["location", "agent"], how="left")[name].to_numpy(dtype=float),
        index=calls.index,
    )


def _after_hours(calls: pd.DataFrame, places: Sequence[Place]) -> tuple[pd.Series, pd.Series]:
    known = np.zeros(len(calls), dtype=bool)
    after = np.zeros(len(calls), dtype=bool)
    rows_of = calls.groupby(["location", "agent"], observed=True).indices
    for place in places:
        for agent_id, facts in place.agents.items():
            open_minutes = _open_minutes(facts.working_hours)
            rows = rows_of.get((place.location_id, agent_id), _NO_ROWS)
            if open_minutes is None or not len(rows):
                continue
            local = calls["started_at"].iloc[rows].dt.tz_convert(facts.zone or place.zone).dt
            minute = local.day_of_week * 1440 + local.hour * 60 + local.minute
            known[rows] = True
            after[rows] = ~open_minutes[minute.to_numpy()]
    return pd.Series(known, index=calls.index), pd.Series(after, index=calls.index)


def _open_minutes(hours: Any) -> "np.ndarray[Any, np.dtype[np.bool_]] | None":
    """Which minutes of a week, from Monday, are working hours; None where nothing is set.

    An interval that ends before it begins runs past midnight. An end at 23:59 is midnight: the API
    cannot say 24:00.
    """
    minutes = np.zeros(_MINUTES, dtype=bool)
    found = False
    for entry in hours if isinstance(hours, list) else ():
        try:
            first = (int(entry["dayOfTheWeek"]) - 1) % 7 * 1440
            for interval in entry["intervals"]:
                start = int(interval["startHour"]) * 60 + int(interval["startMinute"])
                end = int(interval["endHour"]) * 60 + int(interval["endMinute"])
                end = 1440 if end == 1439 else end
                length = (end - start) % 1440 or 1440
                minutes[(first + start + np.arange(length)) % _MINUTES] = True
                found = True
        except (KeyError, TypeError, ValueError):
            return None  # half of somebody's hours would be worse than none
    return minutes if found else None


# Sums over them ----------------------------------------------------------------------------------


def _measured(calls: pd.DataFrame, by: list[str], rules: MetricRules) -> pd.DataFrame:
    """All measures, a row for each group that has a call, trial and missing ones included."""
    not_summed = ["location", "day", "hour", "agent", "call", "caller", "duration_ms"]
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
    """With everything that follows from the sums."""
    derived: dict[str, Any] = {
        "talk_seconds": table["talk_ms"] / 1000,
        "talk_minutes": table["talk_ms"] / 60_000,
        "estimated_cost": _cost(table["billable_minutes"], rules),
        "is_small_sample": table["calls"] < SMALL,
        "is_engaged_small_sample": table["engaged_calls"] < SMALL,
    }
    derived |= {name: _share(table[over], table[under]) for name, over, under in _RATIOS}
    return table.assign(**derived).drop(columns="talk_ms")


def _cost(minutes: pd.Series, rules: MetricRules) -> pd.Series:
    """The estimate, exact to the last decimal; nothing without a rate."""
    rate = rules.cost_per_minute
    costs = [None if rate is None else Decimal(int(count)) * rate for count in minutes]
    return pd.Series(costs, index=minutes.index, dtype=object)


def _share(over: pd.Series, under: pd.Series) -> pd.Series:
    """``over / under``; NaN where there is nothing to divide by."""
    return over / under.where(under != 0)


def _daily(
    measured: pd.DataFrame,
    around: pd.DataFrame,
    places: Sequence[Place],
    days: Sequence[date],
    rules: MetricRules,
) -> pd.DataFrame:
    """A row for every place and day, with callers and trend over more than the day."""
    cells = pd.MultiIndex.from_product(
        [[place.location_id for place in places], pd.to_datetime(list(days))],
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
    per_day = around.groupby(["location", "day"]).size().to_dict()
    seen = around[around["caller"] != 0].groupby(["location", "day", "caller"]).size()
    seen_day = seen.index.get_level_values("day")
    rows = []
    for day in map(pd.Timestamp, days):
        week = seen[(seen_day > day - 7 * _DAY) & (seen_day <= day)]
        callers = week.groupby(["location", "caller"]).sum()
        everybody = callers.groupby("location").size()
        repeated = callers[callers >= 2].groupby("location").size()
        for place in places:
            at = place.location_id
            last = sum(per_day.get((at, day - n * _DAY), 0) for n in range(7))
            before = sum(per_day.get((at, day - n * _DAY), 0) for n in range(7, 14))
            rows.append(
                {
                    "location": at,
                    "day": day,
                    "callers_7d": int(everybody.get(at, 0)),
                    "repeat_callers_7d": int(repeated.get(at, 0)),
                    "calls_7d": int(last),
                    "calls_previous_7d": int(before),
                    "calls_by_now_last_week": _by_now_last_week(around, place, day, per_day),
                }
            )
    trend = pd.DataFrame(rows).set_index(["location", "day"])
    trend["repeat_caller_rate"] = _share(trend["repeat_callers_7d"], trend["callers_7d"])
    trend["calls_change_7d"] = _share(
        trend["calls_7d"] - trend["calls_previous_7d"], trend["calls_previous_7d"]
    )
    return table.join(trend).reset_index()


_FLOATS: Final = frozenset({"talk_seconds", "talk_minutes"})


def _may_be_absent(name: str) -> bool:
    """NULL where there are no calls to take it of."""
    return name.endswith(("_rate", "_duration_seconds")) or name in (
        "estimated_cost",
        "is_small_sample",
        "is_engaged_small_sample",
    )


def _by_now_last_week(
    around: pd.DataFrame, place: Place, day: pd.Timestamp, per_day: Mapping[Any, int]
) -> int:
    """Calls seven days before, up to the local time until which this day is known."""
    week_ago = day - 7 * _DAY
    until = place.known_until(day.date())
    if until is None:
        return 0
    now = pd.Timestamp(until).tz_convert(place.zone).tz_localize(None)
    if now >= day + _DAY:
        return int(per_day.get((place.location_id, week_ago), 0))
    mine = around[(around["location"] == place.location_id) & (around["day"] == week_ago)]
    return int((mine["local"] < now - 7 * _DAY).sum())


def _agents(table: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    by_id = {place.location_id: place for place in places}
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
    # An execution before its trigger is a mistake of a clock, not a latency.
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
    # Two keys may be one once they are masked: a call fills it once.
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


# Names that people chose -------------------------------------------------------------------------

_PERSONAL: Final = re.compile(r"\+?\d[\d\s().\-/]{5,}\d|\S+@\S+")


def masked(name: str) -> str:
    """A configured name without the telephone numbers and e-mail addresses that are in it."""
    return _PERSONAL.sub("…", name)


def masked_all(names: Iterable[str]) -> list[str]:
    """``masked`` for many: there are few different ones."""
    known: dict[str, str] = {}
    return [known.setdefault(name, masked(name)) for name in names]

"""What is known of each call, as a column of 0 and 1 for every count: the facts that metrics sum.

Pandas only. No SQL, no clock, no Dagster; callers and calls are numbers, transcripts are counts of
turns. The sums are in ``metrics.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from voiceai_pipeline.core.call import ACTION_TYPES
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.settings import MetricRules

TRANSFER: Final = "CALL_TRANSFER"

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


def with_local_time(frame: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    """With ``day``, ``hour`` and ``local`` (naive) in each location's own zone."""
    zones = {place.location_id: place.zone for place in places}
    # An empty column would turn into strings, which compare with nothing else where pyarrow is.
    zone = frame["location"].map(zones).astype(object)
    local = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    for one in set(zones.values()):
        rows = (zone == one).to_numpy()
        local[rows] = frame.loc[rows, "started_at"].dt.tz_convert(one).dt.tz_localize(None)
    return frame.assign(local=local, day=local.dt.floor("D"), hour=local.dt.hour)


def with_facts(
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

"""What each call adds to every count, as columns of 0 and 1, which ``metrics.py`` sums.

Pandas only: no SQL, no clock, no Dagster. Callers and calls are hashes and transcripts are counts
of turns, so no personal data gets here.
"""

from collections.abc import Iterator, Mapping, Sequence
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
"""A call up to this much shorter than the agent's maximum duration counts as cut off by it."""

FOLLOW_UP: Final = pd.Timedelta(hours=24)

_NO_ROWS: Final = np.array([], dtype=np.intp)
_MINUTES: Final = 7 * 24 * 60


@dataclass(frozen=True)
class AgentSettings:
    """An agent's settings.

    Attributes:
        zone: the agent's own; None: its location's.
        max_seconds: its maxCallDuration; None: no limit known.
        working_hours: its agentWorkingHours, as HighLevel sends them (CONTRACT 3).
    """

    zone: ZoneInfo | None = None
    max_seconds: float | None = None
    working_hours: Any = None


@dataclass(frozen=True)
class AgentFacts:
    """An agent's names and settings over time.

    Attributes:
        names, settings: each with the time from which it applies (UTC), oldest first.
    """

    names: tuple[tuple[datetime, str], ...] = ()
    is_deleted: bool = False
    settings: tuple[tuple[datetime, AgentSettings], ...] = ()

    def periods(self) -> Iterator[tuple[datetime | None, datetime | None, AgentSettings]]:
        """The start and the end (UTC) of each period, and the settings that applied in it. The
        first period has no start, since nothing older is known; the last has no end."""
        for n, (since, settings) in enumerate(self.settings):
            following = self.settings[n + 1][0] if n + 1 < len(self.settings) else None
            yield since if n else None, following, settings

    def name_on(self, until: datetime) -> str | None:
        """The agent's last name before ``until`` (UTC), else its first; None if none is known."""
        names = [name for since, name in self.names if since < until] or [
            name for _, name in self.names[:1]
        ]
        return names[-1] if names else None


@dataclass(frozen=True)
class MartLocation:
    """A location, its agents, and the windows in which every call has been read.

    Attributes:
        zone: the time zone of its marts' days.
        is_zone_assumed: HighLevel gave no time zone, so ``zone`` is the pipeline's.
        read_windows: windows in which every call has been read, in order, with gaps between them.
    """

    location_id: str
    zone: ZoneInfo
    is_zone_assumed: bool = False
    name: str | None = None
    agents: Mapping[str, AgentFacts] = field(default_factory=dict)
    read_windows: tuple[Window, ...] = ()

    def read_until(self, day: date) -> datetime | None:
        """The moment (UTC) up to which the day has been read without a gap from its start; None if
        its start has not been read."""
        whole = Window.of_day(day, self.zone)
        for window in self.read_windows:
            if whole.start in window:
                return min(window.end, whole.end)
        return None

    def is_read(self, first: date, last: date) -> bool:
        """Whether every call from the start of ``first`` to the end of ``last`` has been read."""
        return self.is_read_until(first, Window.of_day(last, self.zone).end)

    def is_read_until(self, first: date, end: datetime) -> bool:
        """Whether every call from the start of ``first`` to ``end`` (UTC) has been read."""
        start = Window.of_day(first, self.zone).start
        return any(window.start <= start and end <= window.end for window in self.read_windows)


@dataclass(frozen=True)
class StoredCalls:
    """The stored calls of some locations, one row each unless stated otherwise.

    The base set is what metrics count: no trial calls, and no calls that HighLevel no longer lists.

    Attributes:
        calls: all calls of the requested days: ``location``, ``call``, ``agent`` ('' if none),
            ``started_at`` (UTC), ``duration_ms`` (NaN if not given), ``turns`` (of the caller),
            ``is_speaker_unknown``, ``is_trial``, ``is_trial_unknown``, ``is_missing``,
            ``has_transcript``, ``has_summary``, ``caller`` and ``number`` (0 if unknown),
            ``outcome``, ``language`` ('' if not said).
        actions: of the base set, a row for each action: ``call``, ``type``, ``name``,
            ``is_executed``, ``triggered_at``, ``executed_at`` (NaT if absent or unreadable).
        captured: of the base set, a row for each value that is not empty: ``call``, ``key``.
        around: the base set, from ``mart_tables.LOOK_BACK`` days before the first day to 24 hours
            after the last: ``location``, ``started_at``, ``duration_ms``, ``caller``, ``number``.
    """

    calls: pd.DataFrame
    actions: pd.DataFrame
    captured: pd.DataFrame
    around: pd.DataFrame


def with_local_time(frame: pd.DataFrame, locations: Sequence[MartLocation]) -> pd.DataFrame:
    """Add ``day``, ``hour`` and ``local`` (naive) in each location's own time zone."""
    zones = {location.location_id: location.zone for location in locations}
    # With pyarrow installed, an empty column would become strings and not compare with zones.
    zone = frame["location"].map(zones).astype(object)
    local = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    for one in set(zones.values()):
        rows = (zone == one).to_numpy()
        local[rows] = frame.loc[rows, "started_at"].dt.tz_convert(one).dt.tz_localize(None)
    return frame.assign(local=local, day=local.dt.floor("D"), hour=local.dt.hour)


def with_counts(
    calls: pd.DataFrame, locations: Sequence[MartLocation], stored: StoredCalls, rules: MetricRules
) -> pd.DataFrame:
    """Add a column for every count and sum: what each call contributes to it."""
    # HighLevel sometimes omits trialCall. Such a call counts: otherwise a real one could be lost.
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
    followed_up = _is_follow_up_read(calls, locations)
    same_number = _is_followed(calls, stored.around, "number")
    same_caller = _is_followed(calls, stored.around, "caller")
    judged, asked = engaged & followed_up & (calls["number"] != 0), live & (calls["caller"] != 0)
    asked &= followed_up
    limit_known, at_limit = _at_limit(calls, locations)
    hours_known, after_hours = _after_hours(calls, locations)
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
        "calls_with_unknown_speakers": live & calls["is_speaker_unknown"],
        **{
            name: live & duration.notna() & (bucket == number)
            for number, name in enumerate(_BUCKETS)
        },
        "engaged_calls": engaged,
        "short_calls": live
        & ((duration < SHORT_MS) | ((calls["turns"] == 0) & ~calls["is_speaker_unknown"])),
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
        "caller_turns": calls["turns"].where(live, 0),
        "billable_minutes": np.ceil(duration.where(counted, 0) / 60_000),
    }
    keys = calls[
        ["location", "day", "hour", "agent", "call", "caller", "duration_ms", "outcome", "language"]
    ]
    deleted = calls["is_agent_deleted"]
    columns = {name: values.astype("int8") for name, values in flags.items()}
    columns |= {name: values.astype("int64") for name, values in sums.items()}
    return pd.concat([keys, deleted, pd.DataFrame(columns, index=calls.index)], axis=1)


def _is_follow_up_read(calls: pd.DataFrame, locations: Sequence[MartLocation]) -> pd.Series:
    """Whether the 24 hours after each call have passed and every call in them has been read."""
    read = np.zeros(len(calls), dtype=bool)
    rows_of = calls.groupby("location", observed=True).indices
    for location in locations:
        rows = rows_of.get(location.location_id, _NO_ROWS)
        started = calls["started_at"].iloc[rows]
        for window in location.read_windows if len(rows) else ():
            inside = (started >= window.start) & (started + FOLLOW_UP <= window.end)
            read[rows] |= inside.to_numpy()
    return pd.Series(read, index=calls.index)


def _is_followed(calls: pd.DataFrame, around: pd.DataFrame, key: str) -> pd.Series:
    """Whether the same ``key`` (caller or number) called the location again within 24 hours."""
    moments = around.loc[around[key] != 0, ["location", key, "started_at"]].drop_duplicates()
    moments = moments.sort_values(["location", key, "started_at"])
    following = moments.groupby(["location", key], observed=True, sort=False)["started_at"].shift(
        -1
    )
    moments["is_followed"] = following - moments["started_at"] <= FOLLOW_UP
    keys = ["location", key, "started_at"]
    found = calls[keys].merge(moments, on=keys, how="left")["is_followed"]
    return pd.Series(found.eq(True).to_numpy(), index=calls.index)


def _rows_by_settings(
    calls: pd.DataFrame, locations: Sequence[MartLocation]
) -> "Iterator[tuple[MartLocation, AgentSettings, np.ndarray[Any, np.dtype[np.intp]]]]":
    """For each period of an agent's settings, the rows of the calls that started in it."""
    rows_of = calls.groupby(["location", "agent"], observed=True).indices
    for location in locations:
        for agent_id, facts in location.agents.items():
            rows = np.asarray(rows_of.get((location.location_id, agent_id), _NO_ROWS))
            started = calls["started_at"].iloc[rows]
            for since, until, settings in facts.periods() if len(rows) else ():
                applies = np.ones(len(rows), dtype=bool)
                if since is not None:
                    applies &= (started >= since).to_numpy()
                if until is not None:
                    applies &= (started < until).to_numpy()
                yield location, settings, rows[applies]


def _at_limit(
    calls: pd.DataFrame, locations: Sequence[MartLocation]
) -> tuple[pd.Series, pd.Series]:
    limit = np.full(len(calls), np.nan)
    for _, settings, rows in _rows_by_settings(calls, locations):
        if settings.max_seconds is not None:
            limit[rows] = settings.max_seconds * 1000
    duration = calls["duration_ms"]
    known = pd.Series(~np.isnan(limit), index=calls.index) & duration.notna()
    return known, known & (duration >= limit - AT_MAX_MS)


def _after_hours(
    calls: pd.DataFrame, locations: Sequence[MartLocation]
) -> tuple[pd.Series, pd.Series]:
    known = np.zeros(len(calls), dtype=bool)
    after = np.zeros(len(calls), dtype=bool)
    for location, settings, rows in _rows_by_settings(calls, locations):
        open_minutes = _open_minutes(settings.working_hours)
        if open_minutes is None or not len(rows):
            continue
        local = calls["started_at"].iloc[rows].dt.tz_convert(settings.zone or location.zone).dt
        minute = local.day_of_week * 1440 + local.hour * 60 + local.minute
        known[rows] = True
        after[rows] = ~open_minutes[minute.to_numpy()]
    return pd.Series(known, index=calls.index), pd.Series(after, index=calls.index)


def _open_minutes(hours: Any) -> "np.ndarray[Any, np.dtype[np.bool_]] | None":
    """Which minutes of a week, from Monday 00:00, are working hours; None if none are set.

    An interval whose end is before its start runs past midnight. An end of 23:59 means midnight:
    the API cannot express 24:00.
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
        except (KeyError, TypeError, ValueError, OverflowError):
            return None  # part of an agent's hours would be worse than none
    return minutes if found else None

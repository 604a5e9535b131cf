"""How complete a day of the marts is: the status columns, and which numbers are unknown.

A number is NULL, never 0, if its calls were not read. Pure: no SQL, and the time is an argument.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd

from voiceai_pipeline.core.days import Window, day_range
from voiceai_pipeline.database.mart_tables import (
    FIRST_DAY,
    LAST_DAY,
    LOOK_BACK,
    MARTS,
    MEASURES,
)
from voiceai_pipeline.marts.call_counts import MartLocation
from voiceai_pipeline.marts.call_reader import LedgerDay
from voiceai_pipeline.marts.metrics import MartRows

_DAY: Final = timedelta(days=1)

_OF_WEEK: Final = ("calls_7d", "callers_7d", "repeat_callers_7d", "repeat_caller_rate")


def status(
    locations: Sequence[MartLocation],
    ledger: Mapping[str, Sequence[LedgerDay]],
    days: Sequence[date],
    now: datetime,
    zone: ZoneInfo,
) -> pd.DataFrame:
    """How complete each day of each location is, one row each.

    Args:
        ledger: by location; its days are days of ``zone``.
        zone: the pipeline's time zone.
        now: aware UTC.
    """
    rows: list[dict[str, Any]] = []
    for location in locations:
        entries = ledger.get(location.location_id, ())
        for day in days:
            rows.append(_status(location, entries, day, now, zone))
    return pd.DataFrame(rows)


def _status(
    location: MartLocation, entries: Sequence[LedgerDay], day: date, now: datetime, zone: ZoneInfo
) -> dict[str, Any]:
    whole = Window.of_day(day, location.zone)
    relevant = [e for e in entries if -FIRST_DAY <= (e.day - day).days <= LAST_DAY]
    by_day = {e.day: e for e in relevant}
    days_below = overlapping(whole, zone)
    known_until, is_over = location.read_until(day), whole.end <= now
    # A day in progress is known up to its last read; a day that is over, only if all was read.
    end = whole.end if is_over else known_until
    week_ago = day - 7 * _DAY
    return {
        "location": location.location_id,
        "day": pd.Timestamp(day),
        "location_name": location.name,
        "timezone": location.zone.key,
        "is_timezone_assumed": location.is_zone_assumed,
        "is_complete": location.is_read(day, day),
        "is_7d_complete": location.is_read(day - LOOK_BACK * _DAY, day),
        "is_over": is_over,
        "calls_known_until": known_until,
        "last_successful_sync_at": max(
            (e.succeeded_at for e in relevant if e.succeeded_at), default=None
        ),
        "incomplete_sync_days": sum(not _is_read(by_day.get(one), zone) for one in days_below),
        "synced_at": max((e.finished_at for e in relevant if e.finished_at), default=None),
        "is_in_ledger": any(one in by_day for one in days_below),
        "is_week_known": end is not None and location.is_read_until(day - 6 * _DAY, end),
        "is_week_before_known": location.is_read(day - LOOK_BACK * _DAY, week_ago),
        "is_week_ago_known": known_until is not None and location.is_read(week_ago, week_ago),
    }


def _is_read(entry: LedgerDay | None, zone: ZoneInfo) -> bool:
    return (
        entry is not None
        and entry.read_until is not None
        and entry.read_until >= Window.of_day(entry.day, zone).end
    )


def read_windows(entries: Sequence[LedgerDay], zone: ZoneInfo) -> Iterator[Window]:
    """The windows in which every call has been read; a day read to its end is joined to the next.

    Args:
        entries: in order of days.
        zone: the time zone of the entries' days.
    """
    current: Window | None = None
    for entry in entries:
        start = Window.of_day(entry.day, zone).start
        if entry.read_until is None or entry.read_until <= start:
            continue
        if current is not None and current.end == start:
            current = Window(current.start, entry.read_until)
            continue
        if current is not None:
            yield current
        current = Window(start, entry.read_until)
    if current is not None:
        yield current


def overlapping(window: Window, zone: ZoneInfo) -> list[date]:
    """The days of ``zone`` that overlap ``window``."""
    first = window.start.astimezone(zone).date()
    last = (window.end - timedelta(microseconds=1)).astimezone(zone).date()
    return day_range(first, last)


def published(rows: MartRows, status: pd.DataFrame) -> MartRows:
    """The rows as the tables store them, with their status; without the days that have neither a
    ledger entry nor a call.

    Args:
        status: a row for every location and day, with the columns that all marts share.
    """
    keys = ["location", "day"]
    daily = rows.daily_call_metrics.merge(status, on=keys)
    any_call = daily["calls"] + daily["trial_calls"] + daily["missing_calls"] > 0
    daily = _without_unknowns(daily, any_call)[daily["is_in_ledger"] | any_call]
    shared = status[[*keys, "is_complete", "computed_at"]]
    frames = {"daily_call_metrics": daily}
    for table in MARTS[1:]:
        frame = getattr(rows, table.name)
        frames[table.name] = frame.astype({"location": object}).merge(shared, on=keys)
    for name, frame in frames.items():
        frame = frame.rename(columns={"location": "location_id", "agent": "agent_id"})
        frames[name] = frame.assign(day=[day.date() for day in frame["day"]])
    return MartRows(**frames)


def _without_unknowns(daily: pd.DataFrame, any_call: pd.Series) -> pd.DataFrame:
    """The rows, with None for every number whose calls were not read."""
    was_read = daily["calls_known_until"].notna() | any_call
    unknown = dict.fromkeys(MEASURES, ~was_read)
    unknown |= dict.fromkeys(_OF_WEEK, ~daily["is_week_known"])
    unknown["peak_concurrent_calls"] = ~was_read
    unknown["calls_previous_7d"] = ~daily["is_week_before_known"]
    unknown["calls_change_7d"] = ~daily["is_7d_complete"]
    unknown["calls_by_now_last_week"] = ~daily["is_week_ago_known"]
    hidden = {name: daily[name].astype(object).mask(rows, None) for name, rows in unknown.items()}
    return daily.assign(**hidden)

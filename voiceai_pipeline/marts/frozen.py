"""Numbers of days whose calls are no longer kept: they stay as they were computed.

A day is frozen if calls of it may have been deleted and it has not been read completely since. No
build computes it again. Days soon after the last frozen one keep what they say of the weeks before
them; who is a new caller is known from the day after it on.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import sqlalchemy as sa

from voiceai_pipeline.calls.deleted_months import deleted_before
from voiceai_pipeline.core.days import DayState, Window, day_range
from voiceai_pipeline.core.kept_days import next_month
from voiceai_pipeline.database.conditions import is_one_of
from voiceai_pipeline.database.mart_tables import LOOK_BACK, daily_call_metrics
from voiceai_pipeline.database.tables import deleted_months
from voiceai_pipeline.marts.mart_status import overlapping
from voiceai_pipeline.marts.metrics import MartRows

Cell = tuple[str, date]
"""A location's id and a day of its own time zone."""

_DAY: Final = timedelta(days=1)

_OF_WEEKS: Final = (
    "callers_7d", "repeat_callers_7d", "repeat_caller_rate", "calls_7d", "calls_previous_7d",
    "calls_change_7d", "is_7d_complete", "calls_by_now_last_week",
)  # fmt: skip
"""Columns of a day that look at the days before it."""


def frozen_days(
    db: sa.Connection, zones: Mapping[str, ZoneInfo], pipeline_zone: ZoneInfo, first: date
) -> set[Cell]:
    """The frozen days of some locations, from ``first`` on.

    Args:
        zones: the locations, each with the time zone of its days.
        pipeline_zone: whose days the ledger has.
    """
    before = deleted_before(db)
    if before is None:
        return set()
    days = day_range(first, before + _AHEAD)
    return among(db, {(one, day) for one in zones for day in days}, zones, pipeline_zone)


def among(
    db: sa.Connection,
    cells: Collection[Cell],
    zones: Mapping[str, ZoneInfo],
    pipeline_zone: ZoneInfo,
) -> set[Cell]:
    """Those of these days that are frozen.

    Args:
        zones: of each location; the pipeline's where one is missing.
    """
    before = deleted_before(db)
    old = [cell for cell in cells if before is not None and cell[1] <= before + _AHEAD]
    if before is None or not old:
        return set()
    read = _read_since(
        db, {one for one, _ in old}, min(day for _, day in old), before, pipeline_zone
    )

    @cache
    def deleted(day: date, zone: ZoneInfo) -> list[date]:
        """The days of the pipeline that this one overlaps and whose calls may be gone."""
        window = Window.of_day(day, zone)
        return [one for one in overlapping(window, pipeline_zone) if one < before]

    return {
        (location_id, day)
        for location_id, day in old
        if any(
            (location_id, one) not in read
            for one in deleted(day, zones.get(location_id, pipeline_zone))
        )
    }


_AHEAD: Final = _DAY
"""A day of a zone that is ahead begins before the pipeline's, by 26 hours at most."""


def _read_since(
    db: sa.Connection, location_ids: Collection[str], first: date, before: date, zone: ZoneInfo
) -> set[Cell]:
    """Days of the pipeline from two before ``first`` to before ``before`` that the ledger calls
    complete: those whose calls were read again after they had been deleted."""
    days = day_range(first - 2 * _DAY, before - _DAY)
    query = sa.text(
        "SELECT DISTINCT location_id, day FROM sync_ledger "  # noqa: S608 - our own names
        "JOIN unnest(CAST(:days AS date[]), CAST(:ends AS timestamptz[])) AS e(day, ends) "
        f"     USING (day) WHERE state = '{DayState.COMPLETE.value}' AND read_until >= ends "
        "AND location_id = ANY(CAST(:ids AS text[]))"
    )
    ends = [Window.of_day(day, zone).end for day in days]
    values = {"days": days, "ends": ends, "ids": list(location_ids)}
    return {(row.location_id, row.day) for row in db.execute(query, values)}


def known_from(
    db: sa.Connection, zones: Mapping[str, ZoneInfo], pipeline_zone: ZoneInfo
) -> dict[str, date]:
    """The day from which on each location's calls are all still there; absent: from the first."""
    found: dict[str, date] = {}
    unknown = dict(zones)
    query = sa.select(deleted_months.c.month).order_by(deleted_months.c.month.desc())
    for month in db.execute(query).scalars().all():
        days = day_range(month, next_month(month) + _AHEAD)
        cells = {(location_id, day) for location_id in unknown for day in days}
        for location_id, day in among(db, cells, unknown, pipeline_zone):
            found[location_id] = max(found.get(location_id, day), day + _DAY)
        unknown = {one: zone for one, zone in unknown.items() if one not in found}
        if not unknown:
            break
    return found


def old_weeks(
    db: sa.Connection, frozen: Collection[Cell], days: Sequence[date]
) -> dict[Cell, Mapping[str, Any]]:
    """What the stored marts of ``days`` say of the days before them, where some of these are
    frozen."""
    if not frozen:
        return {}
    table = daily_call_metrics
    query = sa.select(table.c.location_id, table.c.day, *(table.c[name] for name in _OF_WEEKS))
    query = query.where(
        is_one_of(table.c.location_id, {one for one, _ in frozen}),
        table.c.day.between(days[0], days[-1]),
    )
    return {
        (row["location_id"], row["day"]): dict(row)
        for row in db.execute(query).mappings()
        if any((row["location_id"], row["day"] - ago * _DAY) in frozen for ago in _LOOKS_AT)
    }


_LOOKS_AT: Final = range(1, LOOK_BACK + 1)


def without(
    rows: MartRows, frozen: Collection[Cell], weeks: Mapping[Cell, Mapping[str, Any]]
) -> MartRows:
    """The rows that may be published: none of a frozen day, and with the old ``weeks``."""
    if not frozen:
        return rows
    frames = {name: _kept(frame, frozen) for name, frame in vars(rows).items()}
    daily = frames["daily_call_metrics"]
    old = [weeks.get(cell) for cell in zip(daily["location_id"], daily["day"], strict=True)]
    for name in _OF_WEEKS:
        values = [
            new if row is None else row[name]
            for row, new in zip(old, daily[name].tolist(), strict=True)
        ]
        daily = daily.assign(**{name: pd.Series(values, index=daily.index, dtype=object)})
    return MartRows(**{**frames, "daily_call_metrics": daily})


def _kept(frame: pd.DataFrame, frozen: Collection[Cell]) -> pd.DataFrame:
    keep = [cell not in frozen for cell in zip(frame["location_id"], frame["day"], strict=True)]
    return frame.loc[pd.Series(keep, index=frame.index, dtype=bool)]


def unbuilt_days(db: sa.Connection, first: date, before: date, rules_version: str) -> int:
    """How many days of locations with calls have no marts of today's definitions yet.

    Args:
        first, before: the days from the first to before the second, of the pipeline's zone.
    """
    query = sa.text(
        "SELECT count(*) FROM ("  # noqa: S608 - our own names
        "  SELECT location_id, day, max(finished_at) AS finished_at FROM sync_ledger "
        f"  WHERE day >= :first AND day < :before AND state = '{DayState.COMPLETE.value}' "
        "    AND stored > 0 GROUP BY location_id, day) AS synced "
        "LEFT JOIN daily_call_metrics m USING (location_id, day) "
        "WHERE m.day IS NULL OR m.synced_at < synced.finished_at OR m.rules_version <> :rules"
    )
    values = {"first": first, "before": before, "rules": rules_version}
    count: int = db.execute(query, values).scalar_one()
    return count

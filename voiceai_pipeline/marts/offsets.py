"""A time zone's offsets from UTC, and when each applies."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

_STEP: Final = timedelta(hours=12)


class Offset(NamedTuple):
    """An offset that applies from ``start`` to before ``end`` (UTC): local time is UTC plus
    ``seconds``."""

    start: datetime
    end: datetime
    seconds: int


def between(zone: ZoneInfo, first: datetime, last: datetime) -> list[Offset]:
    """The zone's offsets from ``first`` to before ``last`` (UTC, whole seconds), in order and
    without a gap."""
    found, start, at = [], first, first
    while at < last:
        ahead = min(at + _STEP, last)
        if _seconds(zone, ahead) != _seconds(zone, start):
            change = _change(zone, at, ahead)
            found.append(Offset(start, change, _seconds(zone, start)))
            start = change
        at = ahead
    if start < last:
        found.append(Offset(start, last, _seconds(zone, start)))
    return found


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first second with another offset than ``before``; ``after`` must have another one."""
    old = _seconds(zone, before)
    low, high = 0, round((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        is_old = _seconds(zone, before + timedelta(seconds=middle)) == old
        low, high = (middle, high) if is_old else (low, middle)
    return before + timedelta(seconds=high)


def _seconds(zone: ZoneInfo, at: datetime) -> int:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None  # noqa: S101 - a zone has one
    return round(offset.total_seconds())

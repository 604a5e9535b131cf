"""Windows of time, and the state of a user's day after a sync.

No clock here: the caller passes the time, always as an aware UTC ``datetime``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.kept_days import kept_since, refusal

DAYS_PER_RUN: Final = 31
"""How many consecutive days one run syncs at most. It reads them as one window per location: longer
windows take fewer requests."""

TRAILING_DAYS: Final = 3
"""How many days before yesterday are re-synced each night: HighLevel has no updatedAt, so late
summaries and vanished calls show only in a re-read (CONTRACT 2.7)."""


@dataclass(frozen=True)
class Window:
    """The instants from ``start`` (inclusive) to ``end`` (exclusive), UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @classmethod
    def of_day(cls, day: date, zone: ZoneInfo) -> "Window":
        """A local day, which has 23 or 25 hours when the clocks change."""
        return cls(_midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.min, zone).astimezone(UTC)


def day_range(first: date, last: date) -> list[date]:
    """The days from ``first`` to ``last``, inclusive; none if ``last`` is before ``first``."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


class DaysError(ValueError):
    """A range of days that cannot be synced; the text says why and what to do."""


def days_to_sync(
    first: date, last: date, *, earliest: date, today: date, keep_days: int | None = None
) -> list[date]:
    """The days from ``first`` to ``last``, inclusive, after checking that they can be synced.

    Args:
        earliest: the first partition.
        today: in the pipeline's time zone.
        keep_days: how long calls are kept; None: for ever.

    Raises:
        DaysError: the range is empty, starts before ``earliest`` or with a day that is no longer
            kept, or ends after ``today``.
    """
    if last > today:
        raise DaysError(f"{last} is in the future; today is {today}. Choose an earlier day.")
    if first < earliest:
        raise DaysError(
            f"{first} is before {earliest}, the first day that can be synced. Choose a later day, "
            "or set VOICEAI_START_DATE to an earlier one and restart."
        )
    since = kept_since(today, keep_days)
    if since is not None and keep_days is not None and first < since:
        raise DaysError(refusal(first, since, keep_days))
    if last < first:
        raise DaysError(f"{last} is before {first}. Enter the earlier day first.")
    return day_range(first, last)


def stretches(days: Sequence[date], at_most: int | None = None) -> list[list[date]]:
    """Split sorted days into stretches of consecutive days, of at most ``at_most`` days each.

    Each stretch is read as one window, which takes the fewest requests.
    """
    runs: list[list[date]] = []
    for day in days:
        follows = bool(runs) and day - runs[-1][-1] == timedelta(days=1)
        if follows and (at_most is None or len(runs[-1]) < at_most):
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


class DayState(StrEnum):
    """The state of a user's day in ``sync_ledger``."""

    COMPLETE = "complete"
    FAILED = "failed"
    WAITING = "waiting"
    NOT_KEPT = "not_kept"
    """Its calls were deleted because of their age (``VOICEAI_KEEP_CALLS_DAYS``): neither missing
    nor empty."""


@dataclass(frozen=True, slots=True)  # ten thousand users have 300,000 of these a month
class DayResult:
    """One user's day after a sync: a row of ``sync_ledger``.

    Attributes:
        day: a day of the pipeline's time zone.
        location_id: "" while the user has never had a location.
        read_until: the day was read up to here (UTC, exclusive); None if it was not read.
        message: why the day is not complete; for a complete day, what is odd about it.
        api_total: the day's number of calls according to HighLevel; None if it gives none, or only
            one for several days together.
        stored: calls in ``call_logs`` for the day after the write, without missing ones.
        new, changed, missing, set_aside: how many calls the write added, changed, marked as
            missing, or set aside.
        unknown_actions: number of call actions whose type is not documented.
        pages: HTTP requests made for the window that covered the day.
        attempt: how many times in a row this day has been tried without becoming complete.
    """

    user: User
    location_id: str
    day: date
    state: DayState
    failure: FailureClass | None = None
    message: str = ""
    read_until: datetime | None = None
    api_total: int | None = None
    stored: int | None = None
    new: int = 0
    changed: int = 0
    missing: int = 0
    set_aside: int = 0
    unknown_actions: int = 0
    pages: int = 0
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None

"""The state of users' days (complete, failed, waiting or unread), when a failed day is retried, and
which users are stale.

Pure functions of ledger rows and today's connections, with the time as an argument. No I/O.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.connection import Connection, User
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass, Remedy
from voiceai_pipeline.core.percent import percent

RETRY_DELAYS: Final = tuple(timedelta(minutes=m) for m in (15, 60, 240, 720, 720, 720))
"""How long after its n-th failure in a row a day is retried automatically. A day that has failed
more often needs a manual rerun."""

RETRIED: Final = frozenset(f for f in FailureClass if f.explanation.remedy is Remedy.RERUN)
"""Failures that may pass without intervention."""

FIRST_DAYS: Final = 30
"""How many days back a newly connected user is backfilled automatically."""

DEADLINE: Final = timedelta(hours=6)
"""How long after its end a day may take to be complete: the nightly sync and three retries."""


def span(days: Collection[date]) -> str:
    """Days as text: the day if there is one, else the first, the last and the number of days."""
    first, last = min(days), max(days)
    return str(first) if len(days) == 1 else f"{first} to {last} ({len(days)} days)"


@dataclass(frozen=True)
class DayReport:
    """Each user's state on one day, from the ledger and today's connections.

    Attributes:
        complete: read and verified to the end of the day (today: to the last read).
        failed: a rerun, or a fix of our configuration, can help.
        waiting: needs action first: reconnect, or re-enable the location; or an operator has paused
            the syncs (``paused``).
        unread: can be synced, but was never tried, or was last read before the day ended.
        not_kept: calls of this day are no longer kept.
    """

    day: date
    complete: tuple[DayResult, ...]
    failed: tuple[DayResult, ...]
    waiting: tuple[DayResult, ...]
    unread: tuple[User, ...]
    not_kept: tuple[User, ...] = ()

    @property
    def paused(self) -> list[User]:
        """Those of the waiting users whose syncs an operator has paused."""
        return [row.user for row in self.waiting if row.failure is FailureClass.SYNC_PAUSED]

    @property
    def is_green(self) -> bool:
        """Whether every user whose day can be synced is complete."""
        return not self.failed and not self.unread

    @property
    def able(self) -> int:
        """How many users can be synced, or are complete although they cannot be synced now."""
        return len(self.complete) + len(self.failed) + len(self.unread)

    @property
    def users(self) -> int:
        """How many users there are, including those who wait; not those whose day is not kept."""
        return self.able + len(self.waiting)

    @property
    def complete_percent(self) -> Decimal:
        """Complete users, in percent of ``able``."""
        return _percent(len(self.complete), self.able)

    @property
    def complete_percent_of_all(self) -> Decimal:
        """Complete users, in percent of all users."""
        return _percent(len(self.complete), self.users)


def _percent(part: int, whole: int) -> Decimal:
    """To one decimal, rounded half up, but 100.0 only if none is missing."""
    if part == whole:
        return Decimal("100.0")
    return min(percent(part, whole, 1), Decimal("99.9"))


def finished(
    rows: Iterable[DayResult], connections: Iterable[Connection], zone: ZoneInfo
) -> set[tuple[UUID, date]]:
    """Which (user, day) are complete to the day's end, at the user's current location."""
    locations = {one.user.id: one.location_id for one in connections}
    end = cache(lambda day: Window.of_day(day, zone).end)  # few days, very many users
    return {
        (row.user.id, row.day)
        for row in rows
        if row.state is DayState.COMPLETE
        and row.location_id == locations.get(row.user.id)
        and row.read_until is not None
        and row.read_until >= end(row.day)
    }


def report(
    days: Collection[date],
    rows: Iterable[DayResult],
    connections: Sequence[Connection],
    zone: ZoneInfo,
    now: datetime,
    kept_since: date | None = None,
) -> list[DayReport]:
    """The report of each of ``days``, in order.

    Args:
        rows: the ledger's rows for ``days``.
        zone: the time zone of the days.
        now: aware UTC; a day that is not over counts as complete up to its last read.
        kept_since: the first day of which calls are kept; None: all are.
    """
    rows = list(rows)
    done = finished(rows, connections, zone)
    found = {(row.user.id, row.location_id, row.day): row for row in rows}
    return [
        _report_day(
            day, connections, found, done, zone, now,
            is_kept=kept_since is None or day >= kept_since,
        )
        for day in sorted(days)
    ]  # fmt: skip


def _report_day(
    day: date,
    connections: Iterable[Connection],
    rows: dict[tuple[UUID, str, date], DayResult],
    done: set[tuple[UUID, date]],
    zone: ZoneInfo,
    now: datetime,
    *,
    is_kept: bool,
) -> DayReport:
    is_open = Window.of_day(day, zone).end > now
    complete, failed, waiting, unread, not_kept = [], [], [], [], []
    for one in connections:
        row = rows.get((one.user.id, one.location_id or "", day))
        is_read = row is not None and row.state is DayState.COMPLETE
        if row is not None and is_read and (is_open or (one.user.id, day) in done):
            complete.append(row)
        elif not is_kept and (row is None or row.state is DayState.NOT_KEPT):
            not_kept.append(one.user)
        elif one.sync_obstacle is not None:
            empty = DayResult(one.user, one.location_id or "", day, DayState.WAITING)
            waiting.append(
                replace(row or empty, state=DayState.WAITING, failure=one.sync_obstacle,
                        message=one.message)
            )  # fmt: skip
        elif row is not None and row.state is DayState.FAILED:
            failed.append(row)
        else:
            unread.append(one.user)
    return DayReport(
        day, tuple(complete), tuple(failed), tuple(waiting), tuple(unread), tuple(not_kept)
    )


@dataclass(frozen=True)
class StaleUser:
    """A user who can be synced and is not up to date.

    Attributes:
        last_complete: the last complete day; None if no day ever was.
        due: the day that should be complete by now.
    """

    connection: Connection
    last_complete: date | None
    due: date

    @property
    def days_behind(self) -> int | None:
        """How many days are missing up to ``due``; None if no day was ever complete."""
        return (self.due - self.last_complete).days if self.last_complete else None


def day_due(now: datetime, zone: ZoneInfo) -> date:
    """The last day that must be complete at ``now`` (UTC): it ended ``DEADLINE`` ago or earlier."""
    day = now.astimezone(zone).date() - timedelta(days=1)
    return day if Window.of_day(day, zone).end + DEADLINE <= now else day - timedelta(days=1)


def stale_users(
    connections: Iterable[Connection],
    last_complete: Mapping[UUID, date],
    failed: Collection[UUID],
    due: date,
    now: datetime,
) -> list[StaleUser]:
    """Users who can be synced and are not complete up to ``due``, in the order of ``connections``.

    Only each user's last complete day counts, so filling an old gap changes nothing. A user
    connected for less than ``DEADLINE`` who has not failed is still being backfilled, not stale.

    Args:
        last_complete: by user id; users without a complete day are absent.
        failed: users whose sync of ``due`` was tried and failed.
        now: aware UTC.
    """
    found = []
    for one in connections:
        last = last_complete.get(one.user.id)
        if not one.can_sync or (last is not None and last >= due):
            continue
        is_new = one.since is not None and now - one.since < DEADLINE
        if not is_new or one.user.id in failed:
            found.append(StaleUser(one, last, due))
    return found

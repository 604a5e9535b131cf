"""How days stand: who is complete, who failed, who waits, and when a failed day is tried again.

Pure: from rows of the ledger and today's connections, with the time as an argument. Nothing is read
or written here.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cache
from math import floor
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.connection import Connection, User
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass, Remedy

RETRY_DELAYS: Final = tuple(timedelta(minutes=m) for m in (15, 60, 240, 720, 720, 720))
"""How long after the n-th failure in a row a day is tried again by itself; then people must."""

RETRIED: Final = frozenset(f for f in FailureClass if f.explanation.remedy is Remedy.RERUN)
"""Failures that may pass by themselves."""

FIRST_DAYS: Final = 30
"""How many days back a newly connected user is filled without anybody asking."""


def span(days: Collection[date]) -> str:
    """Days in words: the day, or from the first to the last and how many."""
    first, last = min(days), max(days)
    return str(first) if len(days) == 1 else f"{first} to {last} ({len(days)} days)"


@dataclass(frozen=True)
class DayReport:
    """How one day stands for every user, by the ledger and today's connections.

    Attributes:
        complete: read and verified, up to the end of the day (today: up to the last read).
        failed: a rerun, or mending our configuration, can help.
        waiting: a person must reconnect or re-enable first.
        unread: can be synced, and nobody has tried yet.
    """

    day: date
    complete: tuple[DayResult, ...]
    failed: tuple[DayResult, ...]
    waiting: tuple[DayResult, ...]
    unread: tuple[User, ...]

    @property
    def is_green(self) -> bool:
        """Every user who can be synced is complete."""
        return not self.failed and not self.unread

    @property
    def complete_percent(self) -> float:
        """Of the users who can be synced; below 100 as long as anybody is missing."""
        able = len(self.complete) + len(self.failed) + len(self.unread)
        return floor(1000 * len(self.complete) / able) / 10 if able else 100.0


def finished(
    rows: Iterable[DayResult], people: Iterable[Connection], zone: ZoneInfo
) -> set[tuple[UUID, date]]:
    """Which (user, day) are complete to the day's end, at the user's present location."""
    places = {person.user.id: person.location_id for person in people}
    end = cache(lambda day: Window.of_day(day, zone).end)  # of a few days and very many users
    return {
        (row.user.id, row.day)
        for row in rows
        if row.state is DayState.COMPLETE
        and row.location_id == places.get(row.user.id)
        and row.read_until is not None
        and row.read_until >= end(row.day)
    }


def report(
    days: Collection[date],
    rows: Iterable[DayResult],
    people: Sequence[Connection],
    zone: ZoneInfo,
    now: datetime,
) -> list[DayReport]:
    """How days stand for everybody, in order."""
    rows = list(rows)
    done = finished(rows, people, zone)
    found = {(row.user.id, row.location_id, row.day): row for row in rows}
    return [_report_day(day, people, found, done, zone, now) for day in sorted(days)]


def _report_day(
    day: date,
    people: Iterable[Connection],
    rows: dict[tuple[UUID, str, date], DayResult],
    done: set[tuple[UUID, date]],
    zone: ZoneInfo,
    now: datetime,
) -> DayReport:
    is_open = Window.of_day(day, zone).end > now
    complete, failed, waiting, unread = [], [], [], []
    for person in people:
        row = rows.get((person.user.id, person.location_id or "", day))
        read = row is not None and row.state is DayState.COMPLETE
        if row is not None and read and (is_open or (person.user.id, day) in done):
            complete.append(row)
        elif person.obstacle is not None:
            empty = DayResult(person.user, person.location_id or "", day, DayState.WAITING)
            waiting.append(
                replace(row or empty, state=DayState.WAITING, failure=person.obstacle,
                        message=person.message)
            )  # fmt: skip
        elif row is not None and row.state is DayState.FAILED:
            failed.append(row)
        else:
            unread.append(person.user)
    return DayReport(day, tuple(complete), tuple(failed), tuple(waiting), tuple(unread))

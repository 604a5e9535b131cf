"""Whose calls are out of date: not read to the end of the last day that should be complete by now.

Pure: from the ledger's last complete days and today's connections, with the time as an argument. It
looks at the last day of each user, so filling in an old one changes nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import Window

DEADLINE: Final = timedelta(hours=6)
"""How long after its end a day may take to be complete: the nightly sync and three repetitions."""


@dataclass(frozen=True)
class StaleUser:
    """A user who can be synced and is not up to date.

    Attributes:
        last_complete: the last day that is complete; None if there is none at all.
        due: the day that should be complete by now.
    """

    connection: Connection
    last_complete: date | None
    due: date

    @property
    def days_behind(self) -> int | None:
        """How many days are missing up to ``due``; None if there never was one."""
        return (self.due - self.last_complete).days if self.last_complete else None


def day_due(now: datetime, zone: ZoneInfo) -> date:
    """The last day that must be complete at ``now`` (UTC): it ended a deadline ago or earlier."""
    day = now.astimezone(zone).date() - timedelta(days=1)
    return day if Window.of_day(day, zone).end + DEADLINE <= now else day - timedelta(days=1)


def stale(
    people: Iterable[Connection],
    last_complete: Mapping[UUID, date],
    failed: Collection[UUID],
    due: date,
    now: datetime,
) -> list[StaleUser]:
    """Who of those that can be synced is not complete up to ``due``, in the order of ``people``.

    Who has been connected for less than a deadline, and has not failed, is still being filled.

    Args:
        last_complete: by user id; users without a complete day are absent.
        failed: users whose sync of ``due`` was tried and failed.
    """
    found = []
    for person in people:
        last = last_complete.get(person.user.id)
        if not person.can_sync or (last is not None and last >= due):
            continue
        is_new = person.since is not None and now - person.since < DEADLINE
        if not is_new or person.user.id in failed:
            found.append(StaleUser(person, last, due))
    return found

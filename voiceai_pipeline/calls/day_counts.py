"""How many users are complete on each day, for a page that must respond quickly.

It follows the rule of ``day_status.report``, but counts in the database: one row per day instead of
one per user and day. A test keeps the two equal.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import Window


@dataclass(frozen=True)
class DayCounts:
    """How many users are in each state on one day.

    Attributes:
        is_open: the day is not over; complete then means up to the last read.
        complete, failed, waiting, unread, paused: as in ``day_status.DayReport``.
    """

    day: date
    is_open: bool
    complete: int
    failed: int
    waiting: int
    unread: int
    paused: int = 0

    @property
    def able(self) -> int:
        """How many users can be synced, or are complete although they cannot be synced now."""
        return self.complete + self.failed + self.unread

    @property
    def is_complete(self) -> bool:
        """Whether every user who can be synced is complete."""
        return not self.failed and not self.unread


def day_counts(
    db: sa.Connection,
    connections: Sequence[Connection],
    days: Collection[date],
    zone: ZoneInfo,
    now: datetime,
) -> list[DayCounts]:
    """The counts of each of ``days``, in order.

    Args:
        connections: of all users.
        zone: the time zone of the days.
        now: aware UTC.
    """
    ordered = sorted(days)
    ends = [Window.of_day(day, zone).end for day in ordered]
    values = {
        "users": [one.user.id for one in connections],
        "locations": [one.location_id or "" for one in connections],
        "able": [one.can_sync for one in connections],
        "paused": [one.pause is not None for one in connections],
        "days": ordered,
        "ends": ends,
        "now": now,
    }
    found = {row.day: row for row in db.execute(_COUNTS, values)}
    able = sum(one.can_sync for one in connections)
    paused = sum(one.pause is not None for one in connections)
    counts = []
    for day, end in zip(ordered, ends, strict=True):
        row = found.get(day)
        complete, failed = (row.complete, row.failed) if row else (0, 0)
        blocked_complete = row.blocked_complete if row else 0
        counts.append(
            DayCounts(
                day=day,
                is_open=end > now,
                complete=complete,
                failed=failed,
                waiting=len(connections) - able - blocked_complete,
                paused=paused - (row.paused_complete if row else 0),
                unread=able - (complete - blocked_complete) - failed,
            )
        )
    return counts


_COUNTS: Final = sa.text(
    "SELECT day, count(*) FILTER (WHERE is_read) AS complete, "
    "       count(*) FILTER (WHERE is_read AND NOT able) AS blocked_complete, "
    "       count(*) FILTER (WHERE is_read AND paused) AS paused_complete, "
    "       count(*) FILTER (WHERE able AND state = 'failed') AS failed "
    "FROM (SELECT l.day, l.state, u.able, u.paused, "
    "             l.state = 'complete' AND (d.ends > :now OR l.read_until >= d.ends) AS is_read "
    "      FROM unnest(CAST(:users AS uuid[]), CAST(:locations AS text[]), "
    "                  CAST(:able AS boolean[]), CAST(:paused AS boolean[])) "
    "           AS u(user_id, location_id, able, paused) "
    "      JOIN sync_ledger l USING (user_id, location_id) "
    "      JOIN unnest(CAST(:days AS date[]), CAST(:ends AS timestamptz[])) AS d(day, ends) "
    "      USING (day)) AS rows "
    "GROUP BY day"
)

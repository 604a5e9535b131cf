"""Which days are complete for every user who can be synced, by one or two queries of the ledger,
however many users and days there are.

It applies the rule of ``day_status`` without loading rows, because all days are checked every 20
seconds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import DEADLINE
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.engine import UtcDateTime


class Completeness(Enum):
    """A day's state over all users."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FILLING = "filling"
    """Complete except for new users, whose history is being read for the first time."""


def of_days(
    db: sa.Connection,
    days: Collection[date],
    connections: Sequence[Connection],
    zone: ZoneInfo,
    now: datetime,
    kept_since: date | None = None,
) -> dict[date, Completeness]:
    """The completeness of each of ``days``.

    Args:
        connections: of all users.
        zone: the time zone of the days.
        now: aware UTC; a day in progress is complete if its last read was.
        kept_since: the first day of which calls are kept; None: all are. A day before it is
            complete unless the ledger says otherwise.
    """
    able = [one for one in connections if one.can_sync]
    fresh = [one.user.id for one in able if one.since is not None and now - one.since < DEADLINE]
    filling = ledger.never_synced(db, fresh) if fresh else set()
    ends = {day: Window.of_day(day, zone).end for day in days}
    values = {
        "users": [one.user.id for one in able],
        "locations": [one.location_id or "" for one in able],
        "days": list(ends),
        "read_until": [end if end <= now else _ANY_TIME for end in ends.values()],
    }
    found = {row.day: row for row in db.execute(_COMPLETE, values)}
    # A user whose history is being read has no complete day yet.
    done = Completeness.FILLING if filling else Completeness.COMPLETE

    def of_day(day: date) -> Completeness:
        row = found.get(day)
        if kept_since is not None and day < kept_since:
            is_done = row is None or not row.others
        else:
            is_done = (row.complete if row else 0) >= len(able) - len(filling)
        return done if is_done else Completeness.INCOMPLETE

    return {day: of_day(day) for day in days}


def read_to(
    db: sa.Connection, ends: Mapping[date, datetime], user_ids: Sequence[UUID] | None = None
) -> Iterator[tuple[UUID, str, date]]:
    """User, location and day of the complete days that were read to their end, in parts.

    Args:
        db: in a transaction.
        ends: of the days in question (UTC).
    """
    values = {"days": list(ends), "ends": list(ends.values()), "users": user_ids}
    for row in db.execute(_READ_TO, values, execution_options={"yield_per": _AT_ONCE}):
        yield row[0], row[1], row[2]


_READ_TO: Final = sa.text(
    "SELECT l.user_id, l.location_id, l.day FROM sync_ledger l "
    "JOIN unnest(:days, :ends) AS d(day, day_end) ON d.day = l.day "
    "WHERE l.state = 'complete' AND l.read_until >= d.day_end "
    "AND (CAST(:users AS uuid[]) IS NULL OR l.user_id = ANY(:users))"
).bindparams(
    sa.bindparam("days", type_=ARRAY(sa.Date)),
    sa.bindparam("ends", type_=ARRAY(UtcDateTime)),
    sa.bindparam("users", type_=ARRAY(sa.Uuid)),
)

_AT_ONCE: Final = 50_000
"""Rows of an answer that are in memory at once."""


def synced_since(db: sa.Connection, since: datetime) -> set[date]:
    """Days with a ledger row whose sync finished at or after ``since`` (UTC)."""
    query = sa.text("SELECT DISTINCT day FROM sync_ledger WHERE finished_at >= :since")
    return set(db.execute(query, {"since": since}).scalars())


_ANY_TIME: Final = datetime(1, 1, 1, tzinfo=UTC)

# The ends of days come from Python: its time zone data and the server's may differ.
_COMPLETE: Final = sa.text(
    "SELECT l.day, count(*) FILTER (WHERE l.state = 'complete' AND l.read_until >= d.read_until) "
    "           AS complete, "
    "       count(*) FILTER (WHERE l.state <> 'not_kept' "
    "           AND (l.state = 'complete' AND l.read_until >= d.read_until) IS NOT TRUE) AS others "
    "FROM sync_ledger l "
    "JOIN unnest(:users, :locations) AS u(user_id, location_id) "
    "     ON u.user_id = l.user_id AND u.location_id = l.location_id "
    "JOIN unnest(:days, :read_until) AS d(day, read_until) ON d.day = l.day "
    "GROUP BY l.day"
).bindparams(
    sa.bindparam("users", type_=ARRAY(sa.Uuid)),
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("days", type_=ARRAY(sa.Date)),
    sa.bindparam("read_until", type_=ARRAY(UtcDateTime)),
)

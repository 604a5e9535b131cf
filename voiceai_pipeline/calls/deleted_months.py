"""Deletes calls that are no longer kept (``VOICEAI_KEEP_CALLS_DAYS``), month by month, and knows
from which day on calls are kept.

A month's days are marked in the ledger first, so that none is called complete while its calls go.
Then its calls go in batches, each a short transaction with all that was derived from its calls:
stopped at any time, the next run continues. ``deleted_months`` has how far it has come.

Safe beside syncs and beside another process that does the same. Of a month that was marked after a
sync began, the sync may still store days; they go in the same run or in the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls import call_search, ledger
from voiceai_pipeline.calls.call_store import lock_locations
from voiceai_pipeline.core import kept_days
from voiceai_pipeline.core.batches import batches
from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.database.engine import autocommit, read_clock

BATCH: Final = 2_000
"""Calls of a transaction: a sync that writes their locations waits for it."""

_LONGEST_SYNC: Final = timedelta(hours=6)
"""A run may take as long (dagster.yaml), and its entries be that old once they are visible."""

_CLOCKS: Final = timedelta(days=1)
"""How far two clocks may be apart: by a wrong one, everything would be too old."""

_USERS: Final = 200
"""Users whose days one transaction marks: a sync that records theirs waits for it."""


@dataclass(frozen=True)
class Deletion:
    """What a run deleted.

    Attributes:
        since: the first day that is kept.
        months: the months of which something was deleted or marked, and how many calls went.
        waits: the first day of a month that stays until its marts are built, and with it those
            after it; None: nothing waits.
    """

    since: date
    months: tuple[tuple[date, int], ...]
    waits: date | None = None

    @property
    def calls(self) -> int:
        return sum(calls for _, calls in self.months)


class ClockError(Exception):
    """A clock is wrong: nothing was deleted."""

    def __init__(self, now: datetime) -> None:
        super().__init__(
            f"The database's clock says {now:%Y-%m-%d %H:%M} UTC, and this machine's differs by "
            "more than a day: nothing was deleted. Set them right."
        )


def deleted_before(db: sa.Connection) -> date | None:
    """The day before which calls may have been deleted, under today's limit or an earlier one;
    None: none ever was."""
    newest = db.execute(_NEWEST).scalar_one()
    return None if newest is None else kept_days.next_month(newest)


def kept_since(
    db: sa.Connection, zone: ZoneInfo, keep_days: int | None, now: datetime
) -> date | None:
    """The first day of which calls are kept; None: all are. A day before it that is not in the
    ledger is no longer kept, rather than missing.

    Args:
        zone: the time zone of the days.
        keep_days: today's limit; None: there is none.
        now: aware UTC.
    """
    by_limit = kept_days.kept_since(now.astimezone(zone).date(), keep_days)
    found = [day for day in (by_limit, deleted_before(db)) if day is not None]
    return max(found, default=None)


class OldCalls:
    """The calls of months that are no longer kept.

    Args:
        zone: the time zone of the days.
        keep_days: ``VOICEAI_KEEP_CALLS_DAYS``.
        show: called after each batch, with its month and the calls deleted of it so far.
        machine: this machine's time (UTC), which the database's must not be far from.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        zone: ZoneInfo,
        keep_days: int,
        *,
        show: Callable[[date, int], None] | None = None,
        machine: datetime | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._zone = zone
        self._keep_days = keep_days
        self._show = show
        self._machine = machine
        self._now = now

    def delete(self, may_go: Callable[[date, date], bool]) -> Deletion:
        """Delete them, oldest month first.

        Args:
            may_go: whether the days from the first to before the second may be deleted: what is
                counted from their calls has been.

        Raises:
            ClockError: the database's clock and this machine's differ by days.
            sqlalchemy.exc.SQLAlchemyError: the database failed; what was deleted so far stays so.
        """
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            if self._machine is not None and abs(now - self._machine) > _CLOCKS:
                raise ClockError(now)
            today = now.astimezone(self._zone).date()
            since = kept_days.kept_since(today, self._keep_days)
            assert since is not None  # noqa: S101 - there is a limit
            oldest = self._oldest(db, since)
        done: list[tuple[date, int]] = []
        waits: date | None = None
        for month in kept_days.months(oldest, since) if oldest else ():
            users, locations = self._work(month)
            if not users and not locations and not self._is_unfinished(month):
                continue
            if not may_go(month, kept_days.next_month(month)):
                waits = month
                break
            done.append((month, self._delete_month(month, since)))
        if waits is None:
            self._delete_rest(since)
        if any(calls for _, calls in done):
            _give_room_back(self._engine)
        return Deletion(since, tuple(done), waits)

    def _delete_month(self, month: date, since: date) -> int:
        """Mark and delete a month, and whatever is older; returns how many calls."""
        end = self._start(kept_days.next_month(month))
        with self._engine.begin() as db:
            at = read_clock(db, self._now)
            db.execute(_BEGIN, {"month": month, "keep_days": self._keep_days, "at": at})
        users, _ = self._work(month)
        for start in range(0, len(users), _USERS):
            with self._engine.begin() as db:
                _mark(db, users[start : start + _USERS], month, since)
        _, locations = self._work(month)
        deleted = 0
        for group in batches(locations, BATCH):
            found = BATCH
            while found == BATCH:
                with self._engine.begin() as db:
                    lock_locations(db, group)
                    self._mark_again(db, group, at, month, since)
                    values = {"ids": group, "end": end, "batch": BATCH, "month": month}
                    found = db.execute(_DELETE, values).scalar_one()
                deleted += found
                if self._show:
                    self._show(month, deleted)
        with self._engine.begin() as db:
            db.execute(_FINISH, {"month": month, "at": read_clock(db, self._now)})
        return deleted

    def _mark_again(
        self, db: sa.Connection, group: list[str], began: datetime, month: date, since: date
    ) -> None:
        """Mark days of these locations that a sync stored since ``began``, which had read them
        before: with their calls they would be complete, and their marts be built without any."""
        values = {
            "ids": group, "before": kept_days.next_month(month), "lately": began - _LONGEST_SYNC
        }  # fmt: skip
        if users := list(db.execute(_MARKED_TOO_EARLY, values).scalars()):
            _mark(db, users, month, since)

    def _start(self, day: date) -> datetime:
        return Window.of_day(day, self._zone).start

    def _oldest(self, db: sa.Connection, since: date) -> date | None:
        """The oldest day with something to mark or to delete; None: there is nothing."""
        ids = call_search.location_ids(db)
        values = {"ids": ids, "end": self._start(since)}
        call: datetime | None = db.execute(_OLDEST_CALL, values).scalar_one()
        day: date | None = db.execute(_OLDEST_DAY, {"since": since}).scalar_one()
        found = [one for one in (call and call.astimezone(self._zone).date(), day) if one]
        return min(found, default=None)

    def _work(self, month: date) -> tuple[list[UUID], dict[str, int]]:
        """The users with days to mark up to the end of a month, and the locations with calls to
        delete, with how many."""
        before = kept_days.next_month(month)
        with self._engine.begin() as db:
            users = list(db.execute(_USERS_TO_MARK, {"before": before}).scalars())
            ids = call_search.location_ids(db)
            rows = db.execute(_LOCATIONS_TO_DELETE, {"ids": ids, "end": self._start(before)})
            return users, {row.location_id: row.calls for row in rows}

    def _is_unfinished(self, month: date) -> bool:
        with self._engine.begin() as db:
            return bool(db.execute(_UNFINISHED, {"month": month}).scalar_one())

    def _delete_rest(self, since: date) -> None:
        """Items that are no calls, and what was derived of calls while they were being deleted."""
        for statement in _REST:
            found = BATCH
            while found == BATCH:
                with self._engine.begin() as db:
                    values = {"end": self._start(since), "batch": BATCH}
                    found = db.execute(statement, values).rowcount


def _mark(db: sa.Connection, users: list[UUID], month: date, since: date) -> None:
    """Mark the days of these users up to the end of a month as no longer kept."""
    values = {"before": kept_days.next_month(month), "message": kept_days.sentence(since)}
    ledger.lock_users(db, users)
    db.execute(_MARK, {"users": users, **values})


def _give_room_back(engine: sa.Engine) -> None:
    """Let the next calls use the room, and take values of deleted ones out of the statistics.
    Without TRUNCATE no reader waits. A login that does not own the tables may not; then autovacuum
    does it, at two percent (migration 0028)."""
    with autocommit(engine) as db:
        for table in ("call_logs", "call_facts", "call_words", "set_aside_calls"):
            db.exec_driver_sql(f"VACUUM (ANALYZE, TRUNCATE FALSE, SKIP_LOCKED) {table}")


_NOT_KEPT: Final = DayState.NOT_KEPT.value
_TEXTS: Final = ARRAY(sa.Text)

_NEWEST: Final = sa.text("SELECT max(month) FROM deleted_months")
_UNFINISHED: Final = sa.text(
    "SELECT EXISTS (SELECT FROM deleted_months WHERE month = :month AND finished_at IS NULL)"
)
_BEGIN: Final = sa.text(
    "INSERT INTO deleted_months AS m (month, keep_days, began_at) VALUES (:month, :keep_days, :at) "
    "ON CONFLICT (month) DO UPDATE SET keep_days = excluded.keep_days, "
    "began_at = excluded.began_at, finished_at = NULL"
)
_FINISH: Final = sa.text("UPDATE deleted_months SET finished_at = :at WHERE month = :month")

_OLDEST_DAY: Final = sa.text(
    "SELECT least((SELECT min(month) FROM deleted_months WHERE finished_at IS NULL), "  # noqa: S608
    f"(SELECT min(day) FROM sync_ledger WHERE day < :since AND state <> '{_NOT_KEPT}'))"
)
# Location by location, by the index: the oldest calls lie anywhere in the table.
_OLDEST_CALL: Final = sa.text(
    "SELECT min(c.at) FROM unnest(:ids) AS l(id) CROSS JOIN LATERAL ("
    "SELECT started_at AS at FROM call_logs WHERE location_id = l.id AND started_at < :end "
    "ORDER BY started_at LIMIT 1) AS c"
).bindparams(sa.bindparam("ids", type_=_TEXTS))
_LOCATIONS_TO_DELETE: Final = sa.text(
    "SELECT l.id AS location_id, c.calls FROM unnest(:ids) AS l(id) CROSS JOIN LATERAL ("
    "SELECT count(*) AS calls FROM call_logs WHERE location_id = l.id AND started_at < :end) AS c "
    "WHERE c.calls > 0 ORDER BY 1"
).bindparams(sa.bindparam("ids", type_=_TEXTS))

_USERS_TO_MARK: Final = sa.text(
    f"SELECT DISTINCT user_id FROM sync_ledger WHERE day < :before AND state <> '{_NOT_KEPT}'"  # noqa: S608
)
_MARK: Final = sa.text(
    f"UPDATE sync_ledger SET state = '{_NOT_KEPT}', failure_class = NULL, message = :message, "  # noqa: S608
    "stored = NULL, attempt = 0 "
    f"WHERE user_id = ANY(:users) AND day < :before AND state <> '{_NOT_KEPT}'"
).bindparams(sa.bindparam("users", type_=ARRAY(sa.Uuid)))

_MARKED_TOO_EARLY: Final = sa.text(
    "SELECT DISTINCT user_id FROM sync_ledger WHERE finished_at >= :lately AND day < :before "  # noqa: S608
    f"AND location_id = ANY(:ids) AND state <> '{_NOT_KEPT}'"
).bindparams(sa.bindparam("ids", type_=_TEXTS))

# By the index: a scan of the table would pass over what earlier batches left behind, every time.
_DELETE: Final = sa.text(
    """
    WITH gone AS (
        DELETE FROM call_logs WHERE ctid = ANY(ARRAY(
            SELECT c.ctid FROM unnest(:ids) AS l(id) CROSS JOIN LATERAL (
                SELECT ctid FROM call_logs WHERE location_id = l.id AND started_at < :end
                ORDER BY started_at LIMIT :batch) AS c
            LIMIT :batch))
        RETURNING location_id, call_id
    ), facts AS (
        DELETE FROM call_facts f USING gone
        WHERE (f.location_id, f.call_id) = (gone.location_id, gone.call_id)
    ), words AS (
        DELETE FROM call_words w USING gone
        WHERE (w.location_id, w.call_id) = (gone.location_id, gone.call_id)
    ), noted AS (
        UPDATE deleted_months SET calls = calls + (SELECT count(*) FROM gone) WHERE month = :month
    )
    SELECT count(*) FROM gone
    """
).bindparams(sa.bindparam("ids", type_=_TEXTS))

_REST: Final = tuple(
    sa.text(
        f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("  # noqa: S608 - our own names
        f"SELECT ctid FROM {table} WHERE {at} < :end LIMIT :batch))"
    )
    for table, at in (
        ("call_facts", "started_at"),
        ("call_words", "started_at"),
        ("call_hints", "coalesce(started_at, hinted_at)"),
        ("set_aside_calls", "coalesce(started_at, last_seen_at)"),
    )
)

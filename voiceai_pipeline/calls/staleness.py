"""Which connected users are stale now, by the ledger and the rules of ``day_status``."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import day_status, ledger
from voiceai_pipeline.calls import queries as call_queries
from voiceai_pipeline.calls.day_status import StaleUser
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.database.engine import database_now


@dataclass(frozen=True)
class Staleness:
    """Which users are stale at one moment.

    Attributes:
        due: the day up to which every user should be complete.
        can_sync: how many users can be synced.
        users: those of them who are stale.
        results: the ledger's rows of ``due`` for users who are not complete up to it, by user.
    """

    due: date
    can_sync: int
    users: Sequence[StaleUser]
    results: Mapping[UUID, DayResult]

    @property
    def fingerprint(self) -> str:
        """A hash of ``due``, the stale users and the last complete day of each."""
        facts = [f"{one.connection.user.id} {one.last_complete}" for one in self.users]
        return hashlib.sha256(" ".join([str(self.due), *facts]).encode()).hexdigest()[:16]


def staleness(engine: sa.Engine, zone: ZoneInfo) -> Staleness:
    """Which users are stale now, by the database's clock.

    Args:
        zone: the time zone of the days.
    """
    with engine.begin() as db:
        now = database_now(db)
        due = day_status.day_due(now, zone)
        everyone = connections.all_connections(db)
        locations = {c.user.id: c.location_id for c in everyone if c.can_sync and c.location_id}
        last = call_queries.last_complete_days(db, locations, zone)
        behind = [user_id for user_id in locations if user_id not in last or last[user_id] < due]
        rows = {row.user.id: row for row in ledger.results(db, days=[due], user_ids=behind)}
    failed = {user_id for user_id, row in rows.items() if row.state is DayState.FAILED}
    users = day_status.stale_users(everyone, last, failed, due, now)
    return Staleness(due, len(locations), users, rows)

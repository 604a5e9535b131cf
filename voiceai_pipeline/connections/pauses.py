"""``sync_pauses``: users whose syncs an operator has paused.

While a user has a row, the user's calls are not read: syncs are planned without the user, and
``Tokens`` refuses reads within a second after the pause. Tokens are still refreshed, so that the
connection survives a long pause (decision 42).
"""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.database.tables import sync_pauses

REASON_LENGTH: Final = 200
"""The most characters of a reason that are kept."""


class Pauses:
    """Pauses and resumes the syncs of users.

    Args:
        actor: recorded with the pause, and in the history.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        actor: Actor | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._actor = actor or Actor()
        self._now = now

    def pause(self, user_ids: Collection[UUID], reason: str = "") -> set[UUID]:
        """Pause the syncs of users until they are resumed; reads under way stop within a second.

        Args:
            reason: what the operator entered; kept as one line of ``REASON_LENGTH`` characters.

        Returns:
            The users who were not paused before; the others keep their first pause.

        Raises:
            UnknownUserError: one of the users does not exist; nothing was changed.
        """
        why = cleaned(reason, REASON_LENGTH)
        paused = set()
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            for one in _existing(db, user_ids):
                user_id = one.user.id
                row = insert(sync_pauses).values(
                    user_id=user_id, since=now, paused_by=self._actor.name, reason=why
                )
                added = row.on_conflict_do_nothing().returning(sync_pauses.c.user_id)
                if db.execute(added).one_or_none() is not None:
                    paused.add(user_id)
                    self._record(db, TokenEvent.SYNC_PAUSED, one, now, why)
        return paused

    def resume(self, user_ids: Collection[UUID]) -> set[UUID]:
        """Resume the syncs of users; the days that were missed are filled automatically.

        Returns:
            The users who were paused.

        Raises:
            UnknownUserError: one of the users does not exist; nothing was changed.
        """
        resumed = set()
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            for one in _existing(db, user_ids):
                user_id = one.user.id
                if db.execute(
                    sa.delete(sync_pauses).where(sync_pauses.c.user_id == user_id)
                ).rowcount:
                    resumed.add(user_id)
                    self._record(db, TokenEvent.SYNC_RESUMED, one, now)
        return resumed

    def _record(
        self, db: sa.Connection, event: TokenEvent, one: Connection, now: datetime, detail: str = ""
    ) -> None:
        history.record(
            db,
            event,
            at=now,
            actor=self._actor,
            user_id=one.user.id,
            state=one.state,
            detail=detail,
        )


def _existing(db: sa.Connection, user_ids: Collection[UUID]) -> list[Connection]:
    """These users, sorted by id, so that all callers lock rows in the same order.

    Raises:
        UnknownUserError: one of them does not exist.
    """
    found = connections.all_connections(db, list(user_ids))
    unknown = set(user_ids) - {one.user.id for one in found}
    if unknown:
        raise UnknownUserError(f"no user {', '.join(sorted(map(str, unknown)))}")
    return sorted(found, key=lambda one: one.user.id)


def count(db: sa.Connection) -> int:
    """How many users' syncs are paused."""
    return db.execute(sa.select(sa.func.count()).select_from(sync_pauses)).scalar_one()

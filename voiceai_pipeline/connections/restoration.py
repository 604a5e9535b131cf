"""Notices that the database was restored from a backup, and brings its connections up to date.

If a pair on disk is newer than the database's row, the row is from a backup and its refresh token
is spent. The newer pair is stored before any token is used. As there may be no newer pair at all,
``refresh.py`` exchanges one token at a time until one is accepted, and ``refresh_outcome.py``
suspends all refreshes after three refusals in a row.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import circuit_breaker, connection_store, history, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.newest_pairs import NewestPair, NewestPairs
from voiceai_pipeline.connections.refresh_outcome import record_success
from voiceai_pipeline.connections.refresh_plan import planned_refresh
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.database.engine import read_clock

_DETAIL: Final = "the database had been restored from a backup"


class Restoration:
    """Compares connections with the pairs on disk. Safe to share between threads.

    Args:
        pairs: the pairs on disk; None: none are kept, so nothing is ever noticed.
        actor: recorded in the history.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        pairs: NewestPairs | None,
        *,
        actor: Actor,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._pairs = pairs
        self._actor = actor
        self._now = now

    def is_vouched_for(self, row: TokenRow) -> bool | None:
        """Whether the row's pair is known to be the newest: it equals the one on disk, which the
        process that got it wrote. None: no pairs are kept."""
        if self._pairs is None:
            return None
        pair = self._pairs.find(row.connection.user.id)
        return pair is not None and pair.witnessed and pair.at == row.connection.refreshed_at

    def update(self, connection: Connection) -> bool:
        """Bring a user's row up to date; False if nothing on disk is newer.

        Raises:
            PipelineError: TOKEN_UNREADABLE: the newer pair cannot be decrypted.
        """
        pair = self._pairs.find(connection.user.id) if self._pairs else None
        if pair is None or not pair.is_newer_than(connection):
            return False
        if connection.state is ConnectionState.NEVER_CONNECTED and self._was_deleted(pair):
            return False
        token = None if pair.is_disconnection else pair.token(self._vault)
        with self._engine.begin() as db:
            connection_store.lock(db, pair.user_id)
            now = read_clock(db, self._now)
            row = token_row.read(db, pair.user_id, now)
            before = row.connection if row else connection
            if not pair.is_newer_than(before):
                return True  # another process was faster
            if token is None:
                connection_store.disconnect(
                    db, pair.user_id, now, actor=self._actor, detail=_DETAIL
                )
            else:
                location_id = token.location_id or before.location_id
                state, reason = connection_store.standing(location_id, token.scope)
                connection_store.save_connection(
                    db,
                    replace(
                        before,
                        state=state,
                        reason=reason,
                        location_id=location_id,
                        company_id=token.company_id,
                        user_type=token.user_type,
                        scope=token.scope,
                    ),
                    token,
                    self._vault,
                    started_at=pair.at,
                    refresh_at=planned_refresh(pair.user_id, pair.at, token.lifetime(pair.at)),
                    actor=self._actor,
                    event=TokenEvent.RESTORED,
                    detail=_DETAIL,
                    now=now,
                )
            if circuit_breaker.read(db).reason is FailureClass.TOKENS_SPENT:
                record_success(db, self._actor, now, granted=True, refreshed=True)
        if self._pairs:
            self._pairs.mark_used(pair)
        return True

    def update_all(self) -> dict[UUID, PipelineError | None]:
        """Bring the rows of all users up to date, including users without a row.

        Returns:
            Each user for whom the disk had something newer: None if it was restored, else why it
            could not be read.
        """
        kept = list(self._pairs.users()) if self._pairs else []
        found: dict[UUID, PipelineError | None] = {}
        if not kept:
            return found
        with self._engine.begin() as db:
            stored = connections.all_connections(db, kept)
        for connection in stored:
            try:
                if self.update(connection):
                    found[connection.user.id] = None
            except PipelineError as error:
                found[connection.user.id] = error
        return found

    def _was_deleted(self, pair: NewestPair) -> bool:
        """Whether the history has this pair or a later one, so the row was deleted on purpose."""
        with self._engine.begin() as db:
            last = history.last_grant_at(db, pair.user_id)
        return last is not None and last >= pair.at

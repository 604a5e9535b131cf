"""Checks a connection after HighLevel announced that the app was removed, and marks it.

A message alone changes nothing (REQUIREMENTS W5): one request to the API is made with the stored
access token. The connection is marked only if the API refuses a token that has not expired. No
refresh token is spent, and no token is destroyed.
"""

from datetime import timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections import token_row, token_store
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh_plan import needs_refresh
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import LIVE_STATES, Connection, ConnectionState
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient

_REFUSALS: Final = (FailureClass.ACCESS_REJECTED, FailureClass.WRONG_LOCATION)
"""How HighLevel may refuse the token of a removed app; the actual text is unknown (CONTRACT 6)."""

_DETAIL: Final = "HighLevel announced that the app was removed, and refused the access token"


class AppRemoval:
    """Checks connections whose app is said to be removed.

    Args:
        actor: recorded in the history.
    """

    def __init__(
        self, engine: sa.Engine, vault: TokenVault, client: HighLevelClient, actor: Actor
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client.without_retries()
        self._actor = actor

    def check(self, location_id: str | None, company_id: str | None) -> list[Connection]:
        """Check all connections of a location, or of an agency, and mark those that are refused.

        A connection whose access token has expired is skipped: its refresh is due at once, and
        shows whether it still works. So is one whose user's syncs are paused, since the check
        reads.

        Returns:
            The connections that were marked, as they were before.

        Raises:
            PipelineError: HighLevel did not answer, so nothing is known yet.
        """
        with self._engine.begin() as db:
            everyone = connection_queries.all_connections(db)
        concerned = [
            one
            for one in everyone
            if one.state in LIVE_STATES
            and one.pause is None
            and (one.location_id == location_id if location_id else one.company_id == company_id)
        ]
        return [one for one in concerned if self._is_refused(one) and self._mark(one)]

    def _is_refused(self, connection: Connection) -> bool:
        with self._engine.begin() as db:
            row = token_row.read(db, connection.user.id, None)
        if row is None or not connection.location_id:
            return False
        token = _unexpired(row, self._vault)
        if token is None:
            return False
        try:
            since = row.now - timedelta(hours=1)
            self._client.call_total(token, connection.location_id, since, row.now)
        except PipelineError as error:
            if error.failure in PROVIDER_FAILURES:
                raise
            return error.failure in _REFUSALS
        return False

    def _mark(self, connection: Connection) -> bool:
        with self._engine.begin() as db:
            row = token_row.read(db, connection.user.id, None)
            # Reconnected or refreshed meanwhile: the refused token is no longer the stored one.
            if row is None or row.version != connection.token_version:
                return False
            return token_store.settle(
                db,
                row,
                None,
                ConnectionState.NEEDS_RECONNECT,
                FailureClass.REFRESH_REJECTED,
                actor=self._actor,
                event=TokenEvent.REPORTED,
                detail=_DETAIL,
            )


def _unexpired(row: TokenRow, vault: TokenVault) -> Secret | None:
    is_company = row.is_company
    expires_at = row.location_token_expires_at if is_company else row.connection.token_expires_at
    if needs_refresh(expires_at, row.now, timedelta()):
        return None
    return row.token(vault, "location_access_token" if is_company else "access_token")

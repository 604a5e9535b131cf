"""Private integration tokens: made in HighLevel for one location, they replace an app.

Such a token does not expire and cannot be refreshed (CONTRACT 14): it works until it is rotated or
deleted in HighLevel. It is stored and encrypted like an OAuth access token.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NoReturn
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, connection_store, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.refresh_outcome import PAUSE, STATE_AFTER
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    PRIVATE,
    PRIVATE_FAILURES,
    Connection,
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError

_TOKEN: Final = re.compile(r"[\x21-\x7e]{20,200}")
"""Wider than ``pit-`` and a UUID: that form was seen, but is not documented."""

_LOCATION_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_IN_ADDRESS: Final = re.compile(r"/location/([A-Za-z0-9_-]+)")


class PrivateTokenError(ValueError):
    """What was entered cannot be used. Nothing was changed; the text says what to enter."""


class PrivateTokens:
    """Connects users with private integration tokens, and hands these out.

    Args:
        actor: recorded in the history.
        spool: token pairs on disk; those of a replaced OAuth connection are deleted.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        actor: Actor | None = None,
        spool: Spool | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client
        self._actor = actor or Actor()
        self._spool = spool
        self._now = now

    def connect(self, user_id: UUID, token: Secret, location_id: str) -> Connection:
        """Test a token with one request and store it, replacing an older connection.

        Args:
            location_id: the location that the token was made in, or an address of HighLevel's web
                app that contains its id.

        Raises:
            UnknownUserError: there is no such user.
            PrivateTokenError: what was entered cannot be a token or a location's id.
            PipelineError: HighLevel did not accept the token for this location, or did not answer;
                the stored connection is untouched.
        """
        token, location_id = _checked(token, location_id)
        with self._engine.begin() as db:
            before = connections.one(db, user_id)
            now = read_clock(db, self._now)
        if before is None:
            raise UnknownUserError(f"no user {user_id}")
        self._try(token, location_id, now)
        same = before.location_id == location_id
        connection = Connection(
            user=before.user,
            state=ConnectionState.CONNECTED,
            location_id=location_id,
            location_name=before.location_name if same else None,
            location_timezone=before.location_timezone if same else None,
            company_id=before.company_id if same else None,
            user_type=PRIVATE,
        )
        with self._engine.begin() as db:
            connection_store.save_connection(
                db,
                connection,
                OAuthToken(access_token=token),
                self._vault,
                started_at=now,
                refresh_at=None,
                actor=self._actor,
            )
        if self._spool:
            self._spool.forget(user_id)
        self._name_location(location_id, token)
        return stored_connection(self._engine, user_id, self._now)

    def _name_location(self, location_id: str, token: Secret) -> None:
        """Store name and time zone; optional, so a failure (no ``locations.readonly``) is
        ignored."""
        try:
            location = self._client.location(token, location_id)
        except HighLevelError:
            return
        with self._engine.begin() as db:
            connections.name_location(db, location_id, location.name, location.timezone)

    def valid(self, row: TokenRow, rejected: Secret | None) -> Secret:
        """The token in the row. If the connection is not CONNECTED, it is tested first.

        Args:
            rejected: a token that HighLevel has just refused.

        Raises:
            PipelineError: HighLevel refuses it, or does not answer; the class says what to do.
        """
        token, location_id = row.token(self._vault, "access_token"), row.connection.location_id
        if token is None or location_id is None:
            raise PipelineError(FailureClass.NO_CONNECTION)
        if token == rejected:
            self._refuse(row, PipelineError(FailureClass.PRIVATE_TOKEN_REVOKED))
        if row.connection.state is not ConnectionState.CONNECTED:
            if row.connection.pause is not None:
                raise row.connection.pause.error  # the test reads
            try:
                self._try(token, location_id, row.now)
            except PipelineError as error:
                self._refuse(row, error)
            self._restore(row)
        if row.connection.rotation_is_due:
            with self._engine.begin() as db:
                alerts.open_(
                    db,
                    row.connection.user.id,
                    FailureClass.PRIVATE_TOKEN_OLD,
                    row.now,
                    subject=alerts.rotation_of(row.connection.user.id),
                )
        return token

    def _try(self, token: Secret, location_id: str, now: datetime) -> None:
        """Test the token with one request.

        Raises:
            PipelineError: the request failed; a refusal is classified as for a private token.
        """
        try:
            self._client.call_total(token, location_id, now - timedelta(days=1), now)
        except HighLevelError as error:
            error.failure = PRIVATE_FAILURES.get(error.failure, error.failure)
            raise

    def _refuse(self, row: TokenRow, error: PipelineError) -> NoReturn:
        """Record what a refusal means for the connection, and raise ``error``."""
        state = STATE_AFTER.get(error.failure)
        if state is None:
            raise error
        with self._engine.begin() as db:
            token_store.settle(
                db,
                row,
                None,
                state,
                error.failure,
                row.now + PAUSE if state is ConnectionState.PAUSED else None,
                actor=self._actor,
                event=TokenEvent.REPORTED,
            )
        raise error

    def _restore(self, row: TokenRow) -> None:
        """Record that the token works again."""
        with self._engine.begin() as db:
            restored = token_store.settle(
                db,
                row,
                None,
                ConnectionState.CONNECTED,
                actor=self._actor,
                event=TokenEvent.PRIVATE_TOKEN_WORKS,
            )
            if restored:
                alerts.close(db, row.connection.user.id, row.now)


def _checked(token: Secret, location_id: str) -> tuple[Secret, str]:
    """The token and the location's id from what was entered.

    Raises:
        PrivateTokenError: either cannot be one.
    """
    cleaned = Secret(token.reveal().strip())
    if not _TOKEN.fullmatch(cleaned.reveal()):
        raise PrivateTokenError(
            "This is not a private integration token: it begins with pit- and has no spaces. "
            "Nothing was changed. Copy it from HighLevel, Settings, Private Integrations."
        )
    address = _IN_ADDRESS.search(location_id)
    wanted = address[1] if address else location_id.strip()
    if not _LOCATION_ID.fullmatch(wanted):
        raise PrivateTokenError(
            "This is not a location id. Nothing was changed. Copy it from HighLevel, Settings, "
            "Business Profile, or copy the address of any page of the location."
        )
    return cleaned, wanted

"""Starts and ends connections: consent in the browser, an agency's location, disconnecting.

This is the only OAuth flow, for the Connections page and the command line alike: an authorize URL
whose ``state`` is bound to a user and works once; the exchange of the code; the check of its
scopes; location, name and time zone. The life of a connection in between is in ``tokens.py``.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
import tenacity

from voiceai_pipeline.connections import connection_store, consent_requests, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_errors import (
    CONNECTED,
    ChooseLocationError,
    ConsentError,
    FinishedError,
)
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.refresh import WRITE_PAUSES
from voiceai_pipeline.connections.refresh_outcome import record_success
from voiceai_pipeline.connections.refresh_plan import needs_refresh, planned_refresh
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
    Location,
    OAuthToken,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError

_STATE_BYTES: Final = 24
_PATIENCE: Final = 40
"""How many half seconds a repeated request waits for the first one's result."""

_AGAIN: Final = "Nothing was changed; start the connection again."


@dataclass(frozen=True)
class Begun:
    """A started consent: where the browser goes, and the state it must return."""

    url: str
    state: Secret


class Consent:
    """Connects and disconnects users.

    Args:
        actor: recorded in the history.
        spool: token pairs on disk; connecting and disconnecting delete the user's.
        connected: called with the user and the location of each new connection.
        pairs: where the newest pair of each user is kept; None: nowhere.
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: waits for the request that is finishing the same consent.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        actor: Actor | None = None,
        spool: Spool | None = None,
        connected: Callable[[UUID, str], None] = lambda _user_id, _location_id: None,
        pairs: NewestPairs | None = None,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client
        self._actor = actor or Actor()
        self._spool = spool
        self._connected = connected
        self._pairs = pairs
        self._now = now
        self._sleep = sleep

    # The flow -------------------------------------------------------------------------------------

    def begin(
        self, user_id: UUID, location_id: str | None = None, *, browser_bound: bool = False
    ) -> Begun:
        """Start a consent; its URL works once, for half an hour.

        Args:
            location_id: the location of an agency to use.
            browser_bound: only the browser that starts it may finish it (``same_browser``).

        Raises:
            UnknownUserError: there is no such user.
        """
        state = Secret(secrets.token_urlsafe(_STATE_BYTES))
        with self._engine.begin() as db:
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
            now = read_clock(db, self._now)
            consent_requests.add(db, state, user_id, location_id, now, browser_bound=browser_bound)
        return Begun(self._client.authorize_url(state.reveal()), state)

    def finish(
        self,
        state: Secret | None,
        code: Secret | None,
        error: str | None = None,
        *,
        same_browser: bool = False,
    ) -> Connection:
        """Connect the user that ``state`` identifies, with the code that HighLevel sent.

        Args:
            error: what HighLevel sent instead of a code.
            same_browser: the browser has proved that it started this consent.

        Raises:
            FinishedError: the state was used before, maybe by a request that a browser repeated.
            ConsentError: the state is missing, unknown, expired or from another browser; there is
                no code, or consent was refused.
            UnknownUserError, ChooseLocationError, PipelineError: as ``connect``.
        """
        request = self._redeem(state, code, error, same_browser=same_browser)
        if code is None or request.user_id is None:  # pragma: no cover - _redeem has looked
            raise ConsentError(_AGAIN)
        return self.conclude(request.key, request.user_id, code, request.location_id)

    def conclude(
        self, key: str, user_id: UUID, code: Secret, location_id: str | None
    ) -> Connection:
        """Connect, and record how the consent with this key ended.

        Raises:
            UnknownUserError, ConsentError, ChooseLocationError, PipelineError: as ``connect``.
        """
        outcome = "Unexpected error; see the log of the program that handled the callback."
        try:
            connection = self.connect(user_id, code, location_id)
            outcome = CONNECTED if connection.obstacle is None else f"{connection.message}."
        except (ConsentError, PipelineError, ChooseLocationError, UnknownUserError) as problem:
            outcome = str(problem)
            raise
        finally:
            with self._engine.begin() as db:
                consent_requests.finish_key(db, key, outcome)
        return connection

    def _redeem(
        self,
        state: Secret | None,
        code: Secret | None,
        error: str | None,
        *,
        same_browser: bool,
    ) -> consent_requests.ConnectRequest:
        """Mark the state as used, after all checks that are possible before the code is spent."""
        if not state:
            raise ConsentError(
                f"The address has no state, so it belongs to no connection started here. {_AGAIN}"
            )
        with self._engine.begin() as db:
            request = consent_requests.find(db, state)
            now = read_clock(db, self._now)
        if request is None or request.user_id is None:
            raise ConsentError(f"The state in the address is not ours, or it is days old. {_AGAIN}")
        if request.used_at is not None:
            raise FinishedError(self.ended(request))
        if request.expires_at <= now:
            raise ConsentError(f"The consent took longer than 30 minutes. {_AGAIN}")
        if request.browser_bound and not same_browser:
            raise ConsentError(
                "This consent was started in another browser, or cookies are off. Nothing was "
                "changed; start the connection in the browser that is to finish it."
            )
        if error or not code:
            why = "was refused in the browser" if error else "came back without a code"
            with self._engine.begin() as db:
                consent_requests.finish(db, state, f"The consent {why}. {_AGAIN}")
            raise ConsentError(f"The consent {why}. {_AGAIN}")
        with self._engine.begin() as db:
            used = consent_requests.use(db, state, now)
        if not used:
            raise FinishedError(self.ended(request))
        return request

    def ended(self, request: consent_requests.ConnectRequest) -> consent_requests.ConnectRequest:
        """The consent with its outcome, after waiting for the request that is finishing it: a
        browser may repeat a request before it has the answer."""
        for _ in range(_PATIENCE):
            with self._engine.begin() as db:
                latest = consent_requests.find_key(db, request.key) or request
            if latest.outcome is not None:
                return latest
            self._sleep(0.5)
        return latest

    def outcome(self, state: Secret) -> str | None:
        """The outcome of a consent that another process finished: ``CONNECTED`` or a sentence;
        None while it is pending."""
        with self._engine.begin() as db:
            request = consent_requests.find(db, state)
        return request.outcome if request else None

    # Connecting -----------------------------------------------------------------------------------

    def connect(self, user_id: UUID, code: Secret, location_id: str | None = None) -> Connection:
        """Exchange an authorization code and store the connection, replacing an older one.

        Args:
            location_id: the location of an agency (Company) installation to use.

        Raises:
            UnknownUserError: there is no such user; the code is not spent.
            ChooseLocationError: the agency has several locations and none of them was given; the
                grant is stored, and ``choose_location`` completes the connection.
            ConsentError: HighLevel refused the code; the stored connection is unchanged.
            PipelineError: HighLevel did not exchange the code, and the stored connection is
                unchanged; or it granted an agency without any location.
        """
        with self._engine.begin() as db:
            before = connections.one(db, user_id)
            started_at = read_clock(db, self._now)
        if before is None:
            raise UnknownUserError(f"no user {user_id}")
        try:
            token = self._client.exchange_code(code)
        except HighLevelError as error:
            if error.failure is FailureClass.REFRESH_REJECTED:
                raise ConsentError(
                    "HighLevel refused the code: it was used already, or it is too old "
                    f"({error.detail}). {_AGAIN}"
                ) from None
            raise
        is_company = token.user_type == "Company"
        connection = Connection(
            user=before.user,
            state=ConnectionState.CONNECTED,
            location_id=None if is_company else token.location_id,
            company_id=token.company_id,
            user_type=token.user_type or "Location",
            scope=token.scope,
        )
        # Saved before it is used: the code is spent, so nothing below may lose the new tokens.
        self._save(connection, before, token, started_at)
        if self._pairs:
            self._pairs.keep(connection, token, started_at)
        with self._engine.begin() as db:
            record_success(db, self._actor, started_at, granted=True)
        self._forget_spooled(user_id)
        if is_company:
            return self._choose(user_id, location_id)
        if connection.location_id:
            self._name_location(connection.location_id, token.access_token)
            self._connected(user_id, connection.location_id)
        return stored_connection(self._engine, user_id, self._now)

    def _save(
        self, connection: Connection, before: Connection, token: OAuthToken, started_at: datetime
    ) -> None:
        """Store a connection in the state that its location and scopes allow."""
        if connection.location_id == before.location_id:
            connection = replace(
                connection,
                location_name=before.location_name,
                location_timezone=before.location_timezone,
            )
        state, reason = connection_store.standing(connection.location_id, token.scope)
        lifetime = token.lifetime(started_at)
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(len(WRITE_PAUSES) + 1),
            wait=tenacity.wait_chain(*map(tenacity.wait_fixed, WRITE_PAUSES)),
            retry=tenacity.retry_if_exception_type(sa.exc.SQLAlchemyError),
            reraise=True,
        )
        if self._pairs:
            # If a refresh came in between, the kept pair would be newer than this consent's start.
            self._pairs.forget(connection.user.id)
        for attempt in attempts:
            with attempt, self._engine.begin() as db:
                connection_store.save_connection(
                    db,
                    replace(connection, state=state, reason=reason),
                    token,
                    self._vault,
                    started_at=started_at,
                    refresh_at=planned_refresh(connection.user.id, started_at, lifetime),
                    actor=self._actor,
                )

    def _name_location(self, location_id: str, reader: Secret | None) -> None:
        """Store name and time zone; optional, so a failure is ignored."""
        if reader is None:
            return
        try:
            location = self._client.location(reader, location_id)
        except HighLevelError:
            return
        with self._engine.begin() as db:
            connections.name_location(db, location_id, location.name, location.timezone)

    # An agency's location -------------------------------------------------------------------------

    def locations(self, user_id: UUID) -> list[Location]:
        """The locations that a stored agency grant covers.

        Raises:
            UnknownUserError: there is no such user.
            PipelineError: the stored grant is not an agency's, it has expired, or HighLevel does
                not answer.
        """
        _, company_id, token = self._agency_grant(user_id)
        return self._client.installed_locations(token, company_id)

    def choose_location(self, user_id: UUID, location_id: str) -> Connection:
        """Use one of the locations that a stored agency grant covers.

        Raises:
            ChooseLocationError: the grant does not cover this location.
            UnknownUserError, PipelineError: as ``locations``.
        """
        return self._choose(user_id, location_id)

    def _choose(self, user_id: UUID, wanted: str | None) -> Connection:
        row, company_id, token = self._agency_grant(user_id)
        installed = self._client.installed_locations(token, company_id)
        matching = [one for one in installed if wanted in (None, one.location_id)]
        if not installed:
            raise PipelineError(FailureClass.NO_LOCATION, "the app is installed in no location")
        if len(matching) != 1:
            raise ChooseLocationError(user_id, installed)
        location_id = matching[0].location_id
        minted = self._client.location_token(token, company_id, location_id)
        with self._engine.begin() as db:
            chosen = connection_store.choose_location(db, row, location_id, actor=self._actor)
        if not chosen:
            raise PipelineError(
                FailureClass.NO_LOCATION, "the connection has changed in the meantime; choose again"
            )
        if self._pairs:
            self._pairs.keep_location(user_id, location_id)
        self._name_location(location_id, minted.access_token)
        self._connected(user_id, location_id)
        return stored_connection(self._engine, user_id, self._now)

    def _agency_grant(self, user_id: UUID) -> tuple[TokenRow, str, Secret]:
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = token_row.read(db, user_id, now)
            if row is None and connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
        token = row.token(self._vault, "access_token") if row else None
        if row is None or token is None or row.connection.user_type != "Company":
            raise PipelineError(FailureClass.NO_CONNECTION, "no agency's grant is stored")
        if row.connection.obstacle not in (None, FailureClass.NO_LOCATION):
            raise PipelineError(row.connection.obstacle, "the agency has to give consent again")
        if row.connection.company_id is None:
            raise PipelineError(FailureClass.NO_LOCATION, "the agency's grant names no company")
        if needs_refresh(row.connection.token_expires_at, row.now):
            raise PipelineError(FailureClass.NO_LOCATION, "the agency's grant has expired")
        return row, row.connection.company_id, token

    # Disconnecting --------------------------------------------------------------------------------

    def disconnect(self, user_id: UUID) -> Connection:
        """Delete the stored tokens; the user stays listed and the calls stay stored.

        Raises:
            UnknownUserError: there is no such user.
        """
        with self._engine.begin() as db:
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
            now = read_clock(db, self._now)
            connection_store.disconnect(db, user_id, now, actor=self._actor)
        self._forget_spooled(user_id)
        if self._pairs:
            self._pairs.keep_disconnection(user_id, now)
        return stored_connection(self._engine, user_id, self._now)

    def _forget_spooled(self, user_id: UUID) -> None:
        """Delete pairs on disk: they belong to a connection that was replaced or removed."""
        if self._spool:
            self._spool.forget(user_id)

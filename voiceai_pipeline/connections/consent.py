"""How a connection begins and ends: consent in the browser, the location of an agency, goodbye.

The one OAuth flow, for the Connections page and the command line alike: an authorize URL whose
``state`` is bound to a user and works once; the exchange of the code; the check of its scopes;
location, name and time zone. What lives between beginning and end is ``tokens.py``.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
import tenacity

from voiceai_pipeline.connections import connection_store, consent_requests, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.refresh import WRITE_PAUSES
from voiceai_pipeline.connections.refresh_outcome import note_success
from voiceai_pipeline.connections.refresh_plan import needs_refresh, planned_refresh
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
    Location,
    OAuthToken,
    missing_scopes,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError

_STATE_BYTES: Final = 24
CONNECTED: Final = "connected"
"""How a consent ended well; whatever else it ended with is a sentence."""

_AGAIN: Final = "Nothing was changed; begin the connection again."


class ConsentError(ValueError):
    """What came back from the browser cannot finish a consent; nothing was changed, and the text
    says what happened and what to do."""


class ChooseLocationError(Exception):
    """An agency's connection covers several locations, and none of them was chosen.

    Attributes:
        locations: those it covers.
        user_id: whose connection it is.
    """

    def __init__(self, user_id: UUID, locations: list[Location]) -> None:
        names = ", ".join(f"{place.name or 'unnamed'} ({place.location_id})" for place in locations)
        super().__init__(f"Choose one of the agency's locations with --location: {names}.")
        self.locations = locations
        self.user_id = user_id


@dataclass(frozen=True)
class Begun:
    """A consent that has begun: where the browser goes, and what it must bring back."""

    url: str
    state: Secret


class Consent:
    """Connects and disconnects users.

    Args:
        actor: who is named in the history.
        spool: where pairs may wait that a disconnection destroys too.
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

    # The flow -------------------------------------------------------------------------------------

    def begin(
        self, user_id: UUID, location_id: str | None = None, *, browser_bound: bool = False
    ) -> Begun:
        """Where the user's browser gives consent, for half an hour and once.

        Args:
            location_id: which location of an agency is wanted.
            browser_bound: only the browser that begins it may finish it (``same_browser``).

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
        """Connect the user whom ``state`` names with the code that HighLevel sent.

        Args:
            error: what HighLevel sent instead of a code.
            same_browser: the browser has shown that it began this consent.

        Raises:
            ConsentError: the state is missing, unknown, used or too old, or belongs to another
                browser; there is no code, or consent was refused.
            UnknownUserError, ChooseLocationError, PipelineError: as ``connect``.
        """
        request = self._redeem(state, code, error, same_browser=same_browser)
        if state is None or code is None:  # pragma: no cover - _redeem has looked
            raise ConsentError(_AGAIN)
        outcome = (
            "Something failed that nobody foresaw; the log of the program that did it says more."
        )
        try:
            connection = self.connect(request.user_id, code, request.location_id)
            outcome = CONNECTED if connection.can_sync else f"{connection.message}."
        except (ConsentError, PipelineError, ChooseLocationError, UnknownUserError) as problem:
            outcome = str(problem)
            raise
        finally:
            with self._engine.begin() as db:
                consent_requests.finish(db, state, outcome)
        return connection

    def _redeem(
        self,
        state: Secret | None,
        code: Secret | None,
        error: str | None,
        *,
        same_browser: bool,
    ) -> consent_requests.ConnectRequest:
        """Spend the state; everything that can be wrong is found before the code is spent."""
        if not state:
            raise ConsentError(
                f"The address has no state, so no connection was begun here with it. {_AGAIN}"
            )
        with self._engine.begin() as db:
            request = consent_requests.find(db, state)
            now = read_clock(db, self._now)
        if request is None:
            raise ConsentError(
                f"The state in the address is none of ours, or it is days old. {_AGAIN}"
            )
        if request.used_at is not None:
            raise ConsentError(
                f"This consent was finished already, at {request.used_at:%H:%M} UTC; an address "
                "works once. If the connection does not stand, begin it again."
            )
        if request.expires_at <= now:
            raise ConsentError(f"The consent took longer than 30 minutes. {_AGAIN}")
        if request.browser_bound and not same_browser:
            raise ConsentError(
                "This consent was begun in another browser, or cookies are off. Nothing was "
                "changed; begin the connection in the browser that is to finish it."
            )
        if error or not code:
            why = "was refused in the browser" if error else "came back without a code"
            with self._engine.begin() as db:
                consent_requests.finish(db, state, f"The consent {why}. {_AGAIN}")
            raise ConsentError(f"The consent {why}. {_AGAIN}")
        with self._engine.begin() as db:
            if not consent_requests.use(db, state, now):
                raise ConsentError(f"This consent has just been finished elsewhere. {_AGAIN}")
        return request

    def outcome(self, state: Secret) -> str | None:
        """How a consent ended that another program finished: ``CONNECTED`` or a sentence; None
        while it is under way."""
        with self._engine.begin() as db:
            request = consent_requests.find(db, state)
        return request.outcome if request else None

    # Connecting -----------------------------------------------------------------------------------

    def connect(self, user_id: UUID, code: Secret, location_id: str | None = None) -> Connection:
        """Exchange an authorization code and store the connection, replacing an older one.

        Args:
            location_id: which location of an agency (Company) installation to use.

        Raises:
            UnknownUserError: there is no such user; the code is not spent.
            ChooseLocationError: an agency with several locations, and none or another was named;
                the grant is stored, and ``choose_location`` ends it.
            ConsentError: HighLevel refused the code; the stored connection is untouched.
            PipelineError: HighLevel did not exchange it, and the stored connection is untouched; or
                it granted an agency without a location.
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
        # Saved before it is used: the code is spent, and nothing below may lose what it bought.
        self._save(connection, before, token, started_at)
        with self._engine.begin() as db:
            note_success(db, self._actor, started_at, granted=True)
        self._forget_spooled(user_id)
        if is_company:
            return self._choose(user_id, location_id)
        if connection.location_id:
            self._name_location(connection.location_id, token.access_token)
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
        reason: FailureClass | None = None
        if missing_scopes(token.scope):
            reason = FailureClass.SCOPE_MISSING
        elif connection.location_id is None:
            reason = FailureClass.NO_LOCATION
        state = ConnectionState.NEEDS_RECONNECT if reason else ConnectionState.CONNECTED
        lifetime = token.lifetime(started_at)
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(len(WRITE_PAUSES) + 1),
            wait=tenacity.wait_chain(*map(tenacity.wait_fixed, WRITE_PAUSES)),
            retry=tenacity.retry_if_exception_type(sa.exc.SQLAlchemyError),
            reraise=True,
        )
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
        """Name and time zone are a courtesy: the connection stands without them."""
        if reader is None:
            return
        try:
            place = self._client.location(reader, location_id)
        except HighLevelError:
            return
        with self._engine.begin() as db:
            connections.name_location(db, location_id, place.name, place.timezone)

    # An agency's location -------------------------------------------------------------------------

    def locations(self, user_id: UUID) -> list[Location]:
        """The locations that a stored agency grant covers.

        Raises:
            UnknownUserError: there is no such user.
            PipelineError: the stored grant is no agency's, it is no longer fresh, or HighLevel does
                not answer.
        """
        _, company_id, token = self._agency_grant(user_id)
        return self._client.installed_locations(token, company_id)

    def choose_location(self, user_id: UUID, location_id: str) -> Connection:
        """Use one of the locations that a stored agency grant covers.

        Raises:
            ChooseLocationError: it covers others, not this one.
            UnknownUserError, PipelineError: as ``locations``.
        """
        return self._choose(user_id, location_id)

    def _choose(self, user_id: UUID, wanted: str | None) -> Connection:
        row, company_id, token = self._agency_grant(user_id)
        installed = self._client.installed_locations(token, company_id)
        fitting = [place for place in installed if wanted in (None, place.location_id)]
        if not installed:
            raise PipelineError(FailureClass.NO_LOCATION, "the app is installed in no location")
        if len(fitting) != 1:
            raise ChooseLocationError(user_id, installed)
        place = fitting[0].location_id
        minted = self._client.location_token(token, company_id, place)
        with self._engine.begin() as db:
            chosen = connection_store.choose_location(db, row, place, actor=self._actor)
        if not chosen:
            raise PipelineError(
                FailureClass.NO_LOCATION, "the connection was changed meanwhile; choose again"
            )
        self._name_location(place, minted.access_token)
        return stored_connection(self._engine, user_id, self._now)

    def _agency_grant(self, user_id: UUID) -> tuple[TokenRow, str, Secret]:
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = token_row.read(db, user_id, now)
            if row is None and connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
        token = row.token(self._vault, "access_token") if row else None
        if row is None or token is None or row.connection.user_type != "Company":
            raise PipelineError(FailureClass.NO_CONNECTION, "there is no agency's grant to use")
        if row.connection.obstacle not in (None, FailureClass.NO_LOCATION):
            raise PipelineError(row.connection.obstacle, "the agency has to give consent anew")
        if row.connection.company_id is None:
            raise PipelineError(FailureClass.NO_LOCATION, "the agency's grant names no company")
        if needs_refresh(row.connection.token_expires_at, row.now):
            raise PipelineError(FailureClass.NO_LOCATION, "the agency's grant is a day old")
        return row, row.connection.company_id, token

    # Goodbye --------------------------------------------------------------------------------------

    def disconnect(self, user_id: UUID) -> Connection:
        """Destroy the stored tokens; the user stays listed and the calls stay stored.

        Raises:
            UnknownUserError: there is no such user.
        """
        with self._engine.begin() as db:
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
            connection_store.disconnect(db, user_id, read_clock(db, self._now), actor=self._actor)
        self._forget_spooled(user_id)
        return stored_connection(self._engine, user_id, self._now)

    def _forget_spooled(self, user_id: UUID) -> None:
        """What waited for the database belongs to a connection that is no more."""
        if self._spool:
            self._spool.forget(user_id)

"""The life of a token: one door to a valid one, connecting, disconnecting, checking.

``Tokens.get_valid_token`` is the only code that renews. A refresh token works once, and its
successor cannot be recovered (CONTRACT 4.3), so an exchange is guarded by a lease that is committed
before the POST and by the write that follows it at once: nothing else happens in between. What
remains is a process that dies in exactly that moment; its lease runs out, the state is *in doubt*,
the POST is repeated once, and then the user is asked to reconnect. Never silent, never a loop.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.highlevel.answers import HighLevelError
from voiceai_pipeline.highlevel.client import CONNECT_TIMEOUT, TOKEN_TIMEOUT, HighLevelClient
from voiceai_pipeline.models import (
    SYNC_SCOPE,
    Connection,
    ConnectionState,
    FailureClass,
    Location,
    OAuthToken,
    PipelineError,
    Secret,
    missing_scopes,
)
from voiceai_pipeline.storage import connections
from voiceai_pipeline.storage.connections import TokenRow
from voiceai_pipeline.storage.engine import read_clock
from voiceai_pipeline.storage.vault import TokenVault

T = TypeVar("T")

REFRESH_MARGIN: Final = timedelta(minutes=5)
"""A token with this much left, or less, is renewed before it is used (source-system.md)."""

LEASE: Final = timedelta(seconds=60)
"""How long one exchange may take, the write included."""

PROACTIVE_MARGIN: Final = timedelta(minutes=30)
"""The sensor has tokens renewed this early, so that a sync finds them fresh."""

PAUSE: Final = timedelta(hours=6)
"""How long a paused location is left alone (REQUIREMENTS, 6-24 h)."""

WRITE_PAUSES: Final = (0.1, 1.0, 3.0, 8.0)
"""Seconds between attempts to store a new pair when the database drops the connection: less, with
the POST before them, than a lease."""

_IN_USE: Final = (ConnectionState.CONNECTED, ConnectionState.IN_DOUBT, ConnectionState.PAUSED)

if LEASE.total_seconds() <= sum(WRITE_PAUSES) + TOKEN_TIMEOUT + CONNECT_TIMEOUT:  # pragma: no cover
    raise RuntimeError("a token POST must time out before its lease runs out (REQUIREMENTS T3)")


class UnknownUserError(LookupError):
    """There is no such user."""


class ChooseLocationError(Exception):
    """An agency's connection covers several locations, and none of them was chosen.

    Attributes:
        locations: those it covers.
    """

    def __init__(self, locations: list[Location]) -> None:
        names = ", ".join(f"{place.name or 'unnamed'} ({place.location_id})" for place in locations)
        super().__init__(f"Choose one of the agency's locations with --location: {names}.")
        self.locations = locations


@dataclass(frozen=True)
class Check:
    """The outcome of testing a connection for real.

    Attributes:
        failure: None if calls can be read with it.
        missing_scopes: needed and not granted.
    """

    connection: Connection
    failure: PipelineError | None
    missing_scopes: tuple[str, ...]


def needs_refresh(
    expires_at: datetime | None, now: datetime, margin: timedelta = REFRESH_MARGIN
) -> bool:
    """True from the moment the margin begins: exactly 5 minutes left is too little."""
    return expires_at is None or expires_at - now <= margin


class Tokens:
    """Hands out valid tokens. Safe to share between threads and between processes.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: how a loser waits for the winner.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client
        self._now = now
        self._sleep = sleep

    # The door ------------------------------------------------------------------------------------

    def get_valid_token(
        self,
        user_id: UUID,
        *,
        rejected: Secret | None = None,
        margin: timedelta = REFRESH_MARGIN,
        force: bool = False,
    ) -> Secret:
        """A token that reads the user's location for longer than ``margin``.

        Args:
            margin: a token with this much left, or less, is renewed first.
            rejected: a token that HighLevel has just refused; if it is still the stored one, it is
                renewed however fresh it looks.
            force: try a paused connection before its pause is over.

        Raises:
            UnknownUserError: there is no such user.
            PipelineError: the user cannot be synced; the class says why and what to do.
        """
        deadline = time.monotonic() + 2 * LEASE.total_seconds()
        before: int | None = None
        while time.monotonic() < deadline:
            row = self._read(user_id, force=force)
            before = row.version if before is None else before
            # A token renewed a moment ago, by whomever, is used however short its life is.
            enough = timedelta() if row.version != before else margin
            token = self._usable(row, rejected, enough) or self._mint(row, rejected, enough)
            if token is not None:
                return token
            if row.replayed:
                self._give_up_if_abandoned(row)
            lease = self._lease(row)
            if lease is None:
                # Somebody else is exchanging this very token: wait for what they get.
                self._sleep(random.uniform(0.05, 0.25))  # noqa: S311 - jitter, not a secret
                continue
            self._exchange(row, lease)
        raise PipelineError(FailureClass.IN_DOUBT, "another process has held the refresh too long")

    def _read(self, user_id: UUID, *, force: bool) -> TokenRow:
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = connections.token_row(db, user_id, now)
            if row is None:
                if connections.one(db, user_id) is None:
                    raise UnknownUserError(f"no user {user_id}")
                raise PipelineError(FailureClass.NO_CONNECTION)
        paused = row.connection.state is ConnectionState.PAUSED
        rested = row.connection.next_attempt_at is None or row.connection.next_attempt_at <= row.now
        obstacle = row.connection.obstacle
        if obstacle is not None and not (paused and (force or rested)):
            raise PipelineError(obstacle)
        return row

    def _usable(self, row: TokenRow, rejected: Secret | None, margin: timedelta) -> Secret | None:
        if row.connection.state is ConnectionState.PAUSED:
            return None
        company = self._is_company(row)
        column = "location_access_token" if company else "access_token"
        expires_at = row.location_token_expires_at if company else row.connection.token_expires_at
        if needs_refresh(expires_at, row.now, margin):
            return None
        token = row.token(self._vault, column)
        return None if token == rejected else token

    @staticmethod
    def _is_company(row: TokenRow) -> bool:
        return row.connection.user_type == "Company"

    def _lease(self, row: TokenRow) -> UUID | None:
        if row.token(self._vault, "refresh_token") is None:
            with self._engine.begin() as db:
                connections.settle(
                    db, row, None, ConnectionState.NEEDS_RECONNECT, FailureClass.REFRESH_REJECTED
                )
            raise PipelineError(FailureClass.REFRESH_REJECTED, "no refresh token is stored")
        with self._engine.begin() as db:
            return connections.take_lease(db, row, LEASE)

    def _give_up_if_abandoned(self, row: TokenRow) -> None:
        """The one replay was lost too: only a person can help now."""
        if row.lease_expires_at is not None and row.lease_expires_at > row.now:
            return
        with self._engine.begin() as db:
            given_up = connections.settle(
                db,
                row,
                row.lease_id,
                ConnectionState.NEEDS_RECONNECT,
                FailureClass.REFRESH_REJECTED,
            )
        if given_up:
            raise PipelineError(FailureClass.REFRESH_REJECTED, "HighLevel's answer was lost twice")

    def _exchange(self, row: TokenRow, lease: UUID) -> None:
        """POST once and write the outcome, unless somebody else has taken over since.

        Between the answer and the write nothing happens.
        """
        refresh_token = row.token(self._vault, "refresh_token")
        if refresh_token is None:  # pragma: no cover - _lease has looked
            raise PipelineError(FailureClass.REFRESH_REJECTED)
        try:
            token = self._client.refresh(refresh_token, row.connection.user_type or "Location")
        except HighLevelError as error:
            self._settle_refusal(row, lease, error)
            return
        lacking = missing_scopes(token.scope or row.connection.scope)
        state = ConnectionState.NEEDS_RECONNECT if lacking else ConnectionState.CONNECTED
        reason = FailureClass.SCOPE_MISSING if lacking else None
        for pause in (*WRITE_PAUSES, None):
            try:
                with self._engine.begin() as db:
                    connections.save_rotation(db, row, lease, token, self._vault, state, reason)
                return
            except (sa.exc.OperationalError, sa.exc.InterfaceError):
                # The only copy of the new pair is here.
                if pause is None:
                    raise
                self._sleep(pause)

    def _settle_refusal(self, row: TokenRow, lease: UUID, error: HighLevelError) -> None:
        """Write what a refused or lost exchange means for the connection; keep the tokens.

        Whoever has taken over the lease since knows better: then nothing is written or raised, and
        the caller's loop finds what they got.
        """
        before = row.connection
        state, reason, next_attempt = before.state, before.reason, before.next_attempt_at
        if error.failure is FailureClass.REFRESH_REJECTED:
            state, reason, next_attempt = ConnectionState.NEEDS_RECONNECT, error.failure, None
        elif error.failure is FailureClass.LOCATION_PAUSED:
            state, reason = ConnectionState.PAUSED, error.failure
            next_attempt = row.now + PAUSE
        lost = error.sent and (error.status is None or error.failure is FailureClass.MALFORMED)
        is_replay = row.lease_id is not None
        with self._engine.begin() as db:
            if lost or (is_replay and state is before.state):
                # A replay that was answered, by a server error say, has told nothing yet about the
                # exchange in doubt.
                ours = connections.leave_in_doubt(db, row, lease, replayed=lost and is_replay)
            else:
                ours = connections.settle(db, row, lease, state, reason, next_attempt)
        if not ours:
            return
        if not lost:
            raise error
        if error.timed_out:
            # Whatever keeps the answers away may pass: the replay is left to the next attempt.
            raise PipelineError(FailureClass.IN_DOUBT)
        # A broken connection: the caller's loop replays at once, inside the 30 s in which HighLevel
        # is said to repeat its answer (CONTRACT 4.3).

    def _mint(self, row: TokenRow, rejected: Secret | None, margin: timedelta) -> Secret | None:
        """A location token from a fresh Company token; minting spends nothing (CONTRACT 4.4).

        None where there is nothing to mint from, or HighLevel no longer accepts what there is.
        """
        fresh = not needs_refresh(row.connection.token_expires_at, row.now, margin)
        if not self._is_company(row) or not fresh or row.lease_id:
            return None
        company, place = row.connection.company_id, row.connection.location_id
        access_token = row.token(self._vault, "access_token")
        if not company or not place or access_token is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        try:
            token = self._client.location_token(access_token, company, place)
        except HighLevelError as error:
            if error.failure is FailureClass.ACCESS_REJECTED:
                return None
            raise
        if token.access_token == rejected:
            return None
        with self._engine.begin() as db:
            connections.save_location_token(db, row, token, self._vault)
        return token.access_token

    def spend(self, user_id: UUID, request: Callable[[Secret], T], *, force: bool = False) -> T:
        """Make a request with a valid token; if HighLevel refuses the token, once more with a new
        one (REQUIREMENTS T15). A second refusal, a missing scope or a wrong location renew nothing;
        what the answer means for the connection is noted.

        Raises:
            UnknownUserError, PipelineError: as ``get_valid_token``, or what ``request`` raises.
        """
        token = self.get_valid_token(user_id, force=force)
        try:
            return request(token)
        except HighLevelError as error:
            if error.failure is not FailureClass.ACCESS_REJECTED:
                self._note(user_id, error, token)
                raise
        token = self.get_valid_token(user_id, rejected=token, force=force)
        try:
            return request(token)
        except HighLevelError as error:
            self._note(user_id, error, token)
            raise

    def _note(self, user_id: UUID, error: HighLevelError, spent: Secret) -> None:
        """A scope that only names take (agents, locations) is no reason to stop reading calls."""
        if error.missing_scope in ("", SYNC_SCOPE):
            self.report(user_id, error.failure, spent=spent)

    # What the API says about a connection ---------------------------------------------------------

    def report(self, user_id: UUID, failure: FailureClass, *, spent: Secret | None = None) -> None:
        """Note that the API said that a person must act.

        Args:
            spent: the token it was asked with: once that has been replaced, the answer is of no
                interest any more. None if the answer is about the location, whoever asks.
        """
        states = {
            FailureClass.SCOPE_MISSING: ConnectionState.NEEDS_RECONNECT,
            FailureClass.WRONG_LOCATION: ConnectionState.NEEDS_RECONNECT,
            FailureClass.LOCATION_PAUSED: ConnectionState.PAUSED,
        }
        if failure not in states:
            return
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = connections.token_row(db, user_id, now)
            if row is not None and self._concerns(row, spent):
                paused = failure is FailureClass.LOCATION_PAUSED
                connections.settle(
                    db, row, None, states[failure], failure, row.now + PAUSE if paused else None
                )

    def _concerns(self, row: TokenRow, spent: Secret | None) -> bool:
        if row.connection.state not in _IN_USE:
            return False
        return spent is None or spent in (
            row.token(self._vault, "access_token"),
            row.token(self._vault, "location_access_token"),
        )

    # Connecting -----------------------------------------------------------------------------------

    def connect(self, user_id: UUID, code: Secret, location_id: str | None = None) -> Connection:
        """Exchange an authorization code and store the connection, replacing an older one.

        Args:
            location_id: which location of an agency (Company) installation to use.

        Raises:
            UnknownUserError: there is no such user; the code is not spent.
            ChooseLocationError: an agency with several locations, and none or another was named;
                the grant is stored, and connecting again with a location ends it.
            PipelineError: HighLevel refused the code, and the stored connection is untouched; or
                it granted an agency without a location.
        """
        with self._engine.begin() as db:
            before = connections.one(db, user_id)
            started_at = read_clock(db, self._now)
        if before is None:
            raise UnknownUserError(f"no user {user_id}")
        token = self._client.exchange_code(code)
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
        reader = token.access_token
        if is_company:
            place, reader = self._choose_location(token, location_id)
            connection = replace(connection, location_id=place)
            self._save(connection, before, token, started_at)
        if connection.location_id:
            self._name_location(user_id, connection.location_id, reader)
        with self._engine.begin() as db:
            return connections.one(db, user_id) or connection

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
        with self._engine.begin() as db:
            connections.save_connection(
                db,
                replace(connection, state=state, reason=reason),
                token,
                self._vault,
                started_at=started_at,
            )

    def _choose_location(self, token: OAuthToken, wanted: str | None) -> tuple[str, Secret]:
        """The location of an agency's grant to use, and a token that reads it."""
        if token.company_id is None:
            raise PipelineError(FailureClass.NO_LOCATION, "the agency's grant names no company")
        installed = self._client.installed_locations(token.access_token, token.company_id)
        fitting = [p for p in installed if wanted in (None, p.location_id)]
        if not installed:
            raise PipelineError(FailureClass.NO_LOCATION, "the app is installed in no location")
        if len(fitting) != 1:
            raise ChooseLocationError(installed)
        place = fitting[0].location_id
        minted = self._client.location_token(token.access_token, token.company_id, place)
        return place, minted.access_token

    def _name_location(self, user_id: UUID, location_id: str, reader: Secret) -> None:
        """Name and time zone are a courtesy: the connection stands without them."""
        try:
            place = self._client.location(reader, location_id)
        except HighLevelError:
            return
        with self._engine.begin() as db:
            connections.name_location(db, user_id, place.name, place.timezone)

    def disconnect(self, user_id: UUID) -> Connection:
        """Destroy the stored tokens; the user stays listed and the calls stay stored.

        Raises:
            UnknownUserError: there is no such user.
        """
        with self._engine.begin() as db:
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
            connections.disconnect(db, user_id, read_clock(db, self._now))
            after = connections.one(db, user_id)
        assert after is not None  # noqa: S101 - read in the same transaction
        return after

    def check(self, user_id: UUID) -> Check:
        """Test a connection for real: renew if due, then read one page of calls with it.

        Raises:
            UnknownUserError: there is no such user.
        """
        failure: PipelineError | None = None
        try:
            self.spend(user_id, lambda token: self._read_something(user_id, token), force=True)
        except PipelineError as error:
            failure = error
        with self._engine.begin() as db:
            connection = connections.one(db, user_id)
        if connection is None:
            raise UnknownUserError(f"no user {user_id}")
        return Check(connection, failure, missing_scopes(connection.scope))

    def _read_something(self, user_id: UUID, token: Secret) -> None:
        with self._engine.begin() as db:
            connection = connections.one(db, user_id)
            now = read_clock(db, self._now)
        if connection is None or connection.location_id is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        self._client.call_logs_page(
            token, connection.location_id, now - timedelta(days=1), now, page=1
        )

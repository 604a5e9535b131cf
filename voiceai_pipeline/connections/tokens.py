"""Valid tokens: the one door to them, many in good time, spending, testing, what the API says.

Whoever needs a token asks ``Tokens.get_valid_token``; nothing else renews. How a renewal survives
whatever happens in it is ``refresh.py``; how a connection begins and ends is ``consent.py``.
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, history, token_row, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.connection_test import Check, _also
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.refresh import LEASE, Refresher
from voiceai_pipeline.connections.refresh_outcome import PAUSE, STATE_AFTER
from voiceai_pipeline.connections.refresh_plan import is_due, needs_refresh
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.token_row import Stamp, TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    LIVE_STATES,
    REFRESH_MARGIN,
    SYNC_SCOPE,
    Connection,
    ConnectionState,
    missing_scopes,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import asking, database_error, read_clock
from voiceai_pipeline.highlevel.calls import value_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.published_shape import Drift, drift_of

T = TypeVar("T")

POSTS_PER_SECOND: Final = 5
WORKERS: Final = 8
"""How fast, and how many side by side, a batch renews: the limit of the token endpoint is unknown
(CONTRACT 5)."""

_NO_ACCESS_TOKEN: Final = "HighLevel granted a refresh token only; it is used in ten minutes"

_ALWAYS: Final = timedelta.max
"""As a margin: whatever is left is too little."""


class Tokens:
    """Hands out valid tokens. Safe to share between threads and between processes.

    Args:
        actor: who is named in the history.
        spool: where a pair waits while the database is away; None: in memory only.
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: how a loser waits for the winner, and a batch keeps its pace.
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self.vault = vault
        self._client = client
        self._actor = actor or Actor()
        self._now = now
        self._sleep = sleep
        self._refresher = Refresher(
            engine, vault, client, actor=self._actor, spool=spool, now=now, sleep=sleep
        )

    # The door ------------------------------------------------------------------------------------

    def get_valid_token(
        self,
        user_id: UUID,
        *,
        rejected: Secret | None = None,
        margin: timedelta = REFRESH_MARGIN,
        when_planned: bool = False,
        force: bool = False,
    ) -> Secret:
        """A token that reads the user's location for longer than ``margin``.

        Args:
            margin: a token with this much left, or less, is renewed first.
            rejected: a token that HighLevel has just refused; if it is still the stored one, it is
                renewed however fresh it looks.
            when_planned: renew also if the planned moment has come.
            force: try a paused connection before its pause is over.

        Raises:
            UnknownUserError: there is no such user.
            PipelineError: the user cannot be synced; the class says why and what to do.
        """
        token, _ = self._valid_token(user_id, rejected, margin, when_planned, force)
        return token

    def _valid_token(
        self,
        user_id: UUID,
        rejected: Secret | None = None,
        margin: timedelta = REFRESH_MARGIN,
        when_planned: bool = False,
        force: bool = False,
    ) -> tuple[Secret, TokenRow]:
        """``get_valid_token``, and the row that it was found in or renewed from."""
        deadline = time.monotonic() + 2 * LEASE.total_seconds()
        before: int | None = None
        while time.monotonic() < deadline:
            try:
                row = self._read(user_id)
                self._refuse_obstacle(row, force=force)
                before = row.version if before is None else before
                if row.version != before:
                    return self._renewed_a_moment_ago(row), row
                enough = _ALWAYS if when_planned and is_due(row) else margin
                token = self._usable(row, rejected, enough) or self._mint(row, rejected, enough)
                if token is not None:
                    return token, row
                if row.is_lifeless and margin != _ALWAYS and rejected is None:
                    raise PipelineError(FailureClass.MALFORMED, _NO_ACCESS_TOKEN)
                if not self._refresher.refresh(row):
                    # Somebody else is exchanging this very token: wait for what they get.
                    self._sleep(random.uniform(0.05, 0.25))  # noqa: S311 - jitter, not a secret
            except PipelineError as error:
                if error.failure is FailureClass.TOKEN_UNREADABLE:
                    self._tell_unreadable(user_id, error)
                raise
        raise PipelineError(FailureClass.IN_DOUBT, "another process has held the refresh too long")

    def _read(self, user_id: UUID) -> TokenRow:
        """The user's row, with a pair that waited for the database already in its place."""
        row = self._row(user_id)
        return self._row(user_id) if self._refresher.restore(row) else row

    def _row(self, user_id: UUID) -> TokenRow:
        now = self._now() if self._now else None
        with asking(self._engine) as db:
            row = token_row.read(db, user_id, now)
            if row is not None:
                return row
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
        raise PipelineError(FailureClass.NO_CONNECTION)

    def _renewed_a_moment_ago(self, row: TokenRow) -> Secret:
        """The token of a pair that has just come, by whomever, however short its life is. One that
        is of no use is never renewed again in the same call: that would spend one refresh token
        after the other.

        Raises:
            PipelineError: it is expired already, or HighLevel mints nothing from it.
        """
        token = self._usable(row, None, timedelta()) or self._mint(row, None, timedelta())
        if token is not None:
            return token
        if row.token(self.vault, "access_token") is None:
            raise PipelineError(FailureClass.MALFORMED, _NO_ACCESS_TOKEN)
        if needs_refresh(row.connection.token_expires_at, row.now, timedelta()):
            raise PipelineError(FailureClass.MALFORMED, "renewed, and expired already")
        raise PipelineError(FailureClass.ACCESS_REJECTED, "renewed, and refused all the same")

    @staticmethod
    def _refuse_obstacle(row: TokenRow, *, force: bool) -> None:
        paused = row.connection.state is ConnectionState.PAUSED
        rested = row.connection.next_attempt_at is None or row.connection.next_attempt_at <= row.now
        obstacle = row.connection.obstacle
        if obstacle is not None and not (paused and (force or rested)):
            raise PipelineError(obstacle)

    def _usable(self, row: TokenRow, rejected: Secret | None, margin: timedelta) -> Secret | None:
        if row.connection.state is ConnectionState.PAUSED:
            return None
        company = self._is_company(row)
        column = "location_access_token" if company else "access_token"
        expires_at = row.location_token_expires_at if company else row.connection.token_expires_at
        is_new = row.is_lifeless and not company and margin != _ALWAYS
        if needs_refresh(expires_at, row.now, margin) and not is_new:
            return None
        token = row.token(self.vault, column)
        return None if token == rejected else token

    @staticmethod
    def _is_company(row: TokenRow) -> bool:
        return row.connection.user_type == "Company"

    def _mint(self, row: TokenRow, rejected: Secret | None, margin: timedelta) -> Secret | None:
        """A location token from a fresh Company token; minting spends nothing (CONTRACT 4.4).

        None where there is nothing to mint from, or HighLevel no longer accepts what there is.
        """
        fresh = (row.is_lifeless and margin != _ALWAYS) or not needs_refresh(
            row.connection.token_expires_at, row.now, margin
        )
        paused = row.connection.state is ConnectionState.PAUSED  # its renewal says whether it is
        if not self._is_company(row) or not fresh or row.lease_id or paused:
            return None
        company, place = row.connection.company_id, row.connection.location_id
        access_token = row.token(self.vault, "access_token")
        if not company or not place or access_token is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        try:
            token = self._client.location_token(access_token, company, place)
        except HighLevelError as error:
            if error.failure is FailureClass.ACCESS_REJECTED:
                return None
            self._note(row.connection.user.id, error, access_token)
            raise
        if token.access_token == rejected:
            return None
        with self._engine.begin() as db:
            kept = token_store.save_location_token(db, row, token, self.vault, actor=self._actor)
        return token.access_token if kept else None

    def _tell_unreadable(self, user_id: UUID, error: PipelineError) -> None:
        """No state changes, for the key may come back; but somebody is to know, once."""
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            if alerts.open_(db, user_id, error.failure, now):
                history.record(
                    db,
                    TokenEvent.REFRESH_FAILED,
                    at=now,
                    actor=self._actor,
                    user_id=user_id,
                    reason=error.failure,
                    detail=error.detail,
                )

    # Many at once ---------------------------------------------------------------------------------

    def refresh(self, user_id: UUID) -> Connection:
        """Exchange the refresh token now, however long the access token would still live.

        Raises:
            UnknownUserError, PipelineError: as ``get_valid_token``.
        """
        self.get_valid_token(user_id, margin=_ALWAYS, force=True)
        return stored_connection(self._engine, user_id, self._now)

    def refresh_due(self, user_ids: Sequence[UUID]) -> dict[UUID, PipelineError | None]:
        """Renew those whose planned moment has come, side by side and at a steady pace; None for
        who has a valid token now. Nobody's failure touches anybody else.

        A user who does not exist gets NO_CONNECTION.
        """
        for user_id, error in self._refresher.restore_spooled().items():
            self._tell_unreadable(user_id, error)

        def one(user_id: UUID) -> PipelineError | None:
            try:
                self.get_valid_token(user_id, when_planned=True)
            except UnknownUserError:
                return PipelineError(FailureClass.NO_CONNECTION, "there is no such user")
            except PipelineError as error:
                return error
            except sa.exc.SQLAlchemyError as error:
                return database_error(error)
            except Exception as error:
                return unexpected(error)
            return None

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="renew") as pool:
            outcomes = []
            for number, user_id in enumerate(user_ids):
                # While renewals are suspended nobody POSTs, and there is nothing to pace.
                if number >= WORKERS and not self._refresher.is_suspended():
                    self._sleep(1 / POSTS_PER_SECOND)
                outcomes.append(pool.submit(one, user_id))
            return {u: o.result() for u, o in zip(user_ids, outcomes, strict=True)}

    # Spending -------------------------------------------------------------------------------------

    def spend(self, user_id: UUID, request: Callable[[Secret], T], *, force: bool = False) -> T:
        """Make a request with a valid token; if HighLevel refuses the token, once more with a new
        one (REQUIREMENTS T15). A second refusal, a missing scope or a wrong location renew nothing;
        what the answer means for the connection is noted.

        Raises:
            UnknownUserError, PipelineError: as ``get_valid_token``, or what ``request`` raises.
        """
        return self._spend(user_id, self.get_valid_token(user_id, force=force), request, force)

    def spender(self, user_id: UUID) -> "Spender":
        """``spend`` for many requests of one user in a row. Not to be shared between threads."""
        return Spender(self, user_id)

    def _spend(
        self, user_id: UUID, token: Secret, request: Callable[[Secret], T], force: bool
    ) -> T:
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

    def _stamp(self, user_id: UUID) -> Stamp:
        with asking(self._engine) as db:
            stamp = token_row.stamp(db, user_id)
        return replace(stamp, now=self._now()) if self._now else stamp

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
        if failure not in STATE_AFTER or failure is FailureClass.REFRESH_REJECTED:
            return
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = token_row.read(db, user_id, now)
            if row is not None and self._concerns(row, spent):
                state = STATE_AFTER[failure]
                token_store.settle(
                    db,
                    row,
                    None,
                    state,
                    failure,
                    row.now + PAUSE if state is ConnectionState.PAUSED else None,
                    actor=self._actor,
                    event=TokenEvent.REPORTED,
                )

    def _concerns(self, row: TokenRow, spent: Secret | None) -> bool:
        if row.connection.state not in LIVE_STATES:
            return False
        return spent is None or spent in (
            row.token(self.vault, "access_token"),
            row.token(self.vault, "location_access_token"),
        )

    # Testing --------------------------------------------------------------------------------------

    def check(self, user_id: UUID) -> Check:
        """Test a connection for real: renew if due, then read one page of calls with it.

        Raises:
            UnknownUserError: there is no such user.
        """
        failure: PipelineError | None = None
        drift = Drift()
        try:
            drift = self.spend(
                user_id, lambda token: self._read_something(user_id, token), force=True
            )
        except PipelineError as error:
            failure = error
        connection = stored_connection(self._engine, user_id, self._now)
        with self._engine.begin() as db:
            history.record(
                db,
                TokenEvent.TESTED,
                at=read_clock(db, self._now),
                actor=self._actor,
                user_id=user_id,
                state=connection.state,
                reason=failure.failure if failure else None,
                detail=failure.detail if failure else f"calls can be read{_also(drift)}",
            )
        return Check(connection, failure, missing_scopes(connection.scope), drift)

    def _read_something(self, user_id: UUID, token: Secret) -> Drift:
        with self._engine.begin() as db:
            connection = connections.one(db, user_id)
            now = read_clock(db, self._now)
        if connection is None or connection.location_id is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        page = self._client.call_logs_page(
            token, connection.location_id, now - timedelta(days=1), now, page=1
        )
        return drift_of(map(value_of, page.items))


class Spender:
    """Makes many requests with one user's tokens, as ``Tokens.spend`` would each of them.

    It asks the database before each one, so that a disconnected user's run stops there and then
    (REQUIREMENTS T18); only if something has changed, or the token is about to expire, does it go
    through the door again.
    """

    def __init__(self, tokens: Tokens, user_id: UUID) -> None:
        self._tokens = tokens
        self._user_id = user_id
        self._token: Secret | None = None
        self._rows: str | None = None

    def __call__(self, request: Callable[[Secret], T]) -> T:
        """Make a request.

        Raises:
            UnknownUserError, PipelineError: as ``Tokens.spend``.
        """
        return self._tokens._spend(self._user_id, self._valid_token(), request, force=False)

    def _valid_token(self) -> Secret:
        if self._token is None or not self._is_untouched():
            # Whatever changes meanwhile, a location token that is minted too, shows at the next
            # request.
            self._token, row = self._tokens._valid_token(self._user_id)
            self._rows = row.rows
        return self._token

    def _is_untouched(self) -> bool:
        stamp = self._tokens._stamp(self._user_id)
        return stamp.rows == self._rows and not needs_refresh(stamp.expires_at, stamp.now)

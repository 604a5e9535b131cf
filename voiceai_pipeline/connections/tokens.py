"""Valid access tokens: handed out, refreshed when due, and spent on requests.

All code that needs a token calls ``Tokens.get_valid_token``; nothing else refreshes. How a refresh
survives failures is in ``refresh.py``; how a connection starts and ends is in ``consent.py``.
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections import replaced_tokens, token_row, token_store
from voiceai_pipeline.connections.connection_test import Check, ConnectionTest
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.private_tokens import PrivateTokens
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.refresh import LEASE, Refresher
from voiceai_pipeline.connections.refresh_outcome import PAUSE, STATE_AFTER, RefreshOutcome
from voiceai_pipeline.connections.refresh_plan import ALWAYS, ANY_LIFETIME, Need, needs_refresh
from voiceai_pipeline.connections.spender import RowAhead, Spender
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.standing import Standing
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    LIVE_STATES,
    PRIVATE_FAILURES,
    REFRESH_MARGIN,
    SYNC_SCOPE,
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import autocommit, database_error
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError

T = TypeVar("T")

WORKERS: Final = 8
"""Threads of a batch: twice the number of concurrent exchanges (``exchange_gate.py``)."""

_NO_ACCESS_TOKEN: Final = "HighLevel granted a refresh token only; it is used in ten minutes"


class Tokens:
    """Hands out valid tokens. Safe to share between threads and between processes.

    Args:
        actor: recorded in the history.
        spool: where a new pair is kept while the database is down; None: in memory only.
        pairs: where the newest pair of each user is kept; None: nowhere.
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: waits for another caller's refresh, for the pace and for rate limits.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        actor: Actor | None = None,
        spool: Spool | None = None,
        pairs: NewestPairs | None = None,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._standing = Standing(engine, now, monotonic)
        self.vault = vault
        self._client = client
        self.reads = client.reads
        self._actor = actor or Actor()
        self._now = now
        self._sleep = sleep or client.reads.pause
        self._outcome = RefreshOutcome(engine, self._actor)
        self._private = PrivateTokens(engine, vault, client, actor=self._actor, now=now)
        self._refresher = Refresher(
            engine, vault, client, actor=self._actor, spool=spool, pairs=pairs, now=now, sleep=sleep
        )

    # A valid token --------------------------------------------------------------------------------

    def get_valid_token(
        self,
        user_id: UUID,
        *,
        margin: timedelta = REFRESH_MARGIN,
        rejected: Secret | None = None,
        when_planned: bool = False,
        force: bool = False,
    ) -> Secret:
        """A token that reads the user's location for longer than ``margin``.

        Args:
            margin: a token with this much left, or less, is refreshed first.
            rejected: a token that HighLevel has just refused; if it is still the stored one, it is
                refreshed even if it has not expired.
            when_planned: also refresh if the planned time has come.
            force: an operator asked for it: ignore pauses that were ordered after failures.

        Raises:
            UnknownUserError: there is no such user.
            PipelineError: the user cannot be synced; the class says why and what to do.
        """
        return self._valid_token(user_id, Need(margin, rejected, when_planned, force))[0]

    def _valid_token(
        self, user_id: UUID, need: Need, ahead: TokenRow | None = None
    ) -> tuple[Secret, TokenRow]:
        """A valid token, and the row as last read.

        Args:
            ahead: the row as it was within the last second; None: it is read first.
        """
        deadline = time.monotonic() + 2 * LEASE.total_seconds()
        before: int | None = None
        while time.monotonic() < deadline:
            self.reads.check(method="POST", path="/oauth/token")
            try:
                row, ahead = self._read(user_id, ahead), None
                self._refuse_obstacle(row, need)
                if row.connection.is_private:
                    return self._private.valid(row, need.rejected), row
                before = row.version if before is None else before
                if row.version != before:
                    return self._just_refreshed(row), row
                wanted = need.at(row)
                token = self._usable(row, wanted) or self._mint(row, wanted)
                if token is not None:
                    return token, row
                if row.is_lifeless and not wanted.always and not row.has_access_token:
                    raise PipelineError(FailureClass.MALFORMED, _NO_ACCESS_TOKEN)
                if not self._refresher.refresh(row, at_once=need.force):
                    # Another caller is exchanging this refresh token: wait for its result.
                    self._sleep(random.uniform(0.05, 0.25))  # noqa: S311 - jitter, not a secret
            except PipelineError as error:
                if error.failure is FailureClass.TOKEN_UNREADABLE:
                    self._outcome.alert_unreadable(user_id, error, self._now)
                raise
        raise PipelineError(FailureClass.IN_DOUBT, "another process has held the refresh too long")

    def _read(self, user_id: UUID, ahead: TokenRow | None = None) -> TokenRow:
        """The user's row, after accepting a pair that another application stored, or storing one
        that was kept on disk."""
        row = ahead or self._row(user_id)
        if row.was_replaced and row.connection.obstacle is None:
            with self._engine.begin() as db:
                replaced_tokens.accept(db, row, self.vault, actor=self._actor)
            return self._row(user_id)
        return self._row(user_id) if self._refresher.restore(row) else row

    def _row(self, user_id: UUID) -> TokenRow:
        now = self._now() if self._now else None
        with autocommit(self._engine) as db:
            row = token_row.read(db, user_id, now)
            if row is not None:
                return row
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
        raise PipelineError(FailureClass.NO_CONNECTION)

    def _just_refreshed(self, row: TokenRow) -> Secret:
        """The token of a pair that was stored during this call, however short its lifetime. An
        unusable one is not refreshed again in the same call, which could spend one refresh token
        after the other.

        Raises:
            PipelineError: it has expired already, or HighLevel mints nothing from it.
        """
        token = self._usable(row, ANY_LIFETIME) or self._mint(row, ANY_LIFETIME)
        if token is not None:
            return token
        if row.token(self.vault, "access_token") is None:
            raise PipelineError(FailureClass.MALFORMED, _NO_ACCESS_TOKEN)
        if needs_refresh(row.connection.token_expires_at, row.now, timedelta()):
            raise PipelineError(FailureClass.MALFORMED, "refreshed, but it has expired already")
        raise PipelineError(FailureClass.ACCESS_REJECTED, "refreshed, but still refused")

    @staticmethod
    def _refuse_obstacle(row: TokenRow, need: Need) -> None:
        if need.to_read and row.connection.pause is not None:
            raise row.connection.pause.error
        paused = row.connection.state is ConnectionState.PAUSED
        rested = row.connection.next_attempt_at is None or row.connection.next_attempt_at <= row.now
        obstacle = row.connection.obstacle
        testable = need.force and obstacle in PRIVATE_FAILURES.values()
        if obstacle is not None and not (testable or (paused and (need.force or rested))):
            raise PipelineError(obstacle)

    def _usable(self, row: TokenRow, need: Need) -> Secret | None:
        """The stored token, if it satisfies the need."""
        if row.connection.state is ConnectionState.PAUSED:
            return None
        company = row.is_company
        column = "location_access_token" if company else "access_token"
        expires_at = row.location_token_expires_at if company else row.connection.token_expires_at
        is_new = row.is_lifeless and not company and not need.always
        if needs_refresh(expires_at, row.now, need.margin) and not is_new:
            return None
        token = row.token(self.vault, column)
        return None if token == need.rejected else token

    def _mint(self, row: TokenRow, need: Need) -> Secret | None:
        """A location token, minted from a fresh Company token, which spends nothing (CONTRACT 4.4).

        None if there is no fresh Company token, or HighLevel no longer accepts it.
        """
        fresh = (row.is_lifeless and not need.always) or not needs_refresh(
            row.connection.token_expires_at, row.now, need.margin
        )
        paused = row.connection.state is ConnectionState.PAUSED  # only a refresh ends it
        if not row.is_company or not fresh or row.lease_id or paused:
            return None
        company, location = row.connection.company_id, row.connection.location_id
        access_token = row.token(self.vault, "access_token")
        if not company or not location or access_token is None:
            raise PipelineError(FailureClass.NO_LOCATION)
        try:
            token = self._client.location_token(access_token, company, location)
        except HighLevelError as error:
            if error.failure is FailureClass.ACCESS_REJECTED:
                return None
            self._note(row.connection.user.id, error, access_token)
            raise
        if token.access_token == need.rejected:
            return None
        with self._engine.begin() as db:
            kept = token_store.save_location_token(db, row, token, self.vault, actor=self._actor)
        return token.access_token if kept else None

    # Refreshing -----------------------------------------------------------------------------------

    def refresh(self, user_id: UUID) -> Connection:
        """Exchange the refresh token now, even if the access token has not expired. A private
        integration token stays as it is.

        Raises:
            UnknownUserError, PipelineError: as ``get_valid_token``.
        """
        self.get_valid_token(user_id, margin=ALWAYS, force=True)
        return stored_connection(self._engine, user_id, self._now)

    def refresh_due(self, user_ids: Sequence[UUID]) -> dict[UUID, PipelineError | None]:
        """Refresh those of these users whose planned time has come, concurrently. One user's
        failure does not affect the others.

        Returns:
            None for a user who has a valid token now, else the failure; NO_CONNECTION for a user
            who does not exist.
        """
        for user_id, error in self._refresher.restore_all().items():
            self._outcome.alert_unreadable(user_id, error, self._now)

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

        with (
            ThreadPoolExecutor(WORKERS, thread_name_prefix="refresh") as pool,
            self.reads.interruptible(),
        ):
            return dict(zip(user_ids, pool.map(one, user_ids), strict=True))

    # Spending -------------------------------------------------------------------------------------

    def spend(self, user_id: UUID, request: Callable[[Secret], T], *, force: bool = False) -> T:
        """Make a request with a valid token; if HighLevel refuses the token, refresh it and retry
        once (REQUIREMENTS T15). A second refusal, a missing scope or a wrong location causes no
        refresh; its meaning for the connection is recorded.

        Raises:
            UnknownUserError, PipelineError: as ``get_valid_token``, or what ``request`` raises.
        """
        token, _ = self._valid_token(user_id, Need(force=force, to_read=True))
        return self._spend(user_id, token, request, force)

    def read_ahead(self, user_ids: Sequence[UUID]) -> dict[UUID, RowAhead]:
        """The rows of users whose first request comes soon, read by one statement, for ``spender``.
        Users without a row are absent.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: they cannot be read.
        """
        now = self._now() if self._now else None
        read_at = self._standing.clock()
        with autocommit(self._engine) as db:
            rows = token_row.read_all(db, user_ids, now)
        return {one.user_id: one for one in (RowAhead(row, read_at) for row in rows)}

    def spender(self, user_id: UUID, ahead: RowAhead | None = None) -> Spender:
        """A callable like ``spend``, for many requests of one user in a row. Not to be shared
        between threads.

        Args:
            ahead: the user's row of ``read_ahead``, if it was read.
        """
        return Spender(self._valid_token, self._spend, self._standing, user_id, ahead)

    def _spend(
        self, user_id: UUID, token: Secret, request: Callable[[Secret], T], force: bool
    ) -> T:
        try:
            return request(token)
        except HighLevelError as error:
            if error.failure is not FailureClass.ACCESS_REJECTED:
                self._note(user_id, error, token)
                raise
        token, _ = self._valid_token(user_id, Need(rejected=token, force=force, to_read=True))
        try:
            return request(token)
        except HighLevelError as error:
            self._note(user_id, error, token)
            raise

    def _note(self, user_id: UUID, error: HighLevelError, spent: Secret) -> None:
        """Report a refusal; a missing scope counts only if reading calls needs it."""
        if error.missing_scope in ("", SYNC_SCOPE):
            error.failure = self.report(user_id, error.failure, spent=spent)

    # What the API says about a connection ---------------------------------------------------------

    def report(
        self, user_id: UUID, failure: FailureClass, *, spent: Secret | None = None
    ) -> FailureClass:
        """Record that an API answer means the user's connection needs action.

        Args:
            spent: the token of the request; if it has been replaced since, the answer is ignored.
                None if the answer is about the location, not the token.

        Returns:
            The failure class for this kind of token (``PRIVATE_FAILURES``).
        """
        if failure not in STATE_AFTER or failure is FailureClass.REFRESH_REJECTED:
            return failure
        now = self._now() if self._now else None
        with self._engine.begin() as db:
            row = token_row.read(db, user_id, now)
            if row is not None and row.connection.is_private:
                failure = PRIVATE_FAILURES.get(failure, failure)
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
        return failure

    def _concerns(self, row: TokenRow, spent: Secret | None) -> bool:
        if row.connection.state not in LIVE_STATES:
            return False
        return spent is None or spent in (
            row.token(self.vault, "access_token"),
            row.token(self.vault, "location_access_token"),
        )

    def check(self, user_id: UUID) -> Check:
        """Test a connection: refresh if due, then read one page of calls.

        Raises:
            UnknownUserError: there is no such user.
        """
        test = ConnectionTest(self._engine, self._client, self._actor, self._now)
        return test.run(user_id, lambda request: self.spend(user_id, request, force=True))

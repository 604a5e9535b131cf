"""Refreshing: one exchange of a single-use refresh token for the next pair, without losing either.

The successor of a spent refresh token cannot be recovered (CONTRACT 4.3). So a lease is committed
before the POST, and the new pair is written right after it; nothing happens in between. If the
database is down then, the pair is kept on disk (``spool.py``). If the process dies then, its lease
expires and the exchange is *in doubt*: the POST is replayed once, after HighLevel has answered a
ping. If that fails too, the user must reconnect. So no loss is silent, and no retry loops.

``tokens.py``, the only caller, decides whether a token must be refreshed; what a failed exchange
means is in ``refresh_outcome.py``.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import circuit_breaker, history, token_row, token_store
from voiceai_pipeline.connections.circuit_breaker import Circuit
from voiceai_pipeline.connections.exchange_gate import GATE
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.newest_pairs import NewestPairs, with_stored
from voiceai_pipeline.connections.refresh_outcome import RefreshOutcome, record_success
from voiceai_pipeline.connections.refresh_plan import planned_refresh
from voiceai_pipeline.connections.restoration import Restoration
from voiceai_pipeline.connections.spool import Generation, Spool
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.highlevel.client import TOKEN_TIMEOUT, HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.transport import CONNECT_TIMEOUT

log = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)
"""How long one exchange may take, the write included."""

WRITE_PAUSES: Final = (0.1, 1.0, 3.0, 8.0)
"""Seconds between attempts to store a new pair while the database fails. Together with the POST,
they are shorter than a lease."""

RATE_LIMIT_WAIT: Final = 60.0
"""The most seconds in total that one exchange waits for the endpoint's rate limit."""

_WITHOUT_SPOOL: Final = (5.0,) * 120
"""Further pauses, ten minutes in total, if the pair cannot be kept on disk either: then its only
copy is in memory."""

if LEASE.total_seconds() <= sum(WRITE_PAUSES) + TOKEN_TIMEOUT + CONNECT_TIMEOUT:  # pragma: no cover
    raise RuntimeError("a token POST must time out before its lease expires (REQUIREMENTS T3)")


class Refresher:
    """Refreshes the tokens of a row. Safe to share between threads and between processes.

    Args:
        actor: recorded in the history.
        spool: where a new pair is kept while the database is down; None: in memory only.
        pairs: where the newest pair of each user is kept; None: nowhere.
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: waits between attempts, to write or because of a rate limit.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        actor: Actor,
        spool: Spool | None = None,
        pairs: NewestPairs | None = None,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client
        self._actor = actor
        self._spool = spool
        self._now = now
        self._sleep = sleep or time.sleep
        # Ends early when the process stops; pauses between attempts to write a pair do not.
        self._pause = sleep or client.reads.pause
        self._outcome = RefreshOutcome(engine, actor)
        self._pairs = pairs
        self._restoration = Restoration(engine, vault, pairs, actor=actor, now=now)
        self._proving = threading.Lock()
        self._proven = False

    def refresh(self, row: TokenRow, *, at_once: bool = False) -> bool:
        """Exchange the row's refresh token; False if another caller is doing so right now.

        Also True if the answer was lost and may be replayed. The caller must read the row again in
        either case.

        Args:
            at_once: ignore pauses that were ordered after failures.

        Raises:
            PipelineError: it cannot be refreshed; the class says why and what to do.
        """
        if row.replayed:
            self._outcome.after_lost_replay(row)
        refresh_token = row.token(self._vault, "refresh_token")
        if refresh_token is None:
            self._outcome.without_refresh_token(row)
        vouched_for = self._restoration.is_vouched_for(row)
        waited, pause = 0.0, 1.0
        with self._carefully(vouched_for=vouched_for):
            while True:
                try:
                    return self._attempt(
                        row,
                        refresh_token,
                        vouched_for=vouched_for,
                        at_once=at_once,
                        may_wait=RATE_LIMIT_WAIT - waited,
                    )
                except _RateLimitedError as limit:
                    # Nothing was spent and no lease is held; all other exchanges wait too.
                    asked = limit.retry_after or pause + random.random()  # noqa: S311 - jitter
                    asked = min(asked, RATE_LIMIT_WAIT - waited)
                    GATE.close_for(asked)
                    waited, pause = waited + asked, pause * 2

    @contextmanager
    def _carefully(self, *, vouched_for: bool | None) -> Iterator[None]:
        """Allow one exchange at a time until HighLevel accepts one, and again after a refusal. The
        database may have been restored from a backup, even together with the pairs on disk; then
        only three connections are lost before it is noticed. No limit if no pairs are kept."""
        if vouched_for is None:
            yield
            return
        with ExitStack() as alone:
            if not self._proven:
                alone.enter_context(self._proving)
            if self._proven:
                alone.close()  # it was accepted while this one waited
            yield

    def _attempt(
        self,
        row: TokenRow,
        refresh_token: Secret,
        *,
        vouched_for: bool | None,
        at_once: bool,
        may_wait: float,
    ) -> bool:
        """One exchange; False if another caller has the lease.

        Args:
            may_wait: seconds that are left for waiting for the rate limit.

        Raises:
            _RateLimitedError: the endpoint's rate limit refused it; the lease was given back.
            PipelineError: as ``refresh``.
        """
        is_alive, is_probe = self._check_endpoint(row, at_once=at_once)
        with GATE.exchange(self._pause):
            self._client.reads.check(method="POST", path="/oauth/token")
            with self._engine.begin() as db:
                # The lease and the token's lifetime start here, not before the wait.
                row = replace(row, now=read_clock(db, self._now))
                state = circuit_breaker.read(db)
                if state.is_open and not is_probe:
                    raise _suspended(state)
                lease = self._lease(db, row)
            if lease is None:
                return False
            try:
                token = self._client.refresh(refresh_token, row.connection.user_type or "Location")
            except HighLevelError as error:
                limited = error.failure is FailureClass.RATE_LIMITED and row.lease_id is None
                if limited and may_wait > 0 and (error.retry_after or 0) <= may_wait:
                    with self._engine.begin() as db:
                        token_store.give_back(db, row, lease)
                    raise _RateLimitedError(error.retry_after) from None
                if error.failure is FailureClass.REFRESH_REJECTED:
                    self._proven = False
                self._outcome.after_failure(
                    row, lease, error, is_alive=is_alive, vouched_for=vouched_for
                )
                return True
            # Nothing happens between the answer and the write.
            self._keep(row, token)
        self._proven = True
        with self._engine.begin() as db:
            record_success(db, self._actor, row.now, granted=True, refreshed=True)
        return True

    def _lease(self, db: sa.Connection, row: TokenRow) -> UUID | None:
        """Take the lease that allows the POST; None if another caller has it."""
        lease = token_store.take_lease(db, row, LEASE)
        if lease and row.lease_id:
            history.record(
                db,
                TokenEvent.REPLAY_BEGAN,
                at=row.now,
                actor=self._actor,
                user_id=row.connection.user.id,
                state=row.connection.state,
                versions=(row.version, None),
            )
        return lease

    # Before a POST --------------------------------------------------------------------------------

    def _check_endpoint(self, row: TokenRow, *, at_once: bool) -> tuple[bool, bool]:
        """Check that a POST makes sense now. Return whether the endpoint has just answered a ping,
        and whether the POST is the probe of an open circuit.

        While the circuit is open, only a probe may POST. The one replay of a lost answer waits
        until the endpoint responds, so that an outage does not use it up.

        Raises:
            PipelineError: it makes no sense now; the detail says why and when the next attempt is.
        """
        with self._engine.begin() as db:
            state = circuit_breaker.read(db)
            is_replay = row.lease_expires_at is not None and row.lease_expires_at <= row.now
            rests = is_replay and not at_once
            if rests and state.replays_rest_until and state.replays_rest_until > row.now:
                raise PipelineError(
                    FailureClass.IN_DOUBT, "the refresh is retried once refreshes work again"
                )
            again_at = row.connection.next_attempt_at
            if rests and again_at is not None and again_at > row.now:
                raise PipelineError(
                    FailureClass.IN_DOUBT, f"the refresh is retried at {again_at:%H:%M} UTC"
                )
            is_probe = state.is_open and circuit_breaker.claim_probe(
                db, state, row.now, at_once=at_once
            )
        reason = state.reason or FailureClass.PROVIDER_ERROR
        if state.is_open and not is_probe:
            raise _suspended(state)
        # A ping does not show a wrong client secret. A refused client spends nothing, so then this
        # user's own exchange is the probe.
        if not is_replay and not (is_probe and reason in PROVIDER_FAILURES):
            return False, is_probe
        try:
            self._client.ping_token_endpoint()
        except HighLevelError as error:
            self._outcome.count_failure(row, error, user_id=None)
            if not is_replay:
                raise
            raise PipelineError(
                FailureClass.IN_DOUBT, "the refresh is retried when HighLevel responds again"
            ) from None
        return True, is_probe

    # The new pair ---------------------------------------------------------------------------------

    def _keep(self, row: TokenRow, token: OAuthToken) -> None:
        """Store a new pair, with retries: its only copy is here.

        Raises:
            PipelineError: the database failed for too long.
        """
        pauses: tuple[float, ...] = WRITE_PAUSES
        spooled = False
        for attempt in range(len(WRITE_PAUSES) + len(_WITHOUT_SPOOL) + 1):
            try:
                if self._save(row, token, row.now, TokenEvent.REFRESHED):
                    self._keep_copy(row, token)
                if spooled and self._spool:
                    self._spool.remove(_generation(row))
                return
            except sa.exc.SQLAlchemyError as error:
                # A dropped connection, a read-only database, no free connection: all may pass.
                if attempt == 0:
                    spooled = self._put_in_spool(row, token)
                    self._keep_copy(row, token)  # the database may come back from a backup
                    pauses = WRITE_PAUSES if spooled else (*WRITE_PAUSES, *_WITHOUT_SPOOL)
                if attempt == len(pauses):
                    raise database_error(error) from None
                self._sleep(pauses[attempt])

    def _save(
        self, row: TokenRow, token: OAuthToken, started_at: datetime, event: TokenEvent
    ) -> bool:
        lifetime = token.lifetime(started_at)
        with self._engine.begin() as db:
            return token_store.save_rotation(
                db,
                row,
                token,
                self._vault,
                started_at=started_at,
                refresh_at=planned_refresh(row.connection.user.id, started_at, lifetime),
                actor=self._actor,
                event=event,
            )

    def _keep_copy(self, row: TokenRow, token: OAuthToken) -> None:
        if self._pairs:
            stored = row.token(self._vault, "refresh_token")
            self._pairs.keep(row.connection, with_stored(token, stored), row.now)

    # A pair on disk -------------------------------------------------------------------------------

    def _put_in_spool(self, row: TokenRow, token: OAuthToken) -> bool:
        if self._spool is None:
            return False
        try:
            self._spool.put(_generation(row), token, row.now)
        except OSError as error:
            log.error(
                "user %s: the database is down and the new token pair cannot be kept on disk "
                "either (%s); it is held in memory. Do not stop this process; fix the database.",
                row.connection.user.id,
                error.strerror,
            )
            return False
        return True

    def restore(self, row: TokenRow) -> bool:
        """Store the pair that was kept on disk for this row; True if there was one.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        spooled = self._spool.get(_generation(row)) if self._spool else None
        if self._spool is None or spooled is None:
            return self._restoration.update(row.connection)
        self._save(row, spooled.token, spooled.started_at, TokenEvent.RESTORED)
        self._spool.remove(_generation(row))
        return True

    def restore_all(self) -> dict[UUID, PipelineError]:
        """Store all pairs on this machine's disk, also of users who are no longer due because a
        replay on another machine was refused.

        Returns:
            The users whose pair could not be read, and why.
        """
        unread: dict[UUID, PipelineError] = {}
        for waiting in self._spool.waiting() if self._spool else ():
            with self._engine.begin() as db:
                now = self._now() if self._now else None
                row = token_row.read(db, waiting.user_id, now)
            if row is not None and _generation(row) == waiting:
                try:
                    self.restore(row)
                except PipelineError as error:
                    unread[waiting.user_id] = error
            elif self._spool:
                # Superseded by a newer generation, a reconnection or a disconnection.
                self._spool.remove(waiting)
        newer = self._restoration.update_all()
        return unread | {user_id: error for user_id, error in newer.items() if error}


def _suspended(circuit: Circuit) -> PipelineError:
    at = circuit.next_probe_at
    until = f"; next attempt at {at:%H:%M} UTC" if at else ""
    reason = circuit.reason or FailureClass.PROVIDER_ERROR
    return PipelineError(reason, f"refreshes of all users are suspended{until}")


def _generation(row: TokenRow) -> Generation:
    return Generation(row.connection.user.id, row.id, row.version)


class _RateLimitedError(Exception):
    """The token endpoint's rate limit refused an exchange; ``retry_after`` in seconds, if known."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__()
        self.retry_after = retry_after

"""Renewing: from a refresh token that works once to the next pair, whatever happens in between.

The successor of a spent refresh token cannot be recovered (CONTRACT 4.3), so an exchange is guarded
by a lease that is committed before the POST and by the write that follows it at once: nothing else
happens in between. If the database is away at that moment, the pair waits on disk. What remains is
a process that dies in exactly that moment; its lease runs out, the state is *in doubt*, the POST is
repeated once, when HighLevel is known to answer, and then the user is asked to reconnect. Never
silent, never a loop.

Whether a token has to be renewed is decided in ``tokens.py``, the only caller.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NoReturn
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, circuit_breaker, history, token_row, token_store
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh_outcome import (
    DOUBT_REST,
    NO_ATTEMPT,
    OUTAGE,
    PAUSE,
    REPLAYS_REST,
    STATE_AFTER,
    note_success,
)
from voiceai_pipeline.connections.refresh_plan import planned_refresh
from voiceai_pipeline.connections.spool import Generation, Spool
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState, OAuthToken
from voiceai_pipeline.core.failures import (
    OUR_FAILURES,
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.highlevel.client import TOKEN_TIMEOUT, HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.transport import CONNECT_TIMEOUT

log = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)
"""How long one exchange may take, the write included."""

WRITE_PAUSES: Final = (0.1, 1.0, 3.0, 8.0)
"""Seconds between attempts to store a new pair when the database drops the connection: less, with
the POST before them, than a lease."""

_WITHOUT_SPOOL: Final = (5.0,) * 120
"""Where the disk refuses the pair as well, its only copy is in memory: the attempts go on for ten
minutes."""

if LEASE.total_seconds() <= sum(WRITE_PAUSES) + TOKEN_TIMEOUT + CONNECT_TIMEOUT:  # pragma: no cover
    raise RuntimeError("a token POST must time out before its lease runs out (REQUIREMENTS T3)")


class Refresher:
    """Renews the tokens of a row. Safe to share between threads and between processes.

    Args:
        actor: who is named in the history.
        spool: where a pair waits while the database is away; None: in memory only.
        now: replaces the database's clock where time is simulated; aware UTC.
        sleep: how long to wait for a database that is away.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        client: HighLevelClient,
        *,
        actor: Actor,
        spool: Spool | None = None,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._client = client
        self._actor = actor
        self._spool = spool
        self._now = now
        self._sleep = sleep

    def refresh(self, row: TokenRow) -> bool:
        """Exchange the row's refresh token; False if somebody else is doing so right now.

        True also where the answer was lost and may be asked for again: read the row anew.

        Raises:
            PipelineError: it cannot be renewed; the class says why and what to do.
        """
        if row.replayed:
            self._give_up_if_abandoned(row)
        if row.token(self._vault, "refresh_token") is None:
            self._give_up_without_token(row)
        is_alive = self._look_first(row)
        with self._engine.begin() as db:
            # The lease and the token's life count from here, not from before the look.
            row = replace(row, now=read_clock(db, self._now))
            lease = self._lease(db, row)
        if lease is None:
            return False
        self._exchange(row, lease, is_alive=is_alive)
        return True

    def _lease(self, db: sa.Connection, row: TokenRow) -> UUID | None:
        """Become the one who may POST; None if somebody else is."""
        lease = token_store.take_lease(db, row, LEASE)
        if lease and row.lease_id:
            self._record(db, row, TokenEvent.REPLAY_BEGAN)
        return lease

    # Before a POST --------------------------------------------------------------------------------

    def _look_first(self, row: TokenRow) -> bool:
        """See whether a POST makes sense now; True if the endpoint has just shown that it answers.

        While renewals fail for everybody only a probe POSTs. The one replay of a lost answer is
        kept for when it can be answered: an outage spends none.

        Raises:
            PipelineError: it makes none, with the reason and the next attempt.
        """
        with self._engine.begin() as db:
            state = circuit_breaker.read(db)
            is_replay = row.lease_expires_at is not None and row.lease_expires_at <= row.now
            if is_replay and state.replays_rest_until and state.replays_rest_until > row.now:
                raise PipelineError(
                    FailureClass.IN_DOUBT, "the refresh is repeated once HighLevel renews again"
                )
            again_at = row.connection.next_attempt_at
            if is_replay and again_at is not None and again_at > row.now:
                raise PipelineError(
                    FailureClass.IN_DOUBT, f"the refresh is repeated at {again_at:%H:%M} UTC"
                )
            is_probe = state.is_open and circuit_breaker.claim_probe(db, state, row.now)
        reason = state.reason or FailureClass.PROVIDER_ERROR
        if state.is_open and not is_probe:
            until = (
                f"; next attempt at {state.next_probe_at:%H:%M} UTC" if state.next_probe_at else ""
            )
            raise PipelineError(reason, f"renewals of all users are suspended{until}")
        # A wrong client secret shows only in an exchange, and a refused client spends nothing: then
        # this user's own is the probe.
        if not is_replay and not (is_probe and reason in PROVIDER_FAILURES):
            return False
        try:
            self._client.ping_token_endpoint()
        except HighLevelError as error:
            self._count_failure(row, error, user_id=None)
            if not is_replay:
                raise
            raise PipelineError(
                FailureClass.IN_DOUBT, "the refresh is repeated when HighLevel answers again"
            ) from None
        return True

    def is_suspended(self) -> bool:
        """True while the token endpoint is known to fail everybody."""
        with self._engine.begin() as db:
            return circuit_breaker.read(db).is_open

    def _give_up_without_token(self, row: TokenRow) -> NoReturn:
        detail = "no refresh token is stored"
        with self._engine.begin() as db:
            token_store.settle(
                db,
                row,
                None,
                ConnectionState.NEEDS_RECONNECT,
                FailureClass.REFRESH_REJECTED,
                actor=self._actor,
                event=TokenEvent.REFRESH_FAILED,
                detail=detail,
            )
        raise PipelineError(FailureClass.REFRESH_REJECTED, detail)

    def _give_up_if_abandoned(self, row: TokenRow) -> None:
        """The one replay was lost too: only a person can help now."""
        if row.lease_expires_at is not None and row.lease_expires_at > row.now:
            return
        with self._engine.begin() as db:
            given_up = token_store.settle(
                db,
                row,
                row.lease_id,
                ConnectionState.NEEDS_RECONNECT,
                FailureClass.REFRESH_REJECTED,
                actor=self._actor,
                event=TokenEvent.GAVE_UP,
            )
        if given_up:
            raise PipelineError(FailureClass.REFRESH_REJECTED, "HighLevel's answer was lost twice")

    # The POST and its outcome ---------------------------------------------------------------------

    def _exchange(self, row: TokenRow, lease: UUID, *, is_alive: bool) -> None:
        """POST once and write the outcome, unless somebody else knows better since.

        Between the answer and the write nothing happens.

        Args:
            is_alive: the endpoint has answered something else a moment ago.
        """
        refresh_token = row.token(self._vault, "refresh_token")
        if refresh_token is None:  # pragma: no cover - renew has looked
            raise PipelineError(FailureClass.REFRESH_REJECTED)
        try:
            token = self._client.refresh(refresh_token, row.connection.user_type or "Location")
        except HighLevelError as error:
            self._settle_refusal(row, lease, error, is_alive=is_alive)
            return
        self._keep(row, token)
        with self._engine.begin() as db:
            note_success(db, self._actor, row.now, granted=True)

    def _keep(self, row: TokenRow, token: OAuthToken) -> None:
        """Store a new pair whatever it takes: its only copy is here."""
        pauses: tuple[float, ...] = WRITE_PAUSES
        spooled = False
        for attempt in range(len(WRITE_PAUSES) + len(_WITHOUT_SPOOL) + 1):
            try:
                self._save(row, token, row.now, TokenEvent.REFRESHED)
                if spooled and self._spool:
                    self._spool.remove(_generation(row))
                return
            except sa.exc.SQLAlchemyError as error:
                # Lost, read-only, out of connections: whatever it is, it may pass.
                if attempt == 0:
                    spooled = self._put_in_spool(row, token)
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

    def _put_in_spool(self, row: TokenRow, token: OAuthToken) -> bool:
        if self._spool is None:
            return False
        try:
            self._spool.put(_generation(row), token, row.now)
        except OSError as error:
            log.error(
                "user %s: the database is away and the new token pair cannot be kept on disk "
                "either (%s); it is held in memory. Do not stop this process; mend the database.",
                row.connection.user.id,
                error.strerror,
            )
            return False
        return True

    def restore(self, row: TokenRow) -> bool:
        """Store the pair that waited on disk for this row; True if there was one."""
        if self._spool is None:
            return False
        spooled = self._spool.get(_generation(row))
        if spooled is None:
            return False
        self._save(row, spooled.token, spooled.started_at, TokenEvent.RESTORED)
        self._spool.remove(_generation(row))
        return True

    def restore_spooled(self) -> dict[UUID, PipelineError]:
        """Store every pair that waits on this machine's disk, also of users whom nobody asks for
        any more because a replay elsewhere was refused; return whose pair could not be read."""
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
                # A newer generation, a reconnection or a disconnection has come since.
                self._spool.remove(waiting)
        return unread

    def _settle_refusal(
        self, row: TokenRow, lease: UUID, error: HighLevelError, *, is_alive: bool
    ) -> None:
        """Write what a refused or lost exchange means for the connection; keep the tokens.

        Whoever has taken over the lease since knows better: then nothing is written or raised, and
        the caller's loop finds what they got.
        """
        before = row.connection
        state, reason, next_attempt = before.state, before.reason, before.next_attempt_at
        if error.failure in STATE_AFTER:
            state, reason = STATE_AFTER[error.failure], error.failure
            next_attempt = row.now + PAUSE if state is ConnectionState.PAUSED else None
        lost = error.sent and (error.status is None or error.failure is FailureClass.MALFORMED)
        is_replay = row.lease_id is not None
        with self._engine.begin() as db:
            if lost or (is_replay and state is before.state):
                # A replay that was answered, by a server error say, has told nothing yet about the
                # exchange in doubt.
                ours = token_store.leave_in_doubt(
                    db,
                    row,
                    lease,
                    error.failure,
                    lost=lost,
                    counts=error.sent,
                    next_attempt_at=row.now + DOUBT_REST if error.sent and not lost else None,
                    actor=self._actor,
                    detail=error.detail,
                )
            else:
                ours = token_store.settle(
                    db,
                    row,
                    lease,
                    state,
                    reason,
                    next_attempt,
                    actor=self._actor,
                    event=TokenEvent.REFRESH_FAILED,
                    failure=error.failure,
                    counts=error.sent and error.failure not in NO_ATTEMPT,
                    detail=error.detail,
                    trace_id=error.trace_id,
                )
        if error.failure in OUR_FAILURES | PROVIDER_FAILURES:
            user_id = row.connection.user.id
            self._count_failure(row, error, user_id=user_id, deceptive=lost and is_alive)
        elif error.status is not None:
            with self._engine.begin() as db:
                note_success(db, self._actor, row.now, granted=False)
        if not ours:
            return
        if not lost:
            raise error
        if error.timed_out:
            # Whatever keeps the answers away may pass: the replay is left to the next attempt. At
            # once, half an outage would cost each user their replay until the circuit opens, and
            # after the time-out and a ping little of the grace is left.
            raise PipelineError(FailureClass.IN_DOUBT)
        # A broken connection: the caller's loop replays at once, inside the 30 s in which HighLevel
        # is said to repeat its answer (CONTRACT 4.3).

    def _count_failure(
        self,
        row: TokenRow,
        error: HighLevelError,
        *,
        user_id: UUID | None,
        deceptive: bool = False,
    ) -> None:
        """Note that the token endpoint failed in a way that concerns everybody.

        Args:
            user_id: whose exchange failed; None if it was no exchange.
            deceptive: it had answered a moment before, so that an answer is no sign that a replay
                would get one.
        """
        with self._engine.begin() as db:
            if deceptive:
                circuit_breaker.rest_replays(db, row.now + REPLAYS_REST)
            if circuit_breaker.count_failure(db, error.failure, error.detail, row.now, user_id):
                history.record(
                    db,
                    TokenEvent.CIRCUIT_OPENED,
                    at=row.now,
                    actor=self._actor,
                    reason=error.failure,
                    detail=error.detail,
                )
            state = circuit_breaker.read(db)
            lasting = state.failing_since is not None and row.now - state.failing_since >= OUTAGE
            if state.is_open and (error.failure in OUR_FAILURES or lasting):
                alerts.open_(db, None, error.failure, row.now)

    def _record(self, db: sa.Connection, row: TokenRow, event: TokenEvent) -> None:
        history.record(
            db,
            event,
            at=row.now,
            actor=self._actor,
            user_id=row.connection.user.id,
            state=row.connection.state,
            versions=(row.version, None),
        )


def _generation(row: TokenRow) -> Generation:
    return Generation(row.connection.user.id, row.id, row.version)

"""What the result of a token exchange means, for the user's connection and for all users.

A refusal or a lost answer becomes a state, a retry time and an alert here; failures that affect
all users are counted by the circuit breaker. ``refresh.py`` stores a granted pair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NoReturn
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, circuit_breaker, history, token_store
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.core.connection import PRIVATE_FAILURES, ConnectionState
from voiceai_pipeline.core.failures import (
    OUR_FAILURES,
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.highlevel.errors import HighLevelError

PAUSE: Final = timedelta(hours=6)
"""How long a paused location is not retried (REQUIREMENTS, 6-24 h)."""

DOUBT_REST: Final = timedelta(hours=1)
"""How long a connection in doubt is not retried after its replay got an answer that settles
nothing, such as a server error."""

REPLAYS_REST: Final = timedelta(hours=24)
"""How long replays are suspended after an answer was lost while the endpoint was responding; any
grant of tokens ends it. A partial outage would use up one replay after the other."""

OUTAGE: Final = timedelta(hours=1)
"""An outage of HighLevel raises an alert after this time."""

REFUSED_IN_A_ROW: Final = 3
REFUSALS_WITHIN: Final = timedelta(hours=25)
"""If so many users in a row are refused within this time, the database was probably restored from a
backup (REQUIREMENTS T20); ``_suspect_backup`` has the exception."""

STATE_AFTER: Final = {
    FailureClass.REFRESH_REJECTED: ConnectionState.NEEDS_RECONNECT,
    FailureClass.SCOPE_MISSING: ConnectionState.NEEDS_RECONNECT,
    FailureClass.WRONG_LOCATION: ConnectionState.NEEDS_RECONNECT,
    FailureClass.LOCATION_PAUSED: ConnectionState.PAUSED,
    **dict.fromkeys(PRIVATE_FAILURES.values(), ConnectionState.NEEDS_RECONNECT),
}
"""The state of a connection after a failure; all other failures leave it unchanged, also
ACCESS_REJECTED: an API that refuses an access token says nothing about the refresh token."""

_NOT_COUNTED: Final = OUR_FAILURES | STATE_AFTER.keys()
"""Failures that are not counted as the user's failed attempts: our own faults, and those that
change the connection's state."""


@dataclass(frozen=True)
class RefreshOutcome:
    """Records what an exchange without a new pair means.

    Attributes:
        actor: recorded in the history.
    """

    engine: sa.Engine
    actor: Actor

    def without_refresh_token(self, row: TokenRow) -> NoReturn:
        """Record that no refresh token is stored: the user must reconnect.

        Raises:
            PipelineError: REFRESH_REJECTED, always.
        """
        detail = "no refresh token is stored"
        self._give_up(row, None, TokenEvent.REFRESH_FAILED, detail)
        raise PipelineError(FailureClass.REFRESH_REJECTED, detail)

    def after_lost_replay(self, row: TokenRow) -> None:
        """If the lease has expired, record that the one replay was lost too: the user must
        reconnect.

        Raises:
            PipelineError: REFRESH_REJECTED, if this call settled it.
        """
        if row.lease_expires_at is not None and row.lease_expires_at > row.now:
            return
        if self._give_up(row, row.lease_id, TokenEvent.GAVE_UP):
            raise PipelineError(FailureClass.REFRESH_REJECTED, "HighLevel's answer was lost twice")

    def _give_up(
        self, row: TokenRow, lease: UUID | None, event: TokenEvent, detail: str = ""
    ) -> bool:
        with self.engine.begin() as db:
            return token_store.settle(
                db,
                row,
                lease,
                ConnectionState.NEEDS_RECONNECT,
                FailureClass.REFRESH_REJECTED,
                actor=self.actor,
                event=event,
                detail=detail,
            )

    def after_failure(
        self,
        row: TokenRow,
        lease: UUID,
        error: HighLevelError,
        *,
        is_alive: bool,
        vouched_for: bool | None = None,
    ) -> None:
        """Record what a refused or lost exchange means for the connection; keep the tokens.

        If another process has taken over the lease, its state is not changed and nothing is raised:
        the caller reads the row again and finds the other's result. Nothing is raised either if the
        network connection broke: the caller replays at once, within the 30 s in which HighLevel
        repeats its answer (CONTRACT 4.3).

        Args:
            is_alive: the endpoint had answered a ping just before.
            vouched_for: the row's pair is known to be the newest one; None: no pairs are kept.

        Raises:
            HighLevelError: ``error``, unless the answer was lost.
            PipelineError: IN_DOUBT, if the answer was lost to a timeout.
        """
        lost = error.sent and (error.status is None or error.failure is FailureClass.MALFORMED)
        ours = self._settle(row, lease, error, lost=lost)
        if error.failure in OUR_FAILURES | PROVIDER_FAILURES:
            user_id = row.connection.user.id
            self.count_failure(row, error, user_id=user_id, deceptive=lost and is_alive)
        elif error.status is not None:
            with self.engine.begin() as db:
                record_success(db, self.actor, row.now, granted=False)
                if error.failure is FailureClass.REFRESH_REJECTED and vouched_for is not None:
                    self._suspect_backup(db, row.now, vouched_for=vouched_for)
        if not ours:
            return
        if not lost:
            raise error
        if error.timed_out:
            # The next attempt replays. A replay at once could cost each user their only one in a
            # partial outage, until the circuit opens; and after a timeout and a ping, little of the
            # grace period is left.
            raise PipelineError(FailureClass.IN_DOUBT)

    def alert_unreadable(
        self, user_id: UUID, error: PipelineError, simulated: Callable[[], datetime] | None
    ) -> None:
        """Open an alert for a token that cannot be decrypted, unless one is open. The connection's
        state stays, because the key may come back."""
        with self.engine.begin() as db:
            now = read_clock(db, simulated)
            if alerts.open_(db, user_id, error.failure, now):
                history.record(
                    db,
                    TokenEvent.REFRESH_FAILED,
                    at=now,
                    actor=self.actor,
                    user_id=user_id,
                    reason=error.failure,
                    detail=error.detail,
                )

    def _settle(self, row: TokenRow, lease: UUID, error: HighLevelError, *, lost: bool) -> bool:
        """Store the connection's state; False if the lease is no longer ours."""
        before = row.connection
        state, reason, next_attempt = before.state, before.reason, before.next_attempt_at
        if error.failure in STATE_AFTER:
            state, reason = STATE_AFTER[error.failure], error.failure
            next_attempt = row.now + PAUSE if state is ConnectionState.PAUSED else None
        is_replay = row.lease_id is not None
        with self.engine.begin() as db:
            if lost or (is_replay and state is before.state):
                # A replay that was answered with, say, a server error settles nothing about the
                # exchange in doubt.
                return token_store.leave_in_doubt(
                    db,
                    row,
                    lease,
                    error.failure,
                    lost=lost,
                    counts=error.sent,
                    next_attempt_at=row.now + DOUBT_REST if error.sent and not lost else None,
                    actor=self.actor,
                    detail=error.detail,
                )
            return token_store.settle(
                db,
                row,
                lease,
                state,
                reason,
                next_attempt,
                actor=self.actor,
                event=TokenEvent.REFRESH_FAILED,
                failure=error.failure,
                counts=error.sent and error.failure not in _NOT_COUNTED,
                detail=error.detail,
                trace_id=error.trace_id,
            )

    def _suspect_backup(self, db: sa.Connection, now: datetime, *, vouched_for: bool) -> None:
        """Suspend all refreshes after refusals of several users in a row. Not if this pair was
        known to be the newest and others were granted: then, say, an agency removed the app."""
        refused, has_granted = history.refused_in_a_row(db, now - REFUSALS_WITHIN)
        if len(refused) < REFUSED_IN_A_ROW or (vouched_for and has_granted):
            return
        detail = f"{len(refused)} users"
        reason = FailureClass.TOKENS_SPENT
        if circuit_breaker.open_for_spent_tokens(db, detail, now):
            history.record(
                db,
                TokenEvent.CIRCUIT_OPENED,
                at=now,
                actor=self.actor,
                reason=reason,
                detail=detail,
            )
            alerts.open_(db, None, reason, now)

    def count_failure(
        self,
        row: TokenRow,
        error: HighLevelError,
        *,
        user_id: UUID | None,
        deceptive: bool = False,
    ) -> None:
        """Count a failure of the token endpoint that affects all users.

        Args:
            user_id: whose exchange failed; None if it was a ping.
            deceptive: the exchange was lost although a ping had just been answered, so a ping does
                not show that a replay would be answered.
        """
        with self.engine.begin() as db:
            if deceptive:
                circuit_breaker.pause_replays(db, row.now + REPLAYS_REST)
            if circuit_breaker.count_failure(db, error.failure, error.detail, row.now, user_id):
                history.record(
                    db,
                    TokenEvent.CIRCUIT_OPENED,
                    at=row.now,
                    actor=self.actor,
                    reason=error.failure,
                    detail=error.detail,
                )
            state = circuit_breaker.read(db)
            lasting = state.failing_since is not None and row.now - state.failing_since >= OUTAGE
            if state.is_open and (error.failure in OUR_FAILURES or lasting):
                alerts.open_(db, None, error.failure, row.now)


def record_success(
    db: sa.Connection, actor: Actor, now: datetime, *, granted: bool, refreshed: bool = False
) -> None:
    """Record that the token endpoint accepted our client: close the circuit and its alert.

    Args:
        granted: it granted new tokens.
        refreshed: it granted them for a stored refresh token.
    """
    if circuit_breaker.count_success(db, granted=granted, refreshed=refreshed):
        history.record(db, TokenEvent.CIRCUIT_CLOSED, at=now, actor=actor)
        alerts.close(db, None, now)

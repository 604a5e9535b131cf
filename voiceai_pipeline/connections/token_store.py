"""Writes tokens to a user's row: leases, rotations, the outcome of an exchange, minted tokens.

Tokens arrive here decrypted and are stored encrypted; ``tokens.py`` decides when to refresh. A
lease (``lease_id``) is committed before a token POST, so it is both the lock and the journal of the
exchange (decision 4). A process that lost its lease may not settle the exchange, but a new pair is
stored as long as the generation that it replaces is still stored. Each change writes its event
(``history``) and opens or closes the alert in the same transaction.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.token_row import TokenRow, mark
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    LIVE_STATES,
    Connection,
    ConnectionState,
    OAuthToken,
    missing_scopes,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.tables import api_keys

ATTENTION_AFTER: Final = 12
"""Consecutive failed refreshes that raise an alert: two hours, at one every ten minutes."""

_STOPPED: Final = (ConnectionState.NEEDS_RECONNECT, ConnectionState.PAUSED)

EXPIRING_SOON: Final = timedelta(days=30)
"""How long before an unused refresh token expires an alert is raised (REQUIREMENTS T14)."""


def needs_action(connection: Connection) -> bool:
    """Whether an operator or the user must act, or refreshes have failed for a long time.

    A disconnected or never connected user does not need action: that may be intended. Nor does a
    user whose syncs an operator has paused.
    """
    if connection.pause is not None:
        return False
    return connection.state in _STOPPED or connection.failed_attempts >= ATTENTION_AFTER


def take_lease(db: sa.Connection, row: TokenRow, ttl: timedelta) -> UUID | None:
    """Take the lease that allows a POST for this token version; None if another caller has it.

    A lease that expired without a result can be taken over once, for the replay.

    Args:
        ttl: how long the lease lasts.
    """
    lease = uuid4()
    free = sa.and_(
        api_keys.c.lease_id.is_(None),
        api_keys.c.token_version == row.version,
        # Another caller may have found out meanwhile that this token is revoked.
        api_keys.c.connection_state.is_not_distinct_from(row.stored_state),
        row.is_unchanged(),
    )
    abandoned = sa.and_(
        api_keys.c.lease_id == row.lease_id,
        api_keys.c.lease_expires_at <= row.now,
        api_keys.c.refresh_replayed.is_(False),
    )
    taken = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, free if row.lease_id is None else abandoned)
        .values(
            lease_id=lease,
            lease_started_at=row.now,
            lease_expires_at=row.now + ttl,
            refresh_replayed=row.lease_id is not None,
        )
    )
    return lease if taken.rowcount == 1 else None


def give_back(db: sa.Connection, row: TokenRow, lease: UUID) -> None:
    """Free a lease whose POST was refused by the rate limit; the row is then as it was before."""
    db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.lease_id == lease)
        .values(lease_id=None, lease_started_at=None, lease_expires_at=None)
    )


def save_rotation(
    db: sa.Connection,
    row: TokenRow,
    token: OAuthToken,
    vault: TokenVault,
    *,
    started_at: datetime,
    refresh_at: datetime,
    actor: Actor,
    event: TokenEvent = TokenEvent.REFRESHED,
) -> bool:
    """Store the pair that replaces the row's generation, in one statement.

    Checks the generation and the refresh token that was spent, not the lease: a pair that arrives
    late, after its lease has expired or a replay was refused, is still the only one that works.
    False if a newer generation, another application's pair, a reconnection or a disconnection came
    first.

    What the answer omits (refresh token, scope, agency, user type) stays as stored, as does the
    location.

    Args:
        started_at: when the POST started (UTC); the token's lifetime starts then.
        refresh_at: when the next refresh is due (UTC).
    """
    user_id = row.connection.user.id
    lacking = missing_scopes(token.scope or row.connection.scope)
    state = ConnectionState.NEEDS_RECONNECT if lacking else ConnectionState.CONNECTED
    reason = FailureClass.SCOPE_MISSING if lacking else None
    if not lacking and not row.connection.location_id:
        state, reason = ConnectionState.NEEDS_RECONNECT, FailureClass.NO_LOCATION
    values: dict[str, Any] = {
        "access_token": vault.seal(token.access_token, "access_token", user_id, row.version + 1),
        "token_expires_at": started_at + token.lifetime(started_at),
        "token_version": api_keys.c.token_version + 1,
        "updated_at": row.now,
        "refreshed_at": started_at,
        "refresh_at": refresh_at,
        # A location token was minted from the pair that is now spent.
        "location_access_token": None,
        "location_token_expires_at": None,
        "failed_attempts": 0,
        "last_failure": None,
        **settled(row, state, reason),
    }
    # A refresh token that the answer omits stays, encrypted for the new generation.
    refresh_token = token.refresh_token or row.token(vault, "refresh_token")
    values["refresh_token"] = vault.seal(refresh_token, "refresh_token", user_id, row.version + 1)
    values["tokens_mark"] = mark(values["access_token"], values["refresh_token"])
    optional = {"scope": token.scope, "company_id": token.company_id, "user_type": token.user_type}
    values |= {name: value for name, value in optional.items() if value}
    of_generation = sa.and_(api_keys.c.id == row.id, api_keys.c.token_version == row.version)
    held = db.execute(
        sa.select(api_keys.c.refresh_token).where(of_generation).with_for_update()
    ).one_or_none()
    # Another application has stored a pair: it is the newer one.
    if held is None or not row.has_refresh_token(held.refresh_token, vault):
        return False
    db.execute(sa.update(api_keys).where(of_generation).values(values))
    if reason is None:
        alerts.close(db, user_id, row.now)
    else:
        alerts.open_(db, user_id, reason, row.now)
    history.record(
        db,
        event,
        at=row.now,
        actor=actor,
        user_id=user_id,
        state=state,
        reason=reason,
        detail="; ".join(filter(None, (", ".join(lacking), token.remark))),
        versions=(row.version, row.version + 1),
        trace_id=token.trace_id,
        fingerprint=vault.fingerprint(token.refresh_token) if token.refresh_token else None,
    )
    return True


def settle(
    db: sa.Connection,
    row: TokenRow,
    lease: UUID | None,
    state: ConnectionState,
    reason: FailureClass | None = None,
    next_attempt_at: datetime | None = None,
    *,
    actor: Actor,
    event: TokenEvent,
    failure: FailureClass | None = None,
    counts: bool = False,
    detail: str = "",
    trace_id: str | None = None,
) -> bool:
    """Set the connection's state, keep the stored tokens, and free the lease.

    Checks the lease, the token version and the tokens, so a caller who lost the race changes
    nothing.

    Args:
        next_attempt_at: the connection is not used before this time (UTC).
        failure: why a refresh failed.
        counts: the failure is temporary; such failures are counted until a refresh succeeds.
        detail: facts for the history.

    Returns:
        False if another caller was faster, and nothing was written.
    """
    mine = api_keys.c.lease_id == lease if lease else api_keys.c.lease_id.is_(None)
    values = settled(row, state, reason, next_attempt_at)
    if counts and failure is not None:
        values |= {
            "failed_attempts": api_keys.c.failed_attempts + 1,
            "last_failure": failure.value,
        }
    changed = db.execute(
        sa.update(api_keys)
        .where(
            api_keys.c.id == row.id,
            api_keys.c.token_version == row.version,
            mine,
            # A refusal says nothing about a pair that another application stored meanwhile.
            row.is_unchanged(),
        )
        .values(values)
        .returning(api_keys.c.failed_attempts)
    ).one_or_none()
    if changed is None:
        return False
    lasting = failure if counts and changed.failed_attempts >= ATTENTION_AFTER else None
    if problem := _problem(row, state, reason) or lasting:
        alerts.open_(db, row.connection.user.id, problem, row.now)
    history.record(
        db,
        event,
        at=row.now,
        actor=actor,
        user_id=row.connection.user.id,
        state=state,
        reason=failure or reason,
        detail=detail,
        versions=(row.version, None),
        trace_id=trace_id,
    )
    return True


def leave_in_doubt(
    db: sa.Connection,
    row: TokenRow,
    lease: UUID,
    failure: FailureClass,
    *,
    lost: bool,
    counts: bool,
    next_attempt_at: datetime | None,
    actor: Actor,
    detail: str,
) -> bool:
    """Record that the result of the exchange is unknown. The lease is kept but expires now, so that
    a replay can take it over.

    Args:
        lost: no usable answer came; False if a replay got an answer that settles nothing.
        counts: it counts as an attempt; False if the replay was not sent.
        next_attempt_at: the connection is not used before this time (UTC).

    Returns:
        False if the lease is no longer ours, and nothing was written.
    """
    same = row.connection.state is ConnectionState.IN_DOUBT
    left = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.lease_id == lease, row.is_unchanged())
        .values(
            connection_state=ConnectionState.IN_DOUBT.value,
            connection_reason=FailureClass.IN_DOUBT.value,
            connection_since=row.connection.since if same else row.now,
            lease_expires_at=row.now,
            refresh_replayed=lost and row.lease_id is not None,
            next_attempt_at=next_attempt_at,
            failed_attempts=api_keys.c.failed_attempts + int(counts),
            last_failure=failure.value,
            tokens_mark=row.mark,
        )
        .returning(api_keys.c.failed_attempts)
    ).one_or_none()
    if left is None:
        return False
    user_id = row.connection.user.id
    if left.failed_attempts >= ATTENTION_AFTER:
        alerts.open_(db, user_id, failure, row.now)
    history.record(
        db,
        TokenEvent.ANSWER_LOST if lost else TokenEvent.REFRESH_FAILED,
        at=row.now,
        actor=actor,
        user_id=user_id,
        state=ConnectionState.IN_DOUBT,
        reason=None if lost else failure,
        detail=detail,
        versions=(row.version, None),
    )
    return True


def _problem(
    row: TokenRow, state: ConnectionState, reason: FailureClass | None
) -> FailureClass | None:
    """The reason of the alert that a state raises, if any. A pause is the agency's own decision, so
    it raises none until the refresh token is about to expire."""
    if state is ConnectionState.NEEDS_RECONNECT:
        return reason or FailureClass.REFRESH_REJECTED
    expires_at = row.connection.refresh_token_expires_at
    is_expiring = expires_at is not None and expires_at - row.now <= EXPIRING_SOON
    return reason if state is ConnectionState.PAUSED and is_expiring else None


_DEACTIVATED: Final = sa.and_(
    api_keys.c.is_active.is_(False),
    sa.func.coalesce(api_keys.c.connection_state, ConnectionState.CONNECTED.value).in_(
        [state.value for state in LIVE_STATES]
    ),
)
"""Another application has deactivated the connection; our results must not reactivate it."""


def settled(
    row: TokenRow,
    state: ConnectionState,
    reason: FailureClass | None,
    next_attempt_at: datetime | None = None,
) -> dict[str, Any]:
    same = row.connection.state is state and row.connection.reason is reason
    return {
        "connection_state": state.value,
        "connection_reason": reason.value if reason else None,
        "connection_since": row.connection.since if same else row.now,
        "next_attempt_at": next_attempt_at,
        "is_active": sa.case(
            (_DEACTIVATED, sa.false()),
            else_=state in (ConnectionState.CONNECTED, ConnectionState.PAUSED),
        ),
        "tokens_mark": row.mark,
        "lease_id": None,
        "lease_started_at": None,
        "lease_expires_at": None,
        "refresh_replayed": False,
    }


def save_location_token(
    db: sa.Connection, row: TokenRow, token: OAuthToken, vault: TokenVault, *, actor: Actor
) -> bool:
    """Store a minted location token; False if the pair it came from, or the location, has been
    replaced since."""
    user_id = row.connection.user.id
    saved = db.execute(
        sa.update(api_keys)
        .where(
            api_keys.c.id == row.id,
            api_keys.c.token_version == row.version,
            api_keys.c.location_id == row.connection.location_id,
        )
        .values(
            location_access_token=vault.seal(
                token.access_token, "location_access_token", user_id, row.version
            ),
            location_token_expires_at=row.now + token.lifetime(row.now),
        )
    )
    if saved.rowcount != 1:
        return False
    history.record(
        db,
        TokenEvent.MINTED,
        at=row.now,
        actor=actor,
        user_id=user_id,
        state=row.connection.state,
        versions=(row.version, row.version),
        trace_id=token.trace_id,
    )
    return True

"""Writes a connection's row when the user connects, chooses a location or disconnects.

Each change writes its event (``history``) and opens or closes the alert in the same transaction.
What a refresh does to the row is in ``token_store.py``.
"""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.token_row import TokenRow, mark, read
from voiceai_pipeline.connections.token_store import settled
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    SERVICE,
    Connection,
    ConnectionState,
    OAuthToken,
    missing_scopes,
)
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.tables import api_keys, sync_ledger, users

# Connecting --------------------------------------------------------------------------------------


def save_connection(
    db: sa.Connection,
    connection: Connection,
    token: OAuthToken,
    vault: TokenVault,
    *,
    started_at: datetime,
    refresh_at: datetime | None,
    actor: Actor,
    event: TokenEvent = TokenEvent.CONNECTED,
    detail: str = "",
    now: datetime | None = None,
) -> None:
    """Connect or reconnect in one transaction: the row is replaced, and an exchange in flight is
    discarded.

    Args:
        started_at: when the code's exchange started (UTC); the token's lifetime starts then.
        refresh_at: when the first refresh is due (UTC); None for a private integration token.
        event, detail: for the history.
        now: the time of this change (UTC); None: ``started_at``.

    Raises:
        LookupError: there is no such user.
    """
    user_id, now = connection.user.id, now or started_at
    found = lock(db, user_id)
    if found.one_or_none() is None:
        raise LookupError(f"no user {user_id}")
    row = read(db, user_id, now)
    version = row.version + 1 if row else 1
    values: dict[str, Any] = {
        "name": "HighLevel",
        "service": SERVICE,
        "access_token": vault.seal(token.access_token, "access_token", user_id, version),
        "refresh_token": vault.seal(token.refresh_token, "refresh_token", user_id, version),
        "token_expires_at": None
        if connection.is_private
        else started_at + token.lifetime(started_at),
        "location_id": connection.location_id,
        "location_name": connection.location_name,
        "location_timezone": connection.location_timezone,
        "company_id": connection.company_id,
        "user_type": connection.user_type,
        "scope": connection.scope,
        "location_access_token": None,
        "location_token_expires_at": None,
        "connection_state": connection.state.value,
        "connection_reason": connection.reason.value if connection.reason else None,
        "connection_since": now,
        "next_attempt_at": None,
        "is_active": connection.state is ConnectionState.CONNECTED,
        "token_version": version,
        "lease_id": None,
        "lease_started_at": None,
        "lease_expires_at": None,
        "refresh_replayed": False,
        "updated_at": now,
        "refreshed_at": started_at,
        "refresh_at": refresh_at,
        "failed_attempts": 0,
        "last_failure": None,
    }
    values["tokens_mark"] = mark(values["access_token"], values["refresh_token"])
    # Rows that the source system's reconnects left behind.
    db.execute(
        sa.update(api_keys)
        .where(api_keys.c.user_id == user_id, api_keys.c.service == SERVICE)
        .values(is_active=False)
    )
    if row:
        db.execute(sa.update(api_keys).where(api_keys.c.id == row.id).values(values))
    else:
        db.execute(
            sa.insert(api_keys).values(id=uuid4(), user_id=user_id, created_at=now, **values)
        )
    if connection.location_id:
        _move_unfinished_days(db, user_id, connection.location_id)
    if connection.reason is None:
        alerts.close(db, user_id, now)
    alerts.close(db, user_id, now, quietly=True, subject=alerts.rotation_of(user_id))
    history.record(
        db,
        TokenEvent.PRIVATE_TOKEN_ENTERED if connection.is_private else event,
        at=now,
        actor=actor,
        user_id=user_id,
        state=connection.state,
        reason=connection.reason,
        detail="; ".join(filter(None, (detail, token.remark))),
        versions=(row.version if row else None, values["token_version"]),
        trace_id=token.trace_id,
        fingerprint=vault.fingerprint(token.refresh_token) if token.refresh_token else None,
    )


def standing(
    location_id: str | None, scope: str | None
) -> tuple[ConnectionState, FailureClass | None]:
    """The state that a grant's location and scopes allow, and why it is not CONNECTED."""
    if missing_scopes(scope):
        return ConnectionState.NEEDS_RECONNECT, FailureClass.SCOPE_MISSING
    if location_id is None:
        return ConnectionState.NEEDS_RECONNECT, FailureClass.NO_LOCATION
    return ConnectionState.CONNECTED, None


def lock(db: sa.Connection, user_id: UUID) -> sa.CursorResult[Any]:
    """Lock the user, after waiting for other changes. Adding rows that refer to the user does not
    wait."""
    return db.execute(
        sa.select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True)
    )


def choose_location(db: sa.Connection, row: TokenRow, location_id: str, *, actor: Actor) -> bool:
    """Select a location of the agency whose grant the row holds; False if the row has changed."""
    lacking = missing_scopes(row.connection.scope)
    state = ConnectionState.NEEDS_RECONNECT if lacking else ConnectionState.CONNECTED
    reason = FailureClass.SCOPE_MISSING if lacking else None
    user_id = row.connection.user.id
    lock(db, user_id)
    chosen = db.execute(
        sa.update(api_keys)
        .where(
            api_keys.c.id == row.id,
            api_keys.c.token_version == row.version,
            api_keys.c.lease_id.is_(None),
        )
        .values(
            {
                **settled(row, state, reason),
                "location_id": location_id,
                "location_name": None,
                "location_timezone": None,
                "location_access_token": None,
                "location_token_expires_at": None,
                "updated_at": row.now,
            }
        )
    )
    if chosen.rowcount != 1:
        return False
    _move_unfinished_days(db, user_id, location_id)
    if reason is None:
        alerts.close(db, user_id, row.now)
    history.record(
        db,
        TokenEvent.LOCATION_CHOSEN,
        at=row.now,
        actor=actor,
        user_id=user_id,
        state=state,
        reason=reason,
        detail=location_id,
        versions=(row.version, row.version),
    )
    return True


def _move_unfinished_days(db: sa.Connection, user_id: UUID, location_id: str) -> None:
    """Make days that wait or failed at another location, or at none, wait for this one."""
    elsewhere = sa.and_(
        sync_ledger.c.user_id == user_id,
        sync_ledger.c.location_id != location_id,
        sync_ledger.c.state.not_in([DayState.COMPLETE.value, DayState.NOT_KEPT.value]),
    )
    moved = sa.select(
        sync_ledger.c.user_id,
        sa.literal(location_id),
        sync_ledger.c.day,
        sa.literal(DayState.WAITING.value),
    )
    db.execute(
        insert(sync_ledger)
        .from_select(["user_id", "location_id", "day", "state"], moved.where(elsewhere).distinct())
        .on_conflict_do_nothing()
    )
    db.execute(sa.delete(sync_ledger).where(elsewhere))


def disconnect(
    db: sa.Connection, user_id: UUID, now: datetime, *, actor: Actor, detail: str = ""
) -> None:
    """Destroy the stored tokens; the user, the location and the calls stay (REQUIREMENTS T18)."""
    disconnected = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.user_id == user_id, api_keys.c.service == SERVICE)
        .values(
            access_token=None,
            refresh_token=None,
            location_access_token=None,
            token_expires_at=None,
            location_token_expires_at=None,
            is_active=False,
            connection_state=ConnectionState.DISCONNECTED.value,
            connection_reason=None,
            connection_since=now,
            next_attempt_at=None,
            token_version=api_keys.c.token_version + 1,
            lease_id=None,
            lease_started_at=None,
            lease_expires_at=None,
            refresh_replayed=False,
            refresh_at=None,
            failed_attempts=0,
            last_failure=None,
            tokens_mark=mark(None, None),
            updated_at=now,
        )
    )
    for subject in (None, alerts.rotation_of(user_id)):
        alerts.close(db, user_id, now, quietly=True, subject=subject)
    if disconnected.rowcount:
        history.record(
            db,
            TokenEvent.DISCONNECTED,
            at=now,
            actor=actor,
            user_id=user_id,
            state=ConnectionState.DISCONNECTED,
            detail=detail,
        )

"""Rows that hold tokens, and every change to one: leases, rotations, connecting, disconnecting.

Tokens pass through here encrypted; when to refresh is decided in ``tokens.py``. A lease
(``lease_id``) is taken before a token POST and committed, so it is mutual exclusion and the journal
of the exchange at once (decision 4). Who lost it ends nothing; a new pair is taken from whoever
brings it, as long as its generation is still the stored one. Every change writes its event
(``history``) and whether somebody is to be told (``alerts``) in the same transaction.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
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
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.tables import api_keys, sync_ledger, users

ATTENTION_AFTER: Final = 12
"""Renewals that may fail in a row before somebody is told: two hours, at one in ten minutes."""

LIFELESS_REST: Final = timedelta(minutes=10)
"""How long a pair is used that was granted with no lifetime, before it is refreshed again."""

ENDING_SOON: Final = timedelta(days=30)
"""How long before a refresh token dies unused somebody is told (REQUIREMENTS T14)."""


@dataclass(frozen=True)
class TokenRow:
    """The part of an ``api_keys`` row that the token lifecycle turns on, decrypted on demand.

    Attributes:
        now: the moment of reading: the database's clock, or the caller's.
        stored_state: the column as it is; None in a row of the source system.
        replayed: the exchange in doubt has been repeated already.
        rows: the user's rows at that moment, as in a ``Stamp``.
    """

    id: UUID
    connection: Connection
    version: int
    stored_state: str | None
    lease_id: UUID | None
    lease_expires_at: datetime | None
    replayed: bool
    location_token_expires_at: datetime | None
    now: datetime
    rows: str | None
    _stored: dict[str, str | None] = field(repr=False)

    @property
    def is_lifeless(self) -> bool:
        """The pair was granted within the last minutes with a lifetime that was over at once. Only
        the API can tell whether it works, and a refresh for every use would be a loop."""
        granted_at, ends_at = self.connection.refreshed_at, self.connection.token_expires_at
        return (
            granted_at is not None
            and ends_at is not None
            and ends_at <= granted_at
            and self.now < granted_at + LIFELESS_REST
        )

    def token(self, vault: TokenVault, column: str) -> Secret | None:
        """The token in ``column``, or None.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        stored = self._stored[column]
        return vault.decrypt(stored, column, self.connection.user.id) if stored else None


_TOKEN_COLUMNS = ("access_token", "refresh_token", "location_access_token")


_ROWS: Final = "string_agg(id::text || ' ' || xmin::text, ',' ORDER BY id)"


def _reading(now: datetime | None) -> sa.Select[Any]:
    rows = f"(SELECT {_ROWS} FROM api_keys WHERE user_id = users.id AND service = '{SERVICE}')"  # noqa: S608
    of_user = connections.as_of(now).where(users.c.id == sa.bindparam("user"))
    return of_user.add_columns(sa.literal_column(rows, sa.Text).label("rows"))


_READING: Final = _reading(None)
"""Every run asks it for every location, and building it takes longer than asking it."""


def read(db: sa.Connection, user_id: UUID, now: datetime | None) -> TokenRow | None:
    """The current row of a user; None if the user never connected or does not exist."""
    query = _READING if now is None else _reading(now)
    row = db.execute(query, {"user": user_id}).mappings().one_or_none()
    if row is None or row["id"] is None:
        return None
    return TokenRow(
        id=row["id"],
        connection=connections.connection_of(row),
        version=row["token_version"],
        stored_state=row["connection_state"],
        lease_id=row["lease_id"],
        lease_expires_at=row["lease_expires_at"],
        replayed=row["refresh_replayed"],
        location_token_expires_at=row["location_token_expires_at"],
        now=row["read_at"].astimezone(UTC),
        rows=row["rows"],
        _stored={column: row[column] for column in _TOKEN_COLUMNS},
    )


@dataclass(frozen=True)
class Stamp:
    """Tells whether anything about a user's tokens has changed since it was read before.

    Attributes:
        rows: which rows, in which version; equal means untouched.
        expires_at: the first expiry of a token in use there (UTC); None if there is none.
        now: the database's clock.
    """

    rows: str | None
    expires_at: datetime | None
    now: datetime


def stamp(db: sa.Connection, user_id: UUID) -> Stamp:
    """The stamp of a user's rows, at a fraction of the cost of ``read``: every request needs it."""
    row = db.execute(_STAMP, {"user": user_id, "service": SERVICE}).one()
    return Stamp(row.rows, row.expires_at, row.now)


_STAMP: Final = sa.text(
    f"SELECT {_ROWS} AS rows, "  # noqa: S608 - our own names
    "min(CASE user_type WHEN 'Company' THEN location_token_expires_at ELSE token_expires_at END) "
    "FILTER (WHERE is_active IS NOT FALSE) AS expires_at, clock_timestamp() AS now "
    "FROM api_keys WHERE user_id = :user AND service = :service"
)


def take_lease(db: sa.Connection, row: TokenRow, ttl: timedelta) -> UUID | None:
    """Become the one who may POST for this token version; None if somebody else is.

    A lease that ran out without a result is taken over once, as the replay.
    """
    lease = uuid4()
    free = sa.and_(
        api_keys.c.lease_id.is_(None),
        api_keys.c.token_version == row.version,
        # Somebody may have learnt meanwhile that this very token is revoked.
        api_keys.c.connection_state.is_not_distinct_from(row.stored_state),
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

    Compares the generation, not the lease: a pair that arrives late, when its lease has run out or
    a replay has been refused, is still the only one that works. False if a newer generation, a
    reconnection or a disconnection came first.

    What the answer left out (refresh token, scope, location) stays as it is stored.

    Args:
        started_at: when the POST began (UTC); the expiry counts from here.
        refresh_at: when the next renewal is due (UTC).
    """
    user_id = row.connection.user.id
    lacking = missing_scopes(token.scope or row.connection.scope)
    state = ConnectionState.NEEDS_RECONNECT if lacking else ConnectionState.CONNECTED
    reason = FailureClass.SCOPE_MISSING if lacking else None
    if not lacking and not row.connection.location_id:
        state, reason = ConnectionState.NEEDS_RECONNECT, FailureClass.NO_LOCATION
    values: dict[str, Any] = {
        "access_token": vault.seal(token.access_token, "access_token", user_id),
        "token_expires_at": started_at + token.life(started_at),
        "token_version": api_keys.c.token_version + 1,
        "updated_at": row.now,
        "refreshed_at": started_at,
        "refresh_at": refresh_at,
        # A location token was minted from the pair that is now spent.
        "location_access_token": None,
        "location_token_expires_at": None,
        "failed_attempts": 0,
        "last_failure": None,
        **_settled(row, state, reason),
    }
    if token.refresh_token:
        values["refresh_token"] = vault.encrypt(token.refresh_token, "refresh_token", user_id)
    optional = {"scope": token.scope, "company_id": token.company_id, "user_type": token.user_type}
    values |= {name: value for name, value in optional.items() if value}
    saved = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.token_version == row.version)
        .values(values)
    )
    if saved.rowcount != 1:
        return False
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
    """End an exchange without new tokens, keeping the stored ones; False if it is not ours to end.

    Compares the lease, or without one the token version, so that a loser never harms the winner.

    Args:
        failure: why a renewal failed.
        counts: it failed for a passing reason; such failures are counted until one succeeds.
        detail: facts for the history.
    """
    mine = api_keys.c.lease_id == lease if lease else api_keys.c.lease_id.is_(None)
    values = _settled(row, state, reason, next_attempt_at)
    if counts and failure is not None:
        values |= {
            "failed_attempts": api_keys.c.failed_attempts + 1,
            "last_failure": failure.value,
        }
    changed = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.token_version == row.version, mine)
        .values(values)
        .returning(api_keys.c.failed_attempts)
    ).one_or_none()
    if changed is None:
        return False
    stubborn = failure if counts and changed.failed_attempts >= ATTENTION_AFTER else None
    if problem := _problem(row, state, reason) or stubborn:
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
    """Journal that nobody knows what became of the exchange: the lease stays, already run out, for
    the one replay.

    False if the lease is no longer ours.

    Args:
        lost: no answer came; False if a replay was answered, but with nothing that tells.
        counts: it was an attempt; False if the replay was not sent.
        next_attempt_at: before this it is left alone (UTC).
    """
    same = row.connection.state is ConnectionState.IN_DOUBT
    left = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.lease_id == lease)
        .values(
            connection_state=ConnectionState.IN_DOUBT.value,
            connection_reason=FailureClass.IN_DOUBT.value,
            connection_since=row.connection.since if same else row.now,
            lease_expires_at=row.now,
            refresh_replayed=lost and row.lease_id is not None,
            next_attempt_at=next_attempt_at,
            failed_attempts=api_keys.c.failed_attempts + int(counts),
            last_failure=failure.value,
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
    """What somebody is to be told about a state; a pause is the agency's own doing until it begins
    to cost the refresh token."""
    if state is ConnectionState.NEEDS_RECONNECT:
        return reason or FailureClass.REFRESH_REJECTED
    ends_at = row.connection.refresh_token_ends_at
    is_ending = ends_at is not None and ends_at - row.now <= ENDING_SOON
    return reason if state is ConnectionState.PAUSED and is_ending else None


def _settled(
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
        "is_active": state in (ConnectionState.CONNECTED, ConnectionState.PAUSED),
        "lease_id": None,
        "lease_started_at": None,
        "lease_expires_at": None,
        "refresh_replayed": False,
    }


def save_location_token(
    db: sa.Connection, row: TokenRow, token: OAuthToken, vault: TokenVault, *, actor: Actor
) -> bool:
    """Keep a minted location token; False if the pair it came from, or the location, has been
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
            location_access_token=vault.seal(token.access_token, "location_access_token", user_id),
            location_token_expires_at=row.now + token.life(row.now),
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


# Connecting --------------------------------------------------------------------------------------


def save_connection(
    db: sa.Connection,
    connection: Connection,
    token: OAuthToken,
    vault: TokenVault,
    *,
    started_at: datetime,
    refresh_at: datetime,
    actor: Actor,
) -> None:
    """Connect or reconnect in one transaction: the row is replaced, an exchange in flight loses.

    Args:
        started_at: when the code's exchange began (UTC); the expiry counts from here.
        refresh_at: when the first renewal is due (UTC).

    Raises:
        LookupError: there is no such user.
    """
    user_id = connection.user.id
    found = _lock(db, user_id)
    if found.one_or_none() is None:
        raise LookupError(f"no user {user_id}")
    row = read(db, user_id, started_at)
    values: dict[str, Any] = {
        "name": "HighLevel",
        "service": SERVICE,
        "access_token": vault.seal(token.access_token, "access_token", user_id),
        "refresh_token": vault.seal(token.refresh_token, "refresh_token", user_id),
        "token_expires_at": started_at + token.life(started_at),
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
        "connection_since": started_at,
        "next_attempt_at": None,
        "is_active": connection.state is ConnectionState.CONNECTED,
        "token_version": row.version + 1 if row else 1,
        "lease_id": None,
        "lease_started_at": None,
        "lease_expires_at": None,
        "refresh_replayed": False,
        "updated_at": started_at,
        "refreshed_at": started_at,
        "refresh_at": refresh_at,
        "failed_attempts": 0,
        "last_failure": None,
    }
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
            sa.insert(api_keys).values(id=uuid4(), user_id=user_id, created_at=started_at, **values)
        )
    if connection.location_id:
        _move_unfinished_days(db, user_id, connection.location_id)
    if connection.reason is None:
        alerts.close(db, user_id, started_at)
    history.record(
        db,
        TokenEvent.CONNECTED,
        at=started_at,
        actor=actor,
        user_id=user_id,
        state=connection.state,
        reason=connection.reason,
        detail=token.remark,
        versions=(row.version if row else None, values["token_version"]),
        trace_id=token.trace_id,
        fingerprint=vault.fingerprint(token.refresh_token) if token.refresh_token else None,
    )


def _lock(db: sa.Connection, user_id: UUID) -> sa.CursorResult[Any]:
    """Wait for others who change this user; whoever only refers to the user does not wait."""
    return db.execute(
        sa.select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True)
    )


def choose_location(db: sa.Connection, row: TokenRow, location_id: str, *, actor: Actor) -> bool:
    """Use a location of the agency whose grant the row holds; False if the row has changed."""
    lacking = missing_scopes(row.connection.scope)
    state = ConnectionState.NEEDS_RECONNECT if lacking else ConnectionState.CONNECTED
    reason = FailureClass.SCOPE_MISSING if lacking else None
    user_id = row.connection.user.id
    _lock(db, user_id)
    chosen = db.execute(
        sa.update(api_keys)
        .where(
            api_keys.c.id == row.id,
            api_keys.c.token_version == row.version,
            api_keys.c.lease_id.is_(None),
        )
        .values(
            {
                **_settled(row, state, reason),
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
    """Days that waited or failed at no location, or at another one, now wait for this one."""
    elsewhere = sa.and_(
        sync_ledger.c.user_id == user_id,
        sync_ledger.c.location_id != location_id,
        sync_ledger.c.state != DayState.COMPLETE.value,
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


def disconnect(db: sa.Connection, user_id: UUID, now: datetime, *, actor: Actor) -> None:
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
            updated_at=now,
        )
    )
    alerts.close(db, user_id, now, quietly=True)
    if disconnected.rowcount:
        history.record(
            db,
            TokenEvent.DISCONNECTED,
            at=now,
            actor=actor,
            user_id=user_id,
            state=ConnectionState.DISCONNECTED,
        )

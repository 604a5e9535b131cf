"""Users and their connections: who there is, how each stands, and every change to an ``api_keys``
row. Tokens pass through here encrypted; when to refresh is decided in ``tokens.py``.

A lease (``lease_id``) is taken before a token POST and committed, so it is mutual exclusion and the
journal of the exchange at once (DESIGN 4). Every write afterwards compares it: who lost the lease
changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.models import (
    SERVICE,
    Connection,
    ConnectionState,
    DayState,
    FailureClass,
    OAuthToken,
    Secret,
    User,
)
from voiceai_pipeline.storage.tables import api_keys, sync_ledger, users
from voiceai_pipeline.storage.vault import TokenVault

_CURRENT = (
    sa.select(api_keys)
    .where(api_keys.c.user_id == users.c.id, api_keys.c.service == SERVICE)
    # The source system has no unique key here: a reconnect can leave older rows behind.
    .order_by(
        sa.func.coalesce(api_keys.c.is_active, sa.false()).desc(),
        api_keys.c.updated_at.desc().nulls_last(),
        api_keys.c.created_at.desc().nulls_last(),
        # Never two rows for two readers: a lease is on a row.
        api_keys.c.id,
    )
    .limit(1)
    .correlate(users)
    .lateral("k")
)

_STATE = sa.case(
    (_CURRENT.c.id.is_(None), ConnectionState.NEVER_CONNECTED.value),
    (_CURRENT.c.connection_state.is_not(None), _CURRENT.c.connection_state),
    # Rows that the source system wrote have no state yet.
    (_CURRENT.c.is_active.is_not(True), ConnectionState.DISCONNECTED.value),
    (
        sa.and_(_CURRENT.c.refresh_token.is_(None), _CURRENT.c.access_token.is_(None)),
        ConnectionState.DISCONNECTED.value,
    ),
    else_=ConnectionState.CONNECTED.value,
)

NAME = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""),
    sa.func.nullif(
        sa.func.btrim(sa.func.concat_ws(" ", users.c.first_name, users.c.last_name)), ""
    ),
    sa.cast(users.c.id, sa.Text),
)
"""How people know a user: the business, else the person, else the id."""

_EVERYONE = (
    sa.select(users.c.id.label("user"), NAME.label("user_name"), _STATE.label("state"), _CURRENT)
    .select_from(users.outerjoin(_CURRENT, sa.true()))
    .order_by(NAME, users.c.id)
)


def everyone(db: sa.Connection, user_ids: Sequence[UUID] | None = None) -> list[Connection]:
    """Every user with their connection, by name, whatever its state; or those of ``user_ids``."""
    query = _EVERYONE if user_ids is None else _EVERYONE.where(users.c.id.in_(user_ids))
    return [_connection(row) for row in db.execute(query).mappings()]


def one(db: sa.Connection, user_id: UUID) -> Connection | None:
    """A user's connection; None if there is no such user."""
    return next(iter(everyone(db, [user_id])), None)


def by_location(people: Iterable[Connection]) -> dict[str, list[Connection]]:
    """Those who can be synced, by location: who shares one shares its calls."""
    places: defaultdict[str, list[Connection]] = defaultdict(list)
    for person in people:
        if person.can_sync and person.location_id:
            places[person.location_id].append(person)
    return dict(places)


def _connection(row: sa.RowMapping) -> Connection:
    return Connection(
        user=User(row["user"], row["user_name"]),
        state=ConnectionState(row["state"]),
        reason=FailureClass.stored(row["connection_reason"]),
        since=row["connection_since"] or row["updated_at"],
        location_id=row["location_id"] or None,
        location_name=row["location_name"],
        location_timezone=row["location_timezone"],
        company_id=row["company_id"],
        user_type=row["user_type"],
        scope=row["scope"],
        token_expires_at=row["token_expires_at"],
        token_version=row["token_version"] or 0,
        next_attempt_at=row["next_attempt_at"],
    )


def add_user(
    db: sa.Connection,
    user_id: UUID,
    *,
    business_name: str,
    first_name: str = "",
    last_name: str = "",
) -> None:
    """Add a user who is not there yet; one who is stays as they are."""
    db.execute(
        sa.text(
            "INSERT INTO users (id, first_name, last_name, business_name) "
            "VALUES (:id, :first, :last, :business) ON CONFLICT (id) DO NOTHING"
        ),
        {"id": user_id, "first": first_name, "last": last_name, "business": business_name},
    )  # fmt: skip


# Tokens ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenRow:
    """The part of an ``api_keys`` row that the token lifecycle turns on, decrypted on demand.

    Attributes:
        now: the moment of reading: the database's clock, or the caller's.
        stored_state: the column as it is; None in a row of the source system.
        replayed: the exchange in doubt has been repeated already.
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
    _stored: dict[str, str | None] = field(repr=False)

    def token(self, vault: TokenVault, column: str) -> Secret | None:
        """The token in ``column``, or None.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        stored = self._stored[column]
        return vault.decrypt(stored, column, self.connection.user.id) if stored else None


_TOKEN_COLUMNS = ("access_token", "refresh_token", "location_access_token")


def token_row(db: sa.Connection, user_id: UUID, now: datetime | None) -> TokenRow | None:
    """The current row of a user; None if the user never connected or does not exist."""
    clock = sa.literal(now, api_keys.c.updated_at.type) if now else sa.func.clock_timestamp()
    query = _EVERYONE.add_columns(clock.label("read_at")).where(users.c.id == user_id)
    row = db.execute(query).mappings().one_or_none()
    if row is None or row["id"] is None:
        return None
    return TokenRow(
        id=row["id"],
        connection=_connection(row),
        version=row["token_version"],
        stored_state=row["connection_state"],
        lease_id=row["lease_id"],
        lease_expires_at=row["lease_expires_at"],
        replayed=row["refresh_replayed"],
        location_token_expires_at=row["location_token_expires_at"],
        now=row["read_at"].astimezone(UTC),
        _stored={column: row[column] for column in _TOKEN_COLUMNS},
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
    lease: UUID,
    token: OAuthToken,
    vault: TokenVault,
    state: ConnectionState,
    reason: FailureClass | None,
) -> bool:
    """Store a new pair in one statement; False if the lease is no longer ours.

    What the answer left out (refresh token, scope, location) stays as it is stored.
    """
    user_id = row.connection.user.id
    values: dict[str, Any] = {
        "access_token": vault.encrypt(token.access_token, "access_token", user_id),
        "token_expires_at": row.now + timedelta(seconds=token.expires_in),
        "token_version": api_keys.c.token_version + 1,
        "updated_at": row.now,
        # A location token was minted from the pair that is now spent.
        "location_access_token": None,
        "location_token_expires_at": None,
        **_settled(row, state, reason),
    }
    if token.refresh_token:
        values["refresh_token"] = vault.encrypt(token.refresh_token, "refresh_token", user_id)
    optional = {"scope": token.scope, "company_id": token.company_id, "user_type": token.user_type}
    values |= {name: value for name, value in optional.items() if value}
    saved = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.lease_id == lease)
        .values(values)
    )
    return saved.rowcount == 1


def settle(
    db: sa.Connection,
    row: TokenRow,
    lease: UUID | None,
    state: ConnectionState,
    reason: FailureClass | None = None,
    next_attempt_at: datetime | None = None,
) -> bool:
    """End an exchange without new tokens, keeping the stored ones; False if it is not ours to end.

    Compares the lease, or without one the token version, so that a loser never harms the winner.
    """
    mine = api_keys.c.lease_id == lease if lease else api_keys.c.lease_id.is_(None)
    changed = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.token_version == row.version, mine)
        .values(_settled(row, state, reason, next_attempt_at))
    )
    return changed.rowcount == 1


def leave_in_doubt(db: sa.Connection, row: TokenRow, lease: UUID, *, replayed: bool) -> bool:
    """Journal that the answer was lost: the lease stays, already run out, for the one replay.

    False if the lease is no longer ours.
    """
    left = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.lease_id == lease)
        .values(
            connection_state=ConnectionState.IN_DOUBT.value,
            connection_reason=FailureClass.IN_DOUBT.value,
            connection_since=row.now,
            lease_expires_at=row.now,
            refresh_replayed=replayed,
        )
    )
    return left.rowcount == 1


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
    db: sa.Connection, row: TokenRow, token: OAuthToken, vault: TokenVault
) -> bool:
    """Keep a minted location token; False if the pair it came from has been replaced since."""
    user_id = row.connection.user.id
    saved = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.token_version == row.version)
        .values(
            location_access_token=vault.encrypt(
                token.access_token, "location_access_token", user_id
            ),
            location_token_expires_at=row.now + timedelta(seconds=token.expires_in),
        )
    )
    return saved.rowcount == 1


# Connecting --------------------------------------------------------------------------------------


def save_connection(
    db: sa.Connection,
    connection: Connection,
    token: OAuthToken,
    vault: TokenVault,
    *,
    started_at: datetime,
) -> None:
    """Connect or reconnect in one transaction: the row is replaced, an exchange in flight loses.

    Raises:
        LookupError: there is no such user.
    """
    user_id = connection.user.id
    found = db.execute(sa.select(users.c.id).where(users.c.id == user_id).with_for_update())
    if found.one_or_none() is None:
        raise LookupError(f"no user {user_id}")
    row = token_row(db, user_id, started_at)
    values: dict[str, Any] = {
        "name": "HighLevel",
        "service": SERVICE,
        "access_token": vault.encrypt(token.access_token, "access_token", user_id),
        "refresh_token": vault.encrypt(token.refresh_token, "refresh_token", user_id)
        if token.refresh_token
        else None,
        "token_expires_at": started_at + timedelta(seconds=token.expires_in),
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


def name_location(db: sa.Connection, user_id: UUID, name: str | None, timezone: str | None) -> None:
    """Keep the name and IANA time zone of the connected location where they are known."""
    values = {"location_name": name, "location_timezone": timezone}
    known = {column: value for column, value in values.items() if value}
    if known:
        db.execute(
            sa.update(api_keys)
            .where(api_keys.c.user_id == user_id, api_keys.c.service == SERVICE)
            .values(known)
        )


def disconnect(db: sa.Connection, user_id: UUID, now: datetime) -> None:
    """Destroy the stored tokens; the user, the location and the calls stay (REQUIREMENTS T18)."""
    db.execute(
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
            updated_at=now,
        )
    )


def due_for_refresh(db: sa.Connection, before: datetime, now: datetime) -> list[Connection]:
    """Connections to renew: expiring before ``before`` however long ago, in doubt, or paused long
    enough to try again."""
    expiring = sa.and_(
        _STATE.in_([ConnectionState.CONNECTED.value, ConnectionState.IN_DOUBT.value]),
        sa.or_(_CURRENT.c.token_expires_at.is_(None), _CURRENT.c.token_expires_at <= before),
    )
    resting = sa.and_(
        _STATE.in_([ConnectionState.PAUSED.value]),
        sa.or_(_CURRENT.c.next_attempt_at.is_(None), _CURRENT.c.next_attempt_at <= now),
    )
    query = _EVERYONE.where(sa.or_(expiring, resting))
    return [_connection(row) for row in db.execute(query).mappings()]

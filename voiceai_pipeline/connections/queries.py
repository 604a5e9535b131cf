"""Users and their connections: who there is, how each stands, and whose token is due.

Every user is always listed, whatever became of their row; no token passes through here. Whatever
changes a row is in ``token_store.py``.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.core.models import (
    LIVE_STATES,
    PROACTIVE_MARGIN,
    SERVICE,
    Connection,
    ConnectionState,
    FailureClass,
    User,
)
from voiceai_pipeline.database.tables import NAME, api_keys, users

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

_STORED_STATES = [
    state.value
    for state in ConnectionState
    if state
    not in (
        ConnectionState.EXPIRING,
        ConnectionState.REFRESHING,
        ConnectionState.NEVER_CONNECTED,
    )
]

_STATE = sa.case(
    (_CURRENT.c.id.is_(None), ConnectionState.NEVER_CONNECTED.value),
    (_CURRENT.c.connection_state.in_(_STORED_STATES), _CURRENT.c.connection_state),
    # Rows that the source system wrote have no state yet; a newer version may have one that this
    # one does not know, and no user vanishes for that.
    (_CURRENT.c.is_active.is_not(True), ConnectionState.DISCONNECTED.value),
    (
        sa.and_(_CURRENT.c.refresh_token.is_(None), _CURRENT.c.access_token.is_(None)),
        ConnectionState.DISCONNECTED.value,
    ),
    else_=ConnectionState.CONNECTED.value,
)

EVERYONE = (
    sa.select(users.c.id.label("user"), NAME.label("user_name"), _STATE.label("state"), _CURRENT)
    .select_from(users.outerjoin(_CURRENT, sa.true()))
    .order_by(NAME, users.c.id)
)
"""Every user (``user``, ``user_name``), the ``state`` of their connection and its row, by name."""


def everyone(
    db: sa.Connection, user_ids: Sequence[UUID] | None = None, now: datetime | None = None
) -> list[Connection]:
    """Every user with their connection, by name, whatever its state; or those of ``user_ids``.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.
    """
    query = as_of(now)
    if user_ids is not None:
        query = query.where(users.c.id.in_(user_ids))
    return [connection_of(row) for row in db.execute(query).mappings()]


def one(db: sa.Connection, user_id: UUID, now: datetime | None = None) -> Connection | None:
    """A user's connection; None if there is no such user."""
    return next(iter(everyone(db, [user_id], now)), None)


def as_of(now: datetime | None) -> sa.Select[Any]:
    """Every user and their ``api_keys`` row, read at ``now`` (UTC; None: the database's clock)."""
    clock = sa.literal(now, api_keys.c.updated_at.type) if now else sa.func.clock_timestamp()
    return EVERYONE.add_columns(clock.label("read_at"))


def by_location(people: Iterable[Connection]) -> dict[str, list[Connection]]:
    """Those who can be synced, by location: who shares one shares its calls."""
    places: defaultdict[str, list[Connection]] = defaultdict(list)
    for person in people:
        if person.can_sync and person.location_id:
            places[person.location_id].append(person)
    return dict(places)


def connection_of(row: sa.RowMapping) -> Connection:
    """The connection in a row of ``as_of``."""
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
        refreshed_at=row["refreshed_at"],
        refresh_at=row["refresh_at"],
        failed_attempts=row["failed_attempts"] or 0,
        last_failure=FailureClass.stored(row["last_failure"]),
        lease_expires_at=row["lease_expires_at"],
        read_at=row["read_at"].astimezone(UTC),
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


def name_location(
    db: sa.Connection, location_id: str, name: str | None, timezone: str | None
) -> None:
    """Keep the name and IANA time zone of a location, where they are known, for all its users."""
    values = {"location_name": name, "location_timezone": timezone}
    known = {column: value for column, value in values.items() if value}
    if known:
        db.execute(
            sa.update(api_keys)
            .where(api_keys.c.location_id == location_id, api_keys.c.service == SERVICE)
            .values(known)
        )


def due_for_refresh(db: sa.Connection, now: datetime) -> list[Connection]:
    """Connections to renew now: planned for now or earlier, however long ago they expired; in
    doubt, also because whoever renewed them is gone; or paused. Each only after its rest."""
    planned = sa.func.coalesce(
        _CURRENT.c.refresh_at,
        _CURRENT.c.token_expires_at - sa.literal(PROACTIVE_MARGIN, sa.Interval()),
    )
    is_due = sa.or_(
        _STATE.in_([ConnectionState.PAUSED.value]),
        planned.is_(None),
        planned <= now,
        _CURRENT.c.lease_expires_at <= now,
    )
    has_rested = sa.or_(_CURRENT.c.next_attempt_at.is_(None), _CURRENT.c.next_attempt_at <= now)
    lives = _STATE.in_([state.value for state in LIVE_STATES])
    query = as_of(now).where(lives, is_due, has_rested)
    return [connection_of(row) for row in db.execute(query).mappings()]

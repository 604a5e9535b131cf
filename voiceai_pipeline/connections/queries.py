"""Users and their connections: all of them, their states, and those whose token is due.

All users are always listed, with or without a row, and no token is read here. Only users and
location names are written; ``connection_store.py`` and ``token_store.py`` write the rest.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.core.connection import (
    LIVE_STATES,
    PRIVATE,
    PROACTIVE_MARGIN,
    SERVICE,
    Connection,
    ConnectionState,
    User,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.pause import Pause
from voiceai_pipeline.database.conditions import is_one_of
from voiceai_pipeline.database.current_connections import (
    ALL_CONNECTIONS,
    CONNECTION_STATE,
    CURRENT_CONNECTION,
)
from voiceai_pipeline.database.row_security import refuse_hidden_rows
from voiceai_pipeline.database.tables import api_keys, locations, sync_pauses, users


def all_connections(
    db: sa.Connection, user_ids: Sequence[UUID] | None = None, now: datetime | None = None
) -> list[Connection]:
    """Every user, or those of ``user_ids``, with the connection in any state; sorted by name.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.

    Raises:
        PipelineError: ROWS_HIDDEN: a user may be missing from the answer.
    """
    refuse_hidden_rows(db)
    query = as_of(now)
    if user_ids is not None:
        query = query.where(is_one_of(users.c.id, user_ids))
    # Fetched all at once: row by row takes twice as long.
    return [connection_of(row) for row in db.execute(query).mappings().all()]


def user_ids(db: sa.Connection) -> set[UUID]:
    """Every user.

    Raises:
        PipelineError: ROWS_HIDDEN: a user may be missing from the answer.
    """
    refuse_hidden_rows(db)
    return set(db.execute(sa.select(users.c.id)).scalars())


def able(db: sa.Connection, among: Collection[UUID]) -> set[UUID]:
    """Those of these users who can be synced.

    Raises:
        PipelineError: ROWS_HIDDEN: a user may be missing from the answer.
    """
    refuse_hidden_rows(db)
    found = all_connections(db, list(among)) if among else []
    return {connection.user.id for connection in found if connection.can_sync}


def one(db: sa.Connection, user_id: UUID, now: datetime | None = None) -> Connection | None:
    """A user's connection; None if there is no such user."""
    return next(iter(all_connections(db, [user_id], now)), None)


def of_location(db: sa.Connection, location_id: str) -> list[Connection]:
    """The users who have, or had, a location, with their connections."""
    query = as_of(None).where(CURRENT_CONNECTION.c.location_id == location_id)
    return [connection_of(row) for row in db.execute(query).mappings()]


def as_of(now: datetime | None) -> sa.Select[Any]:
    """Every user and their ``api_keys`` row, read at ``now`` (UTC; None: the database's clock)."""
    clock = sa.literal(now, api_keys.c.updated_at.type) if now else sa.func.clock_timestamp()
    return _WITHOUT_TOKENS.add_columns(clock.label("read_at"))


_OF_A_CONNECTION: Final = (
    *("connection_reason", "connection_since", "updated_at", "location_id", "location_name"),
    *("location_timezone", "company_id", "user_type", "scope", "token_expires_at"),
    *("token_version", "next_attempt_at", "refreshed_at", "refresh_at", "failed_attempts"),
    *("last_failure", "lease_expires_at"),
)

_USER: Final = [
    ALL_CONNECTIONS.selected_columns[name]
    for name in ("user", "user_name", "state", "paused_since", "paused_by", "pause_reason")
]

_WITHOUT_TOKENS: Final = ALL_CONNECTIONS.with_only_columns(
    *_USER, *(CURRENT_CONNECTION.c[name] for name in _OF_A_CONNECTION)
)
"""Of a hundred thousand users, the tokens alone would be 100 MB."""


def to_sync(db: sa.Connection, user_ids: Sequence[UUID] | None = None) -> Iterator[Connection]:
    """As ``all_connections``, but in parts, and only with what a sync needs to know: whether calls
    can be read, and if not why. A sync of very many users holds all of them.

    Args:
        db: in a transaction.

    Raises:
        PipelineError: ROWS_HIDDEN: a user may be missing from the answer.
    """
    refuse_hidden_rows(db)
    query = _TO_SYNC if user_ids is None else _TO_SYNC.where(is_one_of(users.c.id, user_ids))
    for row in db.execute(query, execution_options={"yield_per": _AT_ONCE}):
        yield Connection(
            User(row.user, row.user_name),
            ConnectionState(row.state),
            FailureClass.stored(row.connection_reason),
            location_id=row.location_id or None,
            user_type=_one_object(row.user_type),
            scope=_one_object(row.scope),
            pause=_pause_of(row.paused_since, row.paused_by, row.pause_reason),
        )


_TO_SYNC: Final = ALL_CONNECTIONS.with_only_columns(
    *_USER,
    *(
        CURRENT_CONNECTION.c[name]
        for name in ("connection_reason", "location_id", "user_type", "scope")
    ),
)

_AT_ONCE: Final = 2_000
"""Rows of an answer that are in memory at once."""


def by_location(users: Iterable[Connection]) -> dict[str, list[Connection]]:
    """The users who can be synced, by location: users of one location share its calls."""
    shared: defaultdict[str, list[Connection]] = defaultdict(list)
    for user in users:
        if user.can_sync and user.location_id:
            shared[user.location_id].append(user)
    return dict(shared)


def connection_of(row: sa.RowMapping) -> Connection:
    """The connection in a row of ``as_of``."""
    return Connection(
        user=User(row["user"], row["user_name"]),
        state=ConnectionState(row["state"]),
        reason=FailureClass.stored(row["connection_reason"]),
        since=row["connection_since"] or row["updated_at"],
        location_id=row["location_id"] or None,
        location_name=row["location_name"],
        location_timezone=_one_object(row["location_timezone"]),
        company_id=row["company_id"],
        user_type=_one_object(row["user_type"]),
        scope=_one_object(row["scope"]),
        token_expires_at=row["token_expires_at"],
        token_version=row["token_version"] or 0,
        next_attempt_at=row["next_attempt_at"],
        refreshed_at=row["refreshed_at"],
        refresh_at=row["refresh_at"],
        failed_attempts=row["failed_attempts"] or 0,
        last_failure=FailureClass.stored(row["last_failure"]),
        lease_expires_at=row["lease_expires_at"],
        read_at=row["read_at"].astimezone(UTC),
        pause=_pause_of(row["paused_since"], row["paused_by"], row["pause_reason"]),
    )


def _pause_of(since: datetime | None, paused_by: str, reason: str) -> Pause | None:
    return Pause(since, paused_by, reason) if since else None


def _one_object(text: str | None) -> str | None:
    """The text as one object for all users, which saves 20 MB for a hundred thousand of them."""
    return None if text is None else sys.intern(text)


def add_user(
    db: sa.Connection,
    user_id: UUID,
    *,
    business_name: str,
    first_name: str = "",
    last_name: str = "",
) -> None:
    """Add a user; an existing one stays unchanged."""
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
    """Store the name and IANA time zone of a location, as far as known: for all its users, and in
    ``locations`` if it has a row there."""
    values = {"location_name": name, "location_timezone": timezone}
    known = {column: value for column, value in values.items() if value}
    if known:
        db.execute(
            sa.update(api_keys)
            .where(api_keys.c.location_id == location_id, api_keys.c.service == SERVICE)
            .values(known)
        )
        db.execute(
            sa.update(locations)
            .where(locations.c.location_id == location_id)
            .values({column.removeprefix("location_"): value for column, value in known.items()})
        )


def due_for_refresh(db: sa.Connection, now: datetime) -> list[Connection]:
    """Connections to refresh at ``now`` (UTC): their planned time has come, however long ago they
    expired; they are in doubt, also because the process that was refreshing them died; or they are
    paused. Those whose next attempt is later are left out."""
    planned = sa.func.coalesce(
        CURRENT_CONNECTION.c.refresh_at,
        CURRENT_CONNECTION.c.token_expires_at - sa.literal(PROACTIVE_MARGIN, sa.Interval()),
    )
    is_paused = CONNECTION_STATE.in_([ConnectionState.PAUSED.value])
    is_due = sa.case(
        # A private token has nothing to refresh. If HighLevel paused it, it is tested, which reads.
        (
            CURRENT_CONNECTION.c.user_type == PRIVATE,
            sa.and_(is_paused, sync_pauses.c.user_id.is_(None)),
        ),
        else_=sa.or_(
            is_paused,
            planned.is_(None),
            planned <= now,
            CURRENT_CONNECTION.c.lease_expires_at <= now,
        ),
    )
    may_retry = sa.or_(
        CURRENT_CONNECTION.c.next_attempt_at.is_(None), CURRENT_CONNECTION.c.next_attempt_at <= now
    )
    is_live = CONNECTION_STATE.in_([state.value for state in LIVE_STATES])
    query = as_of(now).where(is_live, is_due, may_retry)
    return [connection_of(row) for row in db.execute(query).mappings()]


class UnknownUserError(LookupError):
    """There is no such user."""


def stored_connection(
    engine: sa.Engine, user_id: UUID, now: Callable[[], datetime] | None = None
) -> Connection:
    """A user's connection as it is now.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.

    Raises:
        UnknownUserError: there is no such user.
    """
    with engine.begin() as db:
        connection = one(db, user_id, now() if now else None)
    if connection is None:
        raise UnknownUserError(f"no user {user_id}")
    return connection

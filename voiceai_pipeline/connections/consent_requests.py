"""``connect_requests``: pending consents. OAuth's ``state`` identifies one; it is for one user and
works once. A consent that began in HighLevel's marketplace has no state: its code identifies it,
and an operator names its user later.

Only a hash of the state is stored, so reading the table is not enough to finish a consent.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.tables import connect_requests as table

LIFE: Final = timedelta(minutes=30)
"""How long the consent on HighLevel's page may take."""

HELD: Final = timedelta(minutes=10)
"""How long a consent from the marketplace waits for an operator: its code expires then."""

MOST_HELD: Final = 200
"""Consents that may wait at once: anyone who knows the callback's address can send codes."""

MOST_OF_ADDRESS: Final = 20
"""How many of them may come from one address, unless an operator's browser brought them."""

KEPT: Final = timedelta(days=1)
"""How long a used or expired state is kept, so that a second use gets a clear answer."""


@dataclass(frozen=True)
class ConnectRequest:
    """A pending or finished consent.

    Attributes:
        key: identifies it in URLs of our pages; useless without a login.
        user_id: None for a consent from the marketplace until an operator names its user.
        location_id: the requested location of an agency; None if none was given.
        browser_bound: only the browser that started it may finish it.
        used_at: when it was finished (UTC); None while it is pending.
        address: where a consent from the marketplace came from; None: from an operator's browser.
        outcome: the result, for another process that waits for it; None while it is not known.
    """

    key: str
    user_id: UUID | None
    location_id: str | None
    browser_bound: bool
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    outcome: str | None
    address: str | None
    sealed_code: str | None = field(repr=False)


def add(
    db: sa.Connection,
    state: Secret,
    user_id: UUID,
    location_id: str | None,
    now: datetime,
    *,
    browser_bound: bool = False,
) -> None:
    """Add a consent; delete old ones."""
    db.execute(sa.delete(table).where(table.c.expires_at < now - KEPT))
    db.execute(
        sa.insert(table).values(
            state_hash=_hash(state),
            user_id=user_id,
            location_id=location_id,
            browser_bound=browser_bound,
            created_at=now,
            expires_at=now + LIFE,
        )
    )


def find(db: sa.Connection, state: Secret) -> ConnectRequest | None:
    """The consent that ``state`` identifies; None if we did not start it, or deleted it since."""
    return find_key(db, key_of(state))


def find_key(db: sa.Connection, key: str) -> ConnectRequest | None:
    """The consent with this key; None if there is none."""
    row = db.execute(sa.select(table).where(table.c.state_hash == bytes.fromhex(key))).mappings()
    found = row.one_or_none()
    return _request(found) if found else None


def _request(found: sa.RowMapping) -> ConnectRequest:
    return ConnectRequest(
        found["state_hash"].hex(),
        found["user_id"],
        found["location_id"],
        found["browser_bound"],
        found["created_at"],
        found["expires_at"],
        found["used_at"],
        found["outcome"],
        found["address"],
        found["code"],
    )


# From the marketplace -----------------------------------------------------------------------------


def key_of(secret: Secret) -> str:
    """The key of the consent with this state, or with this code if it has none."""
    return _hash(secret).hex()


def hold(db: sa.Connection, key: str, sealed_code: str, address: str | None, now: datetime) -> None:
    """Keep a consent without a state; one with the same key stays as it is.

    If too many wait, some are deleted: first the oldest of the address that has the most, last
    those that an operator's browser brought. So an address mainly displaces its own.

    Args:
        address: the sender's address; None: an operator's browser.
    """
    db.execute(sa.delete(table).where(table.c.expires_at < now - KEPT))
    db.execute(
        insert(table)
        .values(
            state_hash=bytes.fromhex(key),
            code=sealed_code,
            address=address,
            created_at=now,
            expires_at=now + HELD,
        )
        .on_conflict_do_nothing()
    )
    waiting = _ranked(now)
    keys = sa.select(waiting.c.state_hash)
    too_many = keys.where(waiting.c.rank > MOST_OF_ADDRESS)
    last = keys.order_by(*_in_order(waiting)).offset(MOST_HELD)
    db.execute(
        sa.delete(table).where(table.c.state_hash.in_(too_many) | table.c.state_hash.in_(last))
    )


def held(db: sa.Connection, now: datetime) -> list[ConnectRequest]:
    """The consents from the marketplace that wait for an operator.

    First those from operators' browsers, then the newest of each address, then the second newest of
    each, and so on: an address that sends many does not push back the others' newest.
    """
    waiting = _ranked(now)
    rows = db.execute(sa.select(waiting).order_by(*_in_order(waiting))).mappings()
    return [_request(row) for row in rows]


def _ranked(now: datetime) -> sa.Subquery:
    """The waiting consents, ranked within their address from 1, the newest; operators' have 0."""
    among_theirs = sa.func.row_number().over(
        partition_by=table.c.address, order_by=table.c.created_at.desc()
    )
    rank = sa.case((table.c.address.is_(None), 0), else_=among_theirs)
    return (
        sa.select(table, rank.label("rank"))
        .where(table.c.code.is_not(None), table.c.used_at.is_(None), table.c.expires_at > now)
        .subquery()
    )


def _in_order(waiting: sa.Subquery) -> tuple[sa.ColumnElement[Any], ...]:
    return waiting.c.rank, waiting.c.created_at.desc()


def assign(db: sa.Connection, key: str, user_id: UUID, now: datetime) -> bool:
    """Record the consent's user and mark the consent used; False if already used or expired."""
    assigned = db.execute(
        sa.update(table)
        .where(
            table.c.state_hash == bytes.fromhex(key),
            table.c.code.is_not(None),
            table.c.used_at.is_(None),
            table.c.expires_at > now,
        )
        .values(user_id=user_id, used_at=now, code=None)
    )
    return assigned.rowcount == 1


def use(db: sa.Connection, state: Secret, now: datetime) -> bool:
    """Mark the state as used; False if it is used or expired."""
    used = db.execute(
        sa.update(table)
        .where(
            table.c.state_hash == _hash(state), table.c.used_at.is_(None), table.c.expires_at > now
        )
        .values(used_at=now)
    )
    return used.rowcount == 1


def finish(db: sa.Connection, state: Secret, outcome: str) -> None:
    """Record the result of the consent with this state."""
    finish_key(db, key_of(state), outcome)


def finish_key(db: sa.Connection, key: str, outcome: str) -> None:
    """Record the result of the consent with this key."""
    of_key = table.c.state_hash == bytes.fromhex(key)
    db.execute(sa.update(table).where(of_key).values(outcome=outcome))


def _hash(state: Secret) -> bytes:
    return hashlib.sha256(state.reveal().encode()).digest()

"""``connect_requests``: pending consents. OAuth's ``state`` identifies one, for one user, once.

Only a hash of the state is stored, so reading the table is not enough to finish a consent.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.tables import connect_requests as table

LIFE: Final = timedelta(minutes=30)
"""How long the consent on HighLevel's page may take."""

KEPT: Final = timedelta(days=1)
"""How long a used or expired state is kept, so that a second use gets a clear answer."""


@dataclass(frozen=True)
class ConnectRequest:
    """A pending or finished consent.

    Attributes:
        location_id: the requested location of an agency; None if none was given.
        browser_bound: only the browser that started it may finish it.
        used_at: when it was finished (UTC); None while it is pending.
        outcome: the result, for another process that waits for it.
    """

    user_id: UUID
    location_id: str | None
    browser_bound: bool
    expires_at: datetime
    used_at: datetime | None
    outcome: str | None


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
    """The consent that ``state`` identifies; None if we did not start it, or it is days old."""
    row = db.execute(sa.select(table).where(table.c.state_hash == _hash(state))).mappings()
    found = row.one_or_none()
    if found is None:
        return None
    return ConnectRequest(
        found["user_id"],
        found["location_id"],
        found["browser_bound"],
        found["expires_at"],
        found["used_at"],
        found["outcome"],
    )


def use(db: sa.Connection, state: Secret, now: datetime) -> bool:
    """Spend the state; False if it is used or expired."""
    used = db.execute(
        sa.update(table)
        .where(
            table.c.state_hash == _hash(state), table.c.used_at.is_(None), table.c.expires_at > now
        )
        .values(used_at=now)
    )
    return used.rowcount == 1


def finish(db: sa.Connection, state: Secret, outcome: str) -> None:
    """Record the result."""
    db.execute(sa.update(table).where(table.c.state_hash == _hash(state)).values(outcome=outcome))


def _hash(state: Secret) -> bytes:
    return hashlib.sha256(state.reveal().encode()).digest()

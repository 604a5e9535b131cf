"""``location_leases``: whose turn it is to read a location, by the database's clock.

A row, not a session's lock: a pooler in transaction mode loses those, and a row says who holds it.
Each function is one statement that locks rows in one order, so two runs never wait in a circle.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.database.tables import location_leases

_TAKE: Final = sa.text(
    "INSERT INTO location_leases AS l (location_id, holder, run_id, taken_at, expires_at) "
    "SELECT p, :holder, :run_id, clock_timestamp(), clock_timestamp() + :lasting "
    "FROM unnest(:locations) AS p "
    # Not in the conflict alone: that would lock the rows of whoever is at work.
    "WHERE NOT EXISTS (SELECT FROM location_leases h "
    "                  WHERE h.location_id = p AND h.expires_at > clock_timestamp()) "
    "ORDER BY p "
    "ON CONFLICT (location_id) DO UPDATE SET holder = excluded.holder, run_id = excluded.run_id, "
    "   taken_at = excluded.taken_at, expires_at = excluded.expires_at "
    "WHERE l.expires_at <= clock_timestamp() "
    "RETURNING location_id"
).bindparams(
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("lasting", type_=sa.Interval),
)


@dataclass(frozen=True)
class Holder:
    """Who reads a location, and since when (UTC)."""

    run_id: str | None
    taken_at: datetime


def take(
    db: sa.Connection,
    locations: Collection[str],
    holder: UUID,
    run_id: str | None,
    lasting: timedelta,
) -> set[str]:
    """Take the leases that nobody holds; those that were taken."""
    values = {
        "locations": sorted(locations),
        "holder": holder,
        "run_id": run_id,
        "lasting": lasting,
    }
    return set(db.execute(_TAKE, values).scalars())


def prolong(
    db: sa.Connection, locations: Collection[str], holder: UUID, lasting: timedelta
) -> set[str]:
    """Keep leases; those that are still ours, also where they had run out unnoticed."""
    mine = _mine(locations, holder)
    until = sa.func.clock_timestamp() + sa.literal(lasting, sa.Interval())
    query = (
        sa.update(location_leases)
        .where(location_leases.c.location_id.in_(mine))
        .values(expires_at=until)
        .returning(location_leases.c.location_id)
    )
    return set(db.execute(query).scalars())


def release(db: sa.Connection, locations: Collection[str] | None, holder: UUID) -> None:
    """Let others read these locations (None: all of ours); what is another's by now stays so."""
    mine = _mine(locations, holder)
    db.execute(sa.delete(location_leases).where(location_leases.c.location_id.in_(mine)))


def holders(db: sa.Connection, locations: Collection[str]) -> dict[str, Holder]:
    """Who holds which of these locations."""
    query = sa.select(location_leases).where(location_leases.c.location_id.in_(locations))
    return {
        row["location_id"]: Holder(row["run_id"], row["taken_at"])
        for row in db.execute(query).mappings()
    }


def _mine(locations: Collection[str] | None, holder: UUID) -> sa.Select[tuple[str]]:
    mine = location_leases.c.holder == holder
    if locations is not None:
        mine &= location_leases.c.location_id.in_(locations)
    return (
        sa.select(location_leases.c.location_id)
        .where(mine)
        .order_by(location_leases.c.location_id)
        .with_for_update()
    )

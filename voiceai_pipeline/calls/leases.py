"""``location_leases``: which run may read a location, by the database's clock.

A lease is a row, not a session-level lock: a pooler in transaction mode loses such locks, and a row
names its holder. Each function is one statement that locks rows in a fixed order, so two runs
cannot deadlock.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.database.tables import location_leases

_ACQUIRE: Final = sa.text(
    "INSERT INTO location_leases AS l (location_id, holder, run_id, taken_at, expires_at) "
    "SELECT name, :holder, :run_id, clock_timestamp(), clock_timestamp() + :duration "
    "FROM unnest(:locations) AS name "
    # ON CONFLICT alone would lock the rows of runs that are reading.
    "WHERE NOT EXISTS (SELECT FROM location_leases h "
    "                  WHERE h.location_id = name AND h.expires_at > clock_timestamp()) "
    "ORDER BY name "
    "ON CONFLICT (location_id) DO UPDATE SET holder = excluded.holder, run_id = excluded.run_id, "
    "   taken_at = excluded.taken_at, expires_at = excluded.expires_at "
    "WHERE l.expires_at <= clock_timestamp() "
    "RETURNING location_id"
).bindparams(
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("duration", type_=sa.Interval),
)


@dataclass(frozen=True)
class Holder:
    """The run that holds a location's lease, and since when (UTC)."""

    run_id: str | None
    taken_at: datetime


def acquire(
    db: sa.Connection,
    locations: Collection[str],
    holder: UUID,
    run_id: str | None,
    duration: timedelta,
) -> set[str]:
    """Acquire the leases that no run holds; returns the ids of their locations."""
    values = {
        "locations": sorted(locations),
        "holder": holder,
        "run_id": run_id,
        "duration": duration,
    }
    return set(db.execute(_ACQUIRE, values).scalars())


def extend(
    db: sa.Connection, locations: Collection[str], holder: UUID, duration: timedelta
) -> set[str]:
    """Extend our leases; returns the locations whose lease is ours, even if it had expired."""
    mine = _mine(locations, holder)
    until = sa.func.clock_timestamp() + sa.literal(duration, sa.Interval())
    query = (
        sa.update(location_leases)
        .where(location_leases.c.location_id.in_(mine))
        .values(expires_at=until)
        .returning(location_leases.c.location_id)
    )
    return set(db.execute(query).scalars())


def release(db: sa.Connection, locations: Collection[str] | None, holder: UUID) -> None:
    """Release our leases of these locations (None: all of ours); those of other runs stay."""
    mine = _mine(locations, holder)
    db.execute(sa.delete(location_leases).where(location_leases.c.location_id.in_(mine)))


def holders(db: sa.Connection, locations: Collection[str]) -> dict[str, Holder]:
    """The holder of each of these locations that has a lease, by location id."""
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

"""``drifting_days``: days whose calls HighLevel counted differently than we held, and since when.

A row is written when its day is opened, stays while the same numbers come back, and goes when they
agree; so it tells whether a difference has been followed up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.database.tables import drifting_days


@dataclass(frozen=True)
class Drift:
    """A difference that was found: both numbers, and when the day was opened for it (UTC)."""

    total: int
    stored: int
    opened_at: datetime


def read(db: sa.Connection, location_id: str, day: date) -> Drift | None:
    """What was found for a day before; None if the numbers agreed last time."""
    mine = (drifting_days.c.location_id == location_id) & (drifting_days.c.day == day)
    row = db.execute(sa.select(drifting_days).where(mine)).mappings().one_or_none()
    return Drift(row["api_total"], row["stored"], row["opened_at"]) if row else None


def record(db: sa.Connection, location_id: str, day: date, found: Drift) -> None:
    """Keep what was found for a day, in place of what was found before."""
    values = {"api_total": found.total, "stored": found.stored, "opened_at": found.opened_at}
    db.execute(
        insert(drifting_days)
        .values(location_id=location_id, day=day, **values)
        .on_conflict_do_update(index_elements=["location_id", "day"], set_=values)
    )


def clear(db: sa.Connection, location_id: str, days: Sequence[date]) -> None:
    """Forget days whose numbers agree."""
    db.execute(
        sa.delete(drifting_days).where(
            drifting_days.c.location_id == location_id, drifting_days.c.day.in_(days)
        )
    )


def clear_before(db: sa.Connection, day: date) -> None:
    """Forget days that are compared no longer."""
    db.execute(sa.delete(drifting_days).where(drifting_days.c.day < day))

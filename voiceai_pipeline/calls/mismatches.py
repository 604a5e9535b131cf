"""``drifting_days``: days for which HighLevel's total differs from the calls we hold.

A row is written when its day is opened for a re-read, stays while the numbers are the same, and is
deleted when they agree. So it shows whether the day was already re-read for a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.database.tables import drifting_days


@dataclass(frozen=True)
class Mismatch:
    """HighLevel's total and our count, which differ, and when the day was opened for it (UTC)."""

    total: int
    stored: int
    opened_at: datetime


def read(db: sa.Connection, location_id: str, day: date) -> Mismatch | None:
    """A day's recorded mismatch; None if there is none."""
    mine = (drifting_days.c.location_id == location_id) & (drifting_days.c.day == day)
    row = db.execute(sa.select(drifting_days).where(mine)).mappings().one_or_none()
    return Mismatch(row["api_total"], row["stored"], row["opened_at"]) if row else None


def record(db: sa.Connection, location_id: str, day: date, found: Mismatch) -> None:
    """Record a day's mismatch; replaces an earlier one."""
    values = {"api_total": found.total, "stored": found.stored, "opened_at": found.opened_at}
    db.execute(
        insert(drifting_days)
        .values(location_id=location_id, day=day, **values)
        .on_conflict_do_update(index_elements=["location_id", "day"], set_=values)
    )


def clear(db: sa.Connection, location_id: str, days: Sequence[date]) -> None:
    """Delete the mismatches of days whose numbers agree."""
    db.execute(
        sa.delete(drifting_days).where(
            drifting_days.c.location_id == location_id, drifting_days.c.day.in_(days)
        )
    )


def clear_before(db: sa.Connection, day: date) -> None:
    """Delete the mismatches of days that are no longer compared."""
    db.execute(sa.delete(drifting_days).where(drifting_days.c.day < day))

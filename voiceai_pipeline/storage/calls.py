"""Writes a verified window of calls: what is new, what changed, what is no longer listed.

The caller owns the transaction, so calls, ledger and status commit together. Unchanged rows are not
written at all: a content hash decides (DESIGN 5, with the measured costs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.models import CallLog, SetAsideCall, Window
from voiceai_pipeline.storage.tables import call_logs, set_aside_calls

_BATCH: Final = 5_000
"""Rows per statement: memory stays flat and the cost per row no longer falls beyond it."""

MILLISECOND: Final = timedelta(milliseconds=1)
"""The unit of HighLevel's dates (CONTRACT 2.1)."""

_COLUMNS: Final = tuple(column.name for column in call_logs.columns)


@dataclass(frozen=True)
class Written:
    """What a write did: ids of new and changed calls, and when the now missing ones started."""

    new: frozenset[str]
    changed: frozenset[str]
    missing: tuple[datetime, ...]


def lock_location(db: sa.Connection, location_id: str) -> None:
    """Let one transaction at a time write a location's windows; released by its end."""
    db.execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"voiceai call_logs {location_id}"},
    )


def store_window(
    db: sa.Connection,
    location_id: str,
    window: Window,
    calls: Sequence[CallLog],
    set_aside: Sequence[SetAsideCall],
    now: datetime,
    *,
    read_at: datetime | None = None,
) -> Written:
    """Make ``call_logs`` equal to a complete, verified read of ``window``.

    Calls of the window that the read did not list get ``missing_since``; never call this with an
    incomplete read. ``now`` (UTC) stamps first_seen_at, last_changed_at and missing_since.

    Args:
        read_at: when the read began (None: now). What was written since then comes from a newer
            read and stays.
    """
    read_at = read_at or now
    new: set[str] = set()
    changed: set[str] = set()
    for start in range(0, len(calls), _BATCH):
        batch = calls[start : start + _BATCH]
        differences = _differences(db, location_id, batch, read_at)
        new |= {call_id for call_id, kind in differences.items() if kind == "new"}
        changed |= {call_id for call_id, kind in differences.items() if kind == "changed"}
        _copy(db, location_id, [call for call in batch if call.call_id in differences], now)
    _set_aside(db, location_id, set_aside, now)
    seen = [call.call_id for call in calls] + [c.call_id for c in set_aside if c.call_id]
    missing = _mark_missing(db, location_id, window, seen, read_at, now)
    return Written(frozenset(new), frozenset(changed), missing)


def stored_by_day(
    db: sa.Connection,
    location_id: str,
    windows: Mapping[date, Window],
    calls: Sequence[CallLog],
) -> dict[date, int]:
    """How many of ``calls`` the table holds for each day."""
    query = sa.text(
        "SELECT d.day, count(c.call_id) AS calls "
        "FROM unnest(CAST(:days AS date[]), CAST(:starts AS timestamptz[]), "
        "            CAST(:ends AS timestamptz[])) AS d(day, starts, ends) "
        "LEFT JOIN call_logs c ON c.location_id = :location AND c.started_at >= d.starts "
        "     AND c.started_at < d.ends AND c.call_id = ANY(CAST(:ids AS text[])) "
        "GROUP BY d.day"
    )
    rows = db.execute(
        query,
        {
            "location": location_id,
            "days": list(windows),
            "starts": [window.start for window in windows.values()],
            "ends": [window.end for window in windows.values()],
            "ids": [call.call_id for call in calls],
        },
    )
    return {row.day: row.calls for row in rows}


def held(db: sa.Connection, location_id: str, windows: Sequence[Window]) -> list[int]:
    """How many calls the table holds in each window, missing ones not counted."""
    query = sa.text(
        "SELECT count(c.call_id) FROM unnest(CAST(:starts AS timestamptz[]), "
        "            CAST(:ends AS timestamptz[])) WITH ORDINALITY AS w(starts, ends, place) "
        "LEFT JOIN call_logs c ON c.location_id = :location AND c.started_at >= w.starts "
        "     AND c.started_at < w.ends AND c.missing_since IS NULL "
        "GROUP BY w.place ORDER BY w.place"
    )
    values = {
        "location": location_id,
        "starts": [window.start for window in windows],
        "ends": [window.end for window in windows],
    }
    return list(db.execute(query, values).scalars())


def free_instant(db: sa.Connection, location_id: str, first: datetime, step: timedelta) -> datetime:
    """``first``, or the nearest instant in steps of ``step`` with no call within a millisecond.

    As a bound it is neither before nor after a call in doubt, whether it is inclusive or not.
    """
    reach = timedelta(seconds=1)
    near = (call_logs.c.started_at >= first - reach) & (call_logs.c.started_at <= first + reach)
    query = sa.select(call_logs.c.started_at).where(call_logs.c.location_id == location_id, near)
    taken = list(db.execute(query).scalars())
    while any(abs(instant - first) < MILLISECOND for instant in taken):
        first += step
    return first


def _differences(
    db: sa.Connection, location_id: str, batch: Sequence[CallLog], read_at: datetime
) -> dict[str, str]:
    """Which calls must be written, and why: new, changed, or back after they were missing."""
    query = sa.text(
        "SELECT i.call_id, CASE WHEN c.call_id IS NULL THEN 'new' "
        "       WHEN c.content_hash <> i.content_hash THEN 'changed' ELSE 'back' END AS kind "
        "FROM unnest(CAST(:ids AS text[]), CAST(:hashes AS bytea[])) AS i(call_id, content_hash) "
        "LEFT JOIN call_logs c ON c.location_id = :location AND c.call_id = i.call_id "
        "WHERE c.call_id IS NULL "
        "      OR ((c.content_hash <> i.content_hash OR c.missing_since IS NOT NULL) "
        "          AND greatest(c.last_changed_at, c.missing_since) <= :read_at)"
    )
    rows = db.execute(
        query,
        {
            "location": location_id,
            "ids": [call.call_id for call in batch],
            "hashes": [call.content_hash for call in batch],
            "read_at": read_at,
        },
    )
    return {row.call_id: row.kind for row in rows}


def _copy(db: sa.Connection, location_id: str, calls: Sequence[CallLog], now: datetime) -> None:
    """COPY into a temporary table, then one INSERT ... ON CONFLICT."""
    if not calls:
        return
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE IF NOT EXISTS incoming_calls (LIKE call_logs) ON COMMIT DROP"
    )
    db.exec_driver_sql("TRUNCATE incoming_calls")
    columns = ", ".join(_COLUMNS)
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY incoming_calls ({columns}) FROM STDIN") as copy,
    ):
        for call in calls:
            row = _row(call, location_id, now)
            copy.write_row([row[name] for name in _COLUMNS])
    updates = ", ".join(
        f"{name} = excluded.{name}"
        for name in _COLUMNS
        if name not in ("location_id", "call_id", "first_seen_at", "last_changed_at")
    )
    db.exec_driver_sql(
        f"INSERT INTO call_logs ({columns}) SELECT {columns} FROM incoming_calls "  # noqa: S608 - our own column names
        f"ON CONFLICT (location_id, call_id) DO UPDATE SET {updates}, last_changed_at = "
        "CASE WHEN call_logs.content_hash = excluded.content_hash "
        "THEN call_logs.last_changed_at ELSE excluded.last_changed_at END"
    )


def _row(call: CallLog, location_id: str, now: datetime) -> dict[str, Any]:
    return {
        "location_id": location_id,
        "call_id": call.call_id,
        "agent_id": call.agent_id,
        "contact_id": call.contact_id,
        "from_number": call.from_number,
        "started_at": call.started_at,
        "duration_seconds": call.duration_seconds,
        "is_trial": call.is_trial,
        "is_agent_deleted": call.is_agent_deleted,
        "summary": call.summary,
        "transcript": call.transcript,
        "executed_call_actions": Jsonb(call.executed_call_actions),
        "extracted_data": None if call.extracted_data is None else Jsonb(call.extracted_data),
        "translation": None if call.translation is None else Jsonb(call.translation),
        "message_id": call.message_id,
        "raw": Jsonb(call.raw),
        "content_hash": call.content_hash,
        "first_seen_at": now,
        "last_changed_at": now,
        "missing_since": None,
    }


def _set_aside(
    db: sa.Connection, location_id: str, calls: Sequence[SetAsideCall], now: datetime
) -> None:
    for call in calls:
        db.execute(
            insert(set_aside_calls)
            .values(
                location_id=location_id,
                content_hash=call.content_hash,
                reason=call.reason,
                raw=call.raw,
                started_at=call.started_at,
                first_seen_at=now,
                last_seen_at=now,
            )
            .on_conflict_do_update(
                index_elements=["location_id", "content_hash"], set_={"last_seen_at": now}
            )
        )


def _mark_missing(
    db: sa.Connection,
    location_id: str,
    window: Window,
    seen: list[str],
    read_at: datetime,
    now: datetime,
) -> tuple[datetime, ...]:
    rows = db.execute(
        sa.text(
            "UPDATE call_logs SET missing_since = :now "
            "WHERE location_id = :location AND started_at >= :start AND started_at < :end "
            "AND missing_since IS NULL AND last_changed_at <= :read_at "
            "AND NOT EXISTS (SELECT FROM unnest(CAST(:seen AS text[])) AS s(call_id) "
            "                WHERE s.call_id = call_logs.call_id) "
            "RETURNING started_at"
        ),
        {
            "location": location_id,
            "start": window.start,
            "end": window.end,
            "seen": seen,
            "read_at": read_at,
            "now": now,
        },
    )
    return tuple(rows.scalars())

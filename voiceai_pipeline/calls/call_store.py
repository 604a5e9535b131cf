"""``call_logs`` and ``set_aside_calls``: writes verified windows, and counts stored calls.

The caller owns the transaction, so calls, ledger and status commit together. Unchanged rows are not
written at all: a content hash decides (decision 10, with its cost). ``intake`` prepares the rows of
a window.
"""

import io
import json
from collections.abc import Iterable, Sequence
from copy import copy as copy_of
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import IO, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls.intake import (
    COPIED,
    Intake,
    listed_of,
    listed_row,
    row_id,
    temporary_file,
)
from voiceai_pipeline.core.call import SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.database.copy_format import (
    JSONB_VERSION,
    copy,
    framed,
    read_rows,
    row,
    text,
    timestamptz,
)
from voiceai_pipeline.database.engine import is_of_data
from voiceai_pipeline.database.tables import call_logs

MILLISECOND: Final = timedelta(milliseconds=1)
"""The unit of HighLevel's dates (CONTRACT 2.1)."""


@dataclass(frozen=True)
class Written:
    """What a write did: numbers of calls, one for each part of the window.

    Attributes:
        stored: listed calls that the table holds, as listed or as a newer read wrote them.
        missing: calls that this write marked as missing, since they are no longer listed.
    """

    stored: list[int]
    new: list[int]
    changed: list[int]
    missing: list[int]


def lock_locations(db: sa.Connection, location_ids: Iterable[str]) -> None:
    """Lock these locations until the transaction ends; others that lock them wait."""
    # Always in the same order, so that two transactions cannot deadlock.
    db.execute(_LOCK, {"names": [f"voiceai call_logs {one}" for one in sorted(location_ids)]})


_LOCK: Final = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(:names) AS name"
).bindparams(sa.bindparam("names", type_=ARRAY(sa.Text)))


def store(db: sa.Connection, intakes: Sequence[Intake], now: datetime) -> list[Written]:
    """Make ``call_logs`` equal to complete, verified reads. Lock their locations first.

    Calls of a window that its read did not list get ``missing_since``.

    Args:
        intakes: finished, at most one of each location.
        now: becomes first_seen_at, last_changed_at and missing_since (UTC).

    Raises:
        PipelineError: INCOMPLETE, if a read lists a call twice. The caller must roll back.
    """
    plain = [intake for intake in intakes if intake.is_plain]
    appended = set(plain) if _append(db, plain, now) else {it for it in plain if not it.has_rows}
    # The table holds every call of these reads, so equal counts mean that it holds nothing else.
    # If a newer read was stored in between, the table is right in any case.
    settled = [intake for intake in plain if intake in appended]
    parts = [part for intake in settled for part in intake.parts]
    counts = iter(count(db, parts) if parts else ())
    right = {one for one in settled if list(islice(counts, len(one.listed))) == one.listed}
    none = {one: [0] * len(one.starts) for one in intakes}
    return [
        Written(one.listed, one.new, none[one], none[one])
        if one in right
        else _compare(db, one, now, one.new, none[one])
        if one in appended
        else _write(db, one, now)
        for one in intakes
    ]


def _values(intake: Intake, now: datetime) -> dict[str, Any]:
    return {
        "location": intake.location_id,
        "starts": list(intake.starts),
        "read_at": intake.read_at,
        "start": intake.starts[0],
        "end": intake.window_end,
        "now": now,
    }


def _write(db: sa.Connection, intake: Intake, now: datetime) -> Written:
    _write_set_aside(db, intake.location_id, intake.set_aside, now)
    return _compare(db, intake, now, *_write_rows(db, intake, now))


def _compare(
    db: sa.Connection, intake: Intake, now: datetime, new: list[int], changed: list[int]
) -> Written:
    """Mark stored calls that HighLevel no longer lists as missing; count listed calls we hold."""
    values = _values(intake, now)
    aside: list[tuple[str, bytes | None]] = [
        (call.call_id, None) for call in intake.set_aside if call.call_id
    ]
    listed, known = _listing(db, intake, aside)
    missing = _by_part(db, _MARK_MISSING.format(listed=listed), values | known)
    stored = _by_part(db, _STORED.format(listed=listed), values | known)
    return Written(stored, new, changed, missing)


def _write_rows(db: sa.Connection, intake: Intake, now: datetime) -> tuple[list[int], list[int]]:
    """Write the calls of an intake; returns the numbers of new and changed calls, by part."""
    nothing, values = [0] * len(intake.starts), _values(intake, now)
    if not intake.has_rows:
        return nothing, nothing
    if intake.are_all_new and _append(db, [intake], now):
        return intake.new, nothing
    columns = ", ".join(COPIED)
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE incoming_calls ON COMMIT DROP AS "  # noqa: S608 - our own names
        f"SELECT {columns} FROM call_logs WITH NO DATA"
    )
    copy(db, "incoming_calls", COPIED, [(intake.rows, {})])
    new = _by_part(db, _NEW, values)
    changed = _by_part(db, _CHANGED, values)
    try:
        db.execute(_UPSERT, values)
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _TWICE:
            raise
        raise PipelineError(FailureClass.INCOMPLETE, "a call was listed twice") from None
    return new, changed


def refused(db: sa.Connection, intake: Intake, now: datetime) -> dict[str, str]:
    """The calls of an intake that the database cannot store: the SQLSTATE of each, by call id.

    Found by bisection; each attempt runs in a savepoint that is rolled back.
    """
    found: dict[str, str] = {}
    rows = read_rows(intake.rows)
    while batch := list(islice(rows, _TRIED_AT_ONCE)):
        pending = [batch]
        while pending:
            part = pending.pop()
            state = _try(db, intake, part, now)
            if state and len(part) == 1:
                found[row_id(part[0])] = state
            elif state:
                middle = len(part) // 2
                pending += [part[:middle], part[middle:]]
    return found


def _try(db: sa.Connection, intake: Intake, rows: Sequence[bytes], now: datetime) -> str:
    """The SQLSTATE with which the database refuses these rows; empty if it takes them."""
    part = copy_of(intake)
    with io.BytesIO(b"".join(map(framed, rows))) as part.rows:
        part.rows.seek(0, io.SEEK_END)
        part.are_all_new = False
        savepoint = db.begin_nested()
        try:
            _write_rows(db, part, now)
        except sa.exc.DBAPIError as error:
            if not is_of_data(error):
                raise
            return getattr(error.orig, "sqlstate", None) or "unknown"
        finally:
            savepoint.rollback()
    return ""


_TRIED_AT_ONCE: Final = 5_000


def _append(db: sa.Connection, intakes: Sequence[Intake], now: datetime) -> bool:
    """Write calls that are all new with one COPY, at half the cost of an upsert. Returns False and
    writes nothing if one is not new: marked missing, stored under another time, or listed twice."""
    times = {"first_seen_at": timestamptz(now), "last_changed_at": timestamptz(now)}
    parts = [
        (intake.rows, {"location_id": intake.location_id.encode(), **times})
        for intake in intakes
        if intake.has_rows
    ]
    if not parts:
        return True
    try:
        with db.begin_nested():
            copy(db, "call_logs", COPIED, parts, ("location_id", *times))
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _ALREADY_THERE:
            raise
        return False
    return True


def _listing(
    db: sa.Connection, intake: Intake, aside: list[tuple[str, bytes | None]]
) -> tuple[str, dict[str, Any]]:
    """SQL for a relation (call_id, content_hash) of all listed calls, and the values it binds.

    Args:
        aside: listed calls that were set aside. They have no hash, and are not missing.
    """
    rest = intake.unchanged_rest + aside
    written = map(listed_of, read_rows(intake.rows))
    if not intake.unchanged_rows.tell() and sum(intake.listed) <= _FEW:
        rest += written
        hashes = [content_hash and content_hash.hex() for _, content_hash in rest]
        ids = [call_id for call_id, _ in rest]
        return _LISTED_HERE, {"ids": json.dumps(ids), "hashes": json.dumps(hashes)}
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE listed_calls (call_id text, content_hash bytea) ON COMMIT DROP"
    )
    with temporary_file() as rows:
        rows.writelines(map(listed_row, chain(rest, written)))
        parts: list[tuple[IO[bytes], dict[str, bytes]]] = [(intake.unchanged_rows, {}), (rows, {})]
        copy(db, "listed_calls", ("call_id", "content_hash"), parts)
    return "listed_calls", {}


_FEW: Final = 300
"""Listed calls up to which a temporary table would cost more than their ids in the statement."""


_NEWER: Final = "greatest(c.last_changed_at, c.missing_since) > :read_at"

_PART: Final = "SELECT width_bucket({of}.started_at, CAST(:starts AS timestamptz[])), count(*) "

_LISTED_HERE: Final = (
    "(SELECT call_id, decode(hash, 'hex') AS content_hash FROM ROWS FROM ("
    "json_array_elements_text(CAST(:ids AS json)), json_array_elements_text(CAST(:hashes AS json))"
    ") AS l(call_id, hash))"
)

_INCOMING: Final = (
    _PART.format(of="i")
    + "FROM incoming_calls i LEFT JOIN call_logs c ON c.location_id = :location "
    "AND c.call_id = i.call_id WHERE {these} GROUP BY 1"
)
_NEW: Final = _INCOMING.format(these="c.call_id IS NULL")
_CHANGED: Final = _INCOMING.format(
    these=f"c.content_hash <> i.content_hash AND NOT {_NEWER}",
)

_UPSERT: Final = sa.text(
    "INSERT INTO call_logs AS c (location_id, {columns}, first_seen_at, last_changed_at) "  # noqa: S608
    "SELECT :location, {columns}, :now, :now FROM incoming_calls "
    "ON CONFLICT (location_id, call_id) DO UPDATE SET {updates}, missing_since = NULL, "
    "last_changed_at = CASE WHEN c.content_hash = excluded.content_hash "
    "THEN c.last_changed_at ELSE excluded.last_changed_at END "
    "WHERE (c.content_hash <> excluded.content_hash OR c.missing_since IS NOT NULL) "
    "AND NOT {newer}".format(
        columns=", ".join(COPIED),
        updates=", ".join(f"{name} = excluded.{name}" for name in COPIED if name != "call_id"),
        newer=_NEWER,
    )
)

_MARK_MISSING: Final = (
    "WITH gone AS (UPDATE call_logs c SET missing_since = :now WHERE location_id = :location "  # noqa: S608
    "AND started_at >= :start AND started_at < :end AND missing_since IS NULL "
    "AND last_changed_at <= :read_at "
    "AND NOT EXISTS (SELECT FROM {listed} AS l WHERE l.call_id = c.call_id) RETURNING started_at) "
    + _PART.format(of="gone")
    + "FROM gone GROUP BY 1"
)

_STORED: Final = (
    _PART.format(of="c")
    + "FROM {listed} AS l JOIN call_logs c ON c.location_id = :location AND c.call_id = l.call_id "
    "WHERE l.content_hash IS NOT NULL AND c.started_at < :end "
    f"AND (c.content_hash = l.content_hash AND c.missing_since IS NULL OR {_NEWER}) GROUP BY 1"
)

_ALREADY_THERE: Final = "23505"
"""SQLSTATE unique_violation: a row with this key exists."""

_TWICE: Final = "21000"
"""SQLSTATE cardinality_violation: INSERT ... ON CONFLICT would have to write a row twice."""


def _by_part(db: sa.Connection, query: str, values: dict[str, Any]) -> list[int]:
    """A query's counts, one for each part of the window; rows outside every part are ignored."""
    counts: dict[int, int] = dict(db.execute(sa.text(query), values).all())
    return [counts.get(part, 0) for part in range(1, len(values["starts"]) + 1)]


def _write_set_aside(
    db: sa.Connection, location_id: str, calls: Sequence[SetAsideCall], now: datetime
) -> None:
    """Written by COPY, like calls: PostgreSQL may be set to log statements, with their bind values
    (REQUIREMENTS X1)."""
    if not calls:
        return
    common = (text(location_id), timestamptz(now), timestamptz(now))
    rows = [
        row(
            [
                *common,
                call.content_hash,
                text(call.reason),
                JSONB_VERSION + json.dumps(call.raw).encode(),
                timestamptz(call.started_at) if call.started_at else None,
            ]
        )
        for call in calls
    ]
    columns = ", ".join(_SET_ASIDE)
    db.exec_driver_sql(
        "CREATE TEMPORARY TABLE incoming_items ON COMMIT DROP AS "  # noqa: S608 - our own names
        f"SELECT {columns} FROM set_aside_calls WITH NO DATA"
    )
    copy(db, "incoming_items", _SET_ASIDE, [(io.BytesIO(b"".join(rows)), {})])
    db.exec_driver_sql(
        f"INSERT INTO set_aside_calls ({columns}) "  # noqa: S608
        f"SELECT DISTINCT ON (content_hash) {columns} FROM incoming_items "
        "ON CONFLICT (location_id, content_hash) DO UPDATE SET last_seen_at = excluded.last_seen_at"
    )
    db.exec_driver_sql("DROP TABLE incoming_items")


_SET_ASIDE: Final = (
    *("location_id", "first_seen_at", "last_seen_at"),
    *("content_hash", "reason", "raw", "started_at"),
)


def count(db: sa.Connection, parts: Sequence[tuple[str, Window]]) -> list[int]:
    """How many calls are stored in each of these windows of locations, without missing ones."""
    values = {
        "locations": [location_id for location_id, _ in parts],
        "starts": [window.start for _, window in parts],
        "ends": [window.end for _, window in parts],
    }
    return list(db.execute(_COUNT, values).scalars())


_COUNT: Final = sa.text(
    "SELECT (SELECT count(*) FROM call_logs c WHERE c.location_id = w.location "
    "        AND c.started_at >= w.starts AND c.started_at < w.ends AND c.missing_since IS NULL) "
    "FROM ROWS FROM (unnest(:locations), unnest(:starts), unnest(:ends)) WITH ORDINALITY "
    "     AS w(location, starts, ends, ordinal) ORDER BY ordinal"
).bindparams(
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("starts", type_=ARRAY(sa.TIMESTAMP(timezone=True))),
    sa.bindparam("ends", type_=ARRAY(sa.TIMESTAMP(timezone=True))),
)


def free_instant(db: sa.Connection, location_id: str, first: datetime, step: timedelta) -> datetime:
    """The first of ``first``, ``first + step``, ... with no stored call within a millisecond.

    As a bound it selects the same calls, inclusive or exclusive.
    """
    reach = timedelta(seconds=1)
    near = (call_logs.c.started_at >= first - reach) & (call_logs.c.started_at <= first + reach)
    query = sa.select(call_logs.c.started_at).where(call_logs.c.location_id == location_id, near)
    taken = list(db.execute(query).scalars())
    while any(abs(instant - first) < MILLISECOND for instant in taken):
        first += step
    return first

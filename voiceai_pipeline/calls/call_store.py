"""Writes a verified window of calls: what is new, what changed, what is no longer listed.

A window may hold a million calls, so a read of one is taken in as it comes (``Intake``): what the
table holds already is let go, and what it does not waits in COPY's own form for the one transaction
that writes it all. The caller owns that transaction, so calls, ledger and status commit together.
Unchanged rows are not written at all: a content hash decides (decision 10, with what it costs).
Most calls of a re-read are sent byte for byte as before: their fingerprint says so, and they are
not even parsed.
"""

import contextlib
import json
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from tempfile import SpooledTemporaryFile
from types import MappingProxyType
from typing import IO, Any, Final, NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.database.engine import asking
from voiceai_pipeline.database.tables import call_logs, set_aside_calls

_BATCH: Final = 300
"""Calls compared with the table at once: more cost hardly less per call, but each of the many
locations that are read side by side holds as many."""

_BLOCK: Final = 1 << 18
"""Bytes of a COPY that are handed over at once."""

_IN_MEMORY: Final = 1 << 18
"""Bytes of a file that stay in memory; beyond that it is on disk, without a name, for us alone."""

_LIGHT: Final = 1 << 16
"""Bytes of calls: a day of a small location."""

MILLISECOND: Final = timedelta(milliseconds=1)
"""The unit of HighLevel's dates (CONTRACT 2.1)."""

_STAMPS: Final = ("first_seen_at", "last_changed_at", "missing_since")
_COPIED: Final = tuple(
    column.name for column in call_logs.columns if column.name not in ("location_id", *_STAMPS)
)


class _Held(NamedTuple):
    """What the table knows of a call."""

    content_hash: bytes
    fingerprint: bytes | None


@dataclass(frozen=True)
class Written:
    """What a write did, in calls by part of the window.

    Attributes:
        stored: listed calls that the table holds as they were listed, or as a newer read wrote
            them.
        missing: calls that are no longer listed, as of now.
    """

    stored: list[int]
    new: list[int]
    changed: list[int]
    missing: list[int]

    @classmethod
    def nothing(cls, stored: list[int]) -> "Written":
        """What a write did that had nothing to do."""
        none = [0] * len(stored)
        return cls(stored, none, none, none)


def lock_locations(db: sa.Connection, location_ids: Iterable[str]) -> None:
    """Let one transaction at a time write these locations' windows; released by its end."""
    # One order for everybody: two transactions never wait for each other in a circle.
    db.execute(_LOCK, {"names": [f"voiceai call_logs {one}" for one in sorted(location_ids)]})


class Intake:
    """A read of a window on its way into ``call_logs``.

    Memory is flat. While the read goes on, the table is asked now and then what it knows, in short
    transactions of its own: what others write meanwhile is noticed when all is stored.

    Args:
        starts: where the parts of the window begin, by which to count (UTC).
        call_of: takes a call apart; asked only about calls that the table does not hold as they
            were sent.
        fingerprint: a keyed hash of what was sent, for it may hold secrets.
        read_at: when the read began (UTC). What was written since then comes from a newer read and
            stays.

    Attributes:
        listed: calls that were taken, by part of the window.
    """

    def __init__(
        self,
        engine: sa.Engine,
        location_id: str,
        starts: Sequence[datetime],
        call_of: Callable[[ListedCall], CallLog],
        fingerprint: Callable[[msgspec.Raw], bytes],
        read_at: datetime,
    ) -> None:
        self._engine = engine
        self._location_id = location_id
        self._starts = starts
        self._call_of = call_of
        self._fingerprint = fingerprint
        self._read_at = read_at
        self.listed = [0] * len(starts)
        self._batch: list[ListedCall] = []
        self._rest: list[tuple[str, bytes | None]] = []
        self._end = starts[-1]
        self._set_aside: Sequence[SetAsideCall] = ()
        self._new = [0] * len(starts)
        self._are_all_new = True
        self._are_all_held = True
        self._latest_id: str | None = None
        self._rows: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - see close
        self._listed: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115

    def close(self) -> None:
        """Forget the read."""
        self._rows.close()
        self._listed.close()

    def part_of(self, instant: datetime) -> int:
        """Which part of the window it lies in, from 0."""
        return bisect_right(self._starts, instant) - 1

    def take(self, calls: Sequence[ListedCall]) -> None:
        """Take some calls of the read, later than all before."""
        for call in calls:
            self.listed[self.part_of(call.started_at)] += 1
        self._batch += calls
        if len(self._batch) >= _BATCH:
            self._sift()
            self._listed.writelines(map(_listed_row, self._rest))
            self._rest.clear()

    def end(self, end: datetime, set_aside: Sequence[SetAsideCall] = ()) -> None:
        """All of the read has been taken, and it was complete.

        Args:
            end: of the window (UTC).
            set_aside: what it listed besides.
        """
        self._sift()
        self._end = end
        self._set_aside = set_aside

    @property
    def is_known(self) -> bool:
        """All that was listed is in the table as it is: nothing is to be written, unless the table
        holds more. So nearly every re-read ends."""
        return self._are_all_held and not self._set_aside

    @property
    def is_light(self) -> bool:
        """There is so little to write that the transaction around it would cost more."""
        return self._rows.tell() <= _LIGHT

    @property
    def parts(self) -> list[tuple[str, Window]]:
        """The parts of the window, as ``held`` asks for them."""
        bounds = pairwise([*self._starts, self._end])
        return [(self._location_id, Window(*part)) for part in bounds]

    def write(self, db: sa.Connection, now: datetime) -> Written:
        """``store`` for this one read."""
        values = {
            "location": self._location_id,
            "starts": list(self._starts),
            "read_at": self._read_at,
            "start": self._starts[0],
            "end": self._end,
            "now": now,
        }
        _set_aside(db, self._location_id, self._set_aside, now)
        aside: list[tuple[str, bytes | None]] = [
            (call.call_id, None) for call in self._set_aside if call.call_id
        ]
        new, changed = self._write_rows(db, values, now)
        listed, known = self._listing(db, self._rest + aside)
        missing = _by_part(db, _MARK_MISSING.format(listed=listed), values | known)
        stored = _by_part(db, _STORED.format(listed=listed), values | known)
        return Written(stored, new, changed, missing)

    def _known(self) -> dict[str, _Held]:
        """What the table holds where the calls of the batch belong."""
        if not self._batch:
            return {}
        bounds = {"first": self._batch[0].started_at, "last": self._batch[-1].started_at}
        with asking(self._engine) as db:
            rows = db.execute(_HELD, {"location": self._location_id} | bounds)
            return {call_id: _Held(content_hash, mark) for call_id, content_hash, mark in rows}

    def _sift(self) -> None:
        """Keep the calls of the batch that the table does not hold as they are, and empty it. A few
        too many do no harm: what is written is decided when it is written."""
        held = self._known()
        for call in self._batch:
            known, fingerprint = held.get(call.call_id), self._fingerprint(call.sent)
            if known and known.fingerprint == fingerprint:
                self._rest.append((call.call_id, known.content_hash))
            else:
                full = self._call_of(call)
                self._rest.append((call.call_id, full.content_hash))
                if not known or known.content_hash != full.content_hash:
                    self._rows.write(_row(full, fingerprint))
                    self._new[self.part_of(call.started_at)] += not known
                    self._are_all_new &= not known
                    self._are_all_held = False
            # They come in order, so whatever is listed twice is listed twice in a row.
            self._are_all_held &= call.call_id != self._latest_id
            self._latest_id = call.call_id
        self._batch.clear()

    def _write_rows(
        self, db: sa.Connection, values: dict[str, Any], now: datetime
    ) -> tuple[list[int], list[int]]:
        """Write what was kept; how many calls of each part are new and how many changed."""
        nothing = [0] * len(self._starts)
        if not self._rows.tell():
            return nothing, nothing
        if self._are_all_new and self._append(db, now):
            return self._new, nothing
        columns = ", ".join(_COPIED)
        db.exec_driver_sql(
            "CREATE TEMPORARY TABLE incoming_calls ON COMMIT DROP AS "  # noqa: S608 - our own names
            f"SELECT {columns} FROM call_logs WITH NO DATA"
        )
        _copy(db, "incoming_calls", _COPIED, self._rows)
        new = _by_part(db, _NEW, values)
        changed = _by_part(db, _CHANGED, values)
        try:
            db.execute(_UPSERT, values)
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _TWICE:
                raise
            raise PipelineError(FailureClass.INCOMPLETE, "a call was listed twice") from None
        return new, changed

    def _append(self, db: sa.Connection, now: datetime) -> bool:
        """Write calls that are all new, at half the cost of an upsert. False, and nothing written,
        if one is not: it was missing, or had another time, or is listed twice."""
        common = {
            "location_id": self._location_id.encode(),
            "first_seen_at": _instant(now),
            "last_changed_at": _instant(now),
        }
        try:
            with db.begin_nested():
                _copy(db, "call_logs", _COPIED, self._rows, common)
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _ALREADY_THERE:
                raise
            return False
        return True

    def _listing(
        self, db: sa.Connection, rest: list[tuple[str, bytes | None]]
    ) -> tuple[str, dict[str, Any]]:
        """All that was listed as a relation (call_id, content_hash), for a query and its values.

        Args:
            rest: what has not been written to the file. Without a hash: calls that can no longer be
                read are not missing.
        """
        if not self._listed.tell():
            hashes = [content_hash and content_hash.hex() for _, content_hash in rest]
            ids = [call_id for call_id, _ in rest]
            return _LISTED_HERE, {"ids": json.dumps(ids), "hashes": json.dumps(hashes)}
        self._listed.writelines(map(_listed_row, rest))
        db.exec_driver_sql(
            "CREATE TEMPORARY TABLE listed_calls (call_id text, content_hash bytea) ON COMMIT DROP"
        )
        _copy(db, "listed_calls", ("call_id", "content_hash"), self._listed)
        return "listed_calls", {}


def store(db: sa.Connection, intakes: Sequence[Intake], now: datetime) -> list[Written]:
    """Make ``call_logs`` equal to what was taken by complete, verified reads that have ended.

    Calls of a window that its read did not list get ``missing_since``; only with the locations
    locked.

    Args:
        intakes: of a location each.
        now: stamps first_seen_at, last_changed_at and missing_since (UTC).

    Raises:
        PipelineError: INCOMPLETE, if a read lists a call twice. Roll back then.
    """
    # All that was listed was there, so it is all that is there if that is as many; after a newer
    # read in between the table is right anyhow.
    known = [intake for intake in intakes if intake.is_known]
    counts = iter(held(db, [part for intake in known for part in intake.parts]) if known else ())
    right = {one for one in known if list(islice(counts, len(one.listed))) == one.listed}
    return [Written.nothing(one.listed) if one in right else one.write(db, now) for one in intakes]


_LOCK: Final = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(:names) AS name"
).bindparams(sa.bindparam("names", type_=ARRAY(sa.Text)))

_NEWER = "greatest(c.last_changed_at, c.missing_since) > :read_at"

_HELD: Final = sa.text(
    "SELECT call_id, content_hash, fingerprint FROM call_logs WHERE location_id = :location "
    "AND started_at >= :first AND started_at <= :last AND missing_since IS NULL"
)

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
        columns=", ".join(_COPIED),
        updates=", ".join(f"{name} = excluded.{name}" for name in _COPIED if name != "call_id"),
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
"""SQLSTATE of a row whose key is taken."""

_TWICE: Final = "21000"
"""SQLSTATE of an INSERT ... ON CONFLICT that would have to write a row twice."""


def _by_part(db: sa.Connection, query: str, values: dict[str, Any]) -> list[int]:
    """The counts of a query, by part of the window; what lies in none is left out."""
    counts: dict[int, int] = dict(db.execute(sa.text(query), values).all())
    return [counts.get(part, 0) for part in range(1, len(values["starts"]) + 1)]


def _copy(
    db: sa.Connection,
    table: str,
    columns: Sequence[str],
    rows: IO[bytes],
    common: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """COPY rows into a table.

    Args:
        rows: a file of rows as ``_framed`` gives them, of these columns.
        common: further columns, with the value that they have in all rows.
    """
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    names = ", ".join([*common, *columns])
    start = (len(common) + len(columns)).to_bytes(2) + _fields(common.values())
    with (
        _errors_as_sqlalchemys(),
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)") as copy,
    ):
        block = bytearray(_SIGNATURE)
        rows.seek(0)
        while size := rows.read(_SIZE):
            block += start
            block += rows.read(int.from_bytes(size))
            if len(block) >= _BLOCK:
                copy.write(bytes(block))
                block.clear()
        copy.write(bytes(block + _END))


@contextlib.contextmanager
def _errors_as_sqlalchemys() -> Iterator[None]:
    """COPY goes past SQLAlchemy; its errors are those of every other statement all the same."""
    try:
        yield
    except psycopg.Error as error:
        raise sa.exc.DBAPIError("COPY", None, error) from None


def held(db: sa.Connection, parts: Sequence[tuple[str, Window]]) -> list[int]:
    """How many calls the table holds of each location in each window, missing ones not counted."""
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
    "     AS w(location, starts, ends, place) ORDER BY place"
).bindparams(
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("starts", type_=ARRAY(sa.TIMESTAMP(timezone=True))),
    sa.bindparam("ends", type_=ARRAY(sa.TIMESTAMP(timezone=True))),
)


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


def _row(call: CallLog, fingerprint: bytes) -> bytes:
    """The columns ``_COPIED`` of a call."""
    values = {
        "call_id": call.call_id.encode(),
        "agent_id": _text(call.agent_id),
        "contact_id": _text(call.contact_id),
        "from_number": _text(call.from_number),
        "started_at": _instant(call.started_at),
        "duration_seconds": None
        if call.duration_seconds is None
        else struct.pack(">d", call.duration_seconds),
        "is_trial": _boolean(call.is_trial),
        "is_agent_deleted": _boolean(call.is_agent_deleted),
        "summary": _text(call.summary),
        "transcript": _text(call.transcript),
        "executed_call_actions": _json(call.executed_call_actions),
        "extracted_data": _json(call.extracted_data),
        "translation": _json(call.translation),
        "message_id": _text(call.message_id),
        "raw": _JSONB + call.content,
        "content_hash": call.content_hash,
        "fingerprint": fingerprint,
    }
    return _framed([values[name] for name in _COPIED])


def _listed_row(listed: tuple[str, bytes | None]) -> bytes:
    call_id, content_hash = listed
    return _framed([call_id.encode(), content_hash])


# COPY's binary format (https://www.postgresql.org/docs/current/sql-copy.html) takes PostgreSQL less
# time than text, and nothing has to be escaped.

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_SIZE: Final = 4
_JSONB: Final = b"\x01"
"""The version of jsonb's binary form, which is its text."""
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def _framed(values: Iterable[bytes | None]) -> bytes:
    """A row for a file of rows, with its size."""
    fields = _fields(values)
    return len(fields).to_bytes(_SIZE) + fields


def _fields(values: Iterable[bytes | None]) -> bytes:
    parts = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (len(value).to_bytes(_SIZE), value)
    return b"".join(parts)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _boolean(value: bool | None) -> bytes | None:
    return None if value is None else bytes([value])


def _instant(value: datetime) -> bytes:
    """A timestamptz: microseconds since 2000."""
    return ((value - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, signed=True)


def _json(value: Any) -> bytes | None:
    return None if value is None else _JSONB + msgspec.json.encode(value)


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

"""Takes in the calls of one window and compares them with ``call_logs``, batch by batch.

A window may hold a million calls, so memory use must stay flat: calls that the table already holds
are dropped, and the others go to a temporary file in COPY format. Nothing is written to the
database here; ``call_store`` does that, in one transaction.

Most calls of a re-read are byte for byte as before. Their fingerprints match, so they are not even
parsed.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from tempfile import SpooledTemporaryFile
from typing import IO, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall, digest
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.copy_format import (
    JSONB_VERSION,
    boolean,
    fields_of,
    float8,
    framed,
    instant_of,
    jsonb,
    read_rows,
    row,
    text,
    timestamptz,
)
from voiceai_pipeline.database.driver import rows_of
from voiceai_pipeline.database.engine import autocommit
from voiceai_pipeline.database.tables import call_logs

_BATCH: Final = 150
"""Calls compared with the table at once. A larger batch is hardly cheaper per call, and each of the
many locations that are read concurrently holds a batch in memory."""

_IN_MEMORY: Final = 1 << 18
"""Bytes up to which a temporary file stays in memory. A larger one is on disk, without a name, so
that no other process can open it."""

_AT_ONCE: Final = 64
"""Rows written to the file at once. Whole batches, of many locations, would take 20 MB."""

_LIGHT: Final = 1 << 16
"""Bytes of rows up to which an intake is light: a day of a small location."""

_STAMPS: Final = ("first_seen_at", "last_changed_at", "missing_since")
"""The columns of ``call_logs`` that the write sets, not HighLevel."""

COPIED: Final = tuple(
    column.name for column in call_logs.columns if column.name not in ("location_id", *_STAMPS)
)
"""The columns of ``Intake.rows``."""


class KnownCall(NamedTuple):
    """What the table holds of a call."""

    content_hash: bytes
    fingerprint: bytes | None


class Intake:
    """Takes in one complete read of a window.

    The table is queried in separate short transactions, one for each batch. ``call_store.store``
    detects what others have written between these queries and the write.

    Args:
        starts: where the parts of the window start (UTC); calls are counted by part.
        call_of: parses a call; called only if the stored fingerprint differs.
        fingerprint: a keyed hash of the call as sent, which may contain secrets.
        read_at: when the read started (UTC). Rows written later come from a newer read, and are
            kept.
        known: what the table holds of the window, read after ``read_at``; None to query it here.

    Attributes:
        window_end: end of the window (UTC), known after ``finish``.
        set_aside: listed items that cannot be stored.
        listed: calls taken and not set aside, by part of the window.
        new: calls the table did not hold when it was queried, by part of the window.
        are_all_new: every call of ``rows`` counts as new.
        is_plain: the read changes no stored call, lists none twice and sets no item aside. Nearly
            every read is plain. For a plain read, the unique key and a count of the window prove
            that the table holds exactly these calls.
        rows: the ``COPIED`` columns of the calls to write, as a file of COPY rows.
        unchanged_rows: id and content hash of the listed calls that the table holds as listed, as a
            file of COPY rows.
        unchanged_rest: those of them that ``unchanged_rows`` does not hold yet.
    """

    def __init__(
        self,
        engine: sa.Engine,
        location_id: str,
        starts: Sequence[datetime],
        call_of: Callable[[ListedCall], CallLog],
        fingerprint: Callable[[msgspec.Raw], bytes],
        read_at: datetime,
        known: Mapping[str, KnownCall] | None = None,
    ) -> None:
        self._engine = engine
        self._known_ahead = known
        self._call_of = call_of
        self._fingerprint = fingerprint
        self.location_id = location_id
        self.starts = starts
        self.read_at = read_at
        self.window_end = starts[-1]
        self.set_aside: list[SetAsideCall] = []
        self.listed = [0] * len(starts)
        self.new = [0] * len(starts)
        self.are_all_new = True
        self.rows = temporary_file()
        self.unchanged_rows = temporary_file()
        self.unchanged_rest: list[tuple[str, bytes | None]] = []
        self._batch: list[ListedCall] = []
        self._repeats = False
        self._latest_id: str | None = None

    def close(self) -> None:
        """Delete the temporary files."""
        self.rows.close()
        self.unchanged_rows.close()

    def part_of(self, instant: datetime) -> int:
        """The index of the part of the window that contains an instant."""
        return bisect_right(self.starts, instant) - 1

    def take(self, calls: Sequence[ListedCall]) -> None:
        """Take the next calls of the read; none starts earlier than those taken before."""
        for call in calls:
            self.listed[self.part_of(call.started_at)] += 1
        self._batch += calls
        if len(self._batch) >= _BATCH:
            self._sift()
            self.unchanged_rows.writelines(map(listed_row, self.unchanged_rest))
            self.unchanged_rest.clear()

    def finish(self, window_end: datetime, set_aside: Sequence[SetAsideCall] = ()) -> None:
        """Finish a complete read, after all of its calls have been taken.

        Args:
            window_end: the end of the window (UTC).
            set_aside: listed items that could not be parsed.
        """
        self._sift()
        self.window_end = window_end
        self.set_aside += set_aside

    def refuse(self, states: Mapping[str, str]) -> None:
        """Set calls aside that the database refuses to store.

        Args:
            states: the SQLSTATE of each, by call id.
        """
        kept = temporary_file()
        for call in read_rows(self.rows):
            call_id = row_id(call)
            if call_id not in states:
                kept.write(framed(call))
                continue
            values = dict(zip(COPIED, fields_of(call), strict=True))
            started_at = instant_of(values["started_at"] or b"")
            self.listed[self.part_of(started_at)] -= 1
            # Only its id is kept: the content may be what the database refuses.
            self.set_aside.append(
                SetAsideCall(
                    f"PostgreSQL cannot store it (SQLSTATE {states[call_id]})",
                    values["content_hash"] or b"",
                    {"id": call_id},
                    call_id,
                    started_at,
                )
            )
        self.rows.close()
        self.rows, self.are_all_new = kept, False

    @property
    def is_plain(self) -> bool:
        return self.are_all_new and not self._repeats and not self.set_aside

    @property
    def has_rows(self) -> bool:
        """Whether there is anything to write."""
        return self.rows.tell() > 0

    @property
    def is_light(self) -> bool:
        """Whether there is so little to write that a transaction of its own would cost more."""
        return self.rows.tell() <= _LIGHT

    @property
    def parts(self) -> list[tuple[str, Window]]:
        """The parts of the window, in the form that ``call_store.count`` takes."""
        bounds = pairwise([*self.starts, self.window_end])
        return [(self.location_id, Window(*part)) for part in bounds]

    def _known(self) -> Mapping[str, KnownCall]:
        """What the table holds from the start of the batch's first call to that of its last."""
        if self._known_ahead is not None:
            return self._known_ahead
        if not self._batch:
            return {}
        bounds = (self.location_id, self._batch[0].started_at, self._batch[-1].started_at)
        with autocommit(self._engine) as db:
            return {row[0]: KnownCall(*row[1:]) for row in rows_of(db, _KNOWN, bounds)}

    def _sift(self) -> None:
        """Move the new and changed calls of the batch to ``rows``, and empty the batch. A few too
        many do no harm: the write compares them again."""
        table, rows = self._known(), list[bytes]()
        for call in self._batch:
            known, fingerprint = table.get(call.call_id), self._fingerprint(call.sent)
            if known and known.fingerprint == fingerprint:
                self.unchanged_rest.append((call.call_id, known.content_hash))
            else:
                try:
                    full = self._call_of(call)
                except Exception as error:
                    self._set_aside(call, unexpected(error).message)
                    continue
                if known and known.content_hash == full.content_hash:
                    self.unchanged_rest.append((call.call_id, full.content_hash))
                else:
                    rows.append(call_row(full, fingerprint))
                    if len(rows) == _AT_ONCE:
                        self.rows.write(b"".join(rows))
                        rows.clear()
                    self.new[self.part_of(call.started_at)] += not known
                    self.are_all_new &= not known
            # Calls come in order, so one that is listed twice is listed twice in a row.
            self._repeats |= call.call_id == self._latest_id
            self._latest_id = call.call_id
        self.rows.write(b"".join(rows))
        self._batch.clear()

    def _set_aside(self, call: ListedCall, reason: str) -> None:
        """Set a call aside because of a fault of ours; no other call is affected."""
        self.listed[self.part_of(call.started_at)] -= 1
        content_hash = digest(hashlib.sha256(), call.sent)
        self.set_aside.append(
            SetAsideCall(reason, content_hash, {"id": call.call_id}, call.call_id, call.started_at)
        )


_KNOWN: Final = (
    "SELECT call_id, content_hash, fingerprint FROM call_logs WHERE location_id = %s "
    "AND started_at >= %s AND started_at <= %s AND missing_since IS NULL"
)


def temporary_file() -> IO[bytes]:
    """A file of rows, for the caller to close."""
    return SpooledTemporaryFile(_IN_MEMORY)


def call_row(call: CallLog, fingerprint: bytes) -> bytes:
    """A row of ``Intake.rows``: the ``COPIED`` columns of a call."""
    return row(
        (
            call.call_id.encode(),
            text(call.agent_id),
            text(call.contact_id),
            text(call.from_number),
            timestamptz(call.started_at),
            float8(call.duration_seconds),
            boolean(call.is_trial),
            boolean(call.is_agent_deleted),
            text(call.summary),
            text(call.transcript),
            jsonb(call.executed_call_actions),
            jsonb(call.extracted_data),
            jsonb(call.translation),
            text(call.message_id),
            None if call.unheld is None else JSONB_VERSION + call.unheld,
            call.content_hash,
            fingerprint,
        )
    )


def row_id(call: bytes) -> str:
    """The call id of a row of ``Intake.rows``."""
    return listed_of(call)[0]


def listed_of(call: bytes) -> tuple[str, bytes | None]:
    """The call id and content hash of a row of ``Intake.rows``."""
    fields = fields_of(call)
    return (fields[_ID] or b"").decode(), fields[_HASH]


_ID: Final = COPIED.index("call_id")
_HASH: Final = COPIED.index("content_hash")


def listed_row(listed: tuple[str, bytes | None]) -> bytes:
    """A row of call id and content hash."""
    call_id, content_hash = listed
    return row([call_id.encode(), content_hash])

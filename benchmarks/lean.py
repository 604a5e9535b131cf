"""The leanest loader: what one would write by hand if only speed mattered.

Each thread keeps one connection and parses a page once, into the fields that are stored. Rows are
in the binary format of COPY, and one COPY writes all of them into a table with one index. There is
no ledger, lease, hash or redaction, and no comparison with stored calls or with HighLevel's total;
one failure fails everything. It is written to be fast, not to lose.
"""

import http.client
import struct
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec
import psycopg

from benchmarks.server import PATH
from benchmarks.world import PAGE_SIZE, location_id, request_headers

if TYPE_CHECKING:
    from benchmarks.contenders import Job

THREADS = 16
"""Pages read at a time, as many as by ours. With 32 it takes 6 instead of 11 s on *fleet*: it does
little but wait."""

TABLE = "lean_calls"

_CREATE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    location_id text, call_id text, agent_id text, contact_id text, from_number text,
    started_at timestamptz, duration_seconds double precision, is_trial boolean,
    is_agent_deleted boolean, summary text, transcript text, executed_call_actions jsonb,
    extracted_data jsonb, translation jsonb, message_id text, PRIMARY KEY (location_id, call_id)
)
"""
_COLUMNS = 15
_BLOCK = 1 << 18
_NULL = b"\xff\xff\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = 1_000_000
_HEAD = struct.Struct(">I")
_TIME_AND_LENGTH = struct.Struct(">IqId")


_NONE = msgspec.Raw(b"null")


class _Call(msgspec.Struct, gc=False):
    """A call, with HighLevel's names; what is stored as JSON is not parsed."""

    id: str
    createdAt: datetime  # noqa: N815
    duration: float
    trialCall: bool  # noqa: N815
    isAgentDeleted: bool  # noqa: N815
    executedCallActions: msgspec.Raw  # noqa: N815
    agentId: str | None = None  # noqa: N815
    contactId: str | None = None  # noqa: N815
    fromNumber: str | None = None  # noqa: N815
    summary: str | None = None
    transcript: str | None = None
    extractedData: msgspec.Raw = _NONE  # noqa: N815
    translation: msgspec.Raw = _NONE
    messageId: str | None = None  # noqa: N815


class _Page(msgspec.Struct):
    total: int
    callLogs: list[_Call]  # noqa: N815


_PAGE = msgspec.json.Decoder(_Page)


def load(job: "Job") -> None:
    """Load a job's calls; whatever the table held before is dropped."""
    host = job.api_url.removeprefix("http://")
    start, end = job.epoch_ms
    places: SimpleQueue[int] = SimpleQueue()
    for number in range(job.locations):
        places.put(number)
    with psycopg.connect(job.database_url.replace("+psycopg", "")) as db:
        db.execute(_CREATE)
        db.execute(f"TRUNCATE {TABLE}")
        with db.cursor().copy(f"COPY {TABLE} FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            lock = threading.Lock()

            def write(rows: bytes) -> None:
                with lock:
                    copy.write(rows)

            failures: list[BaseException] = []

            def work() -> None:
                try:
                    _work(host, places, start, end, write)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work) for _ in range(min(THREADS, job.locations))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]
            copy.write(b"\xff\xff")


def _work(
    host: str, places: SimpleQueue[int], start: int, end: int, write: Callable[[bytes], None]
) -> None:
    """Read location after location until none is left."""
    connection = http.client.HTTPConnection(host, blocksize=1 << 18)
    block = bytearray()
    while True:
        try:
            place = places.get_nowait()
        except Empty:
            break
        headers, page, last = request_headers(place), 0, 1
        name = location_id(place)
        start_of_row = _COLUMNS.to_bytes(2) + _field(name.encode())
        query = {
            "locationId": name, "startDate": start, "endDate": end,
            "sortBy": "createdAt", "sort": "ascend", "pageSize": PAGE_SIZE,
        }  # fmt: skip
        path = f"{PATH}?{urlencode(query)}&page="
        while page < last:
            page += 1
            connection.request("GET", f"{path}{page}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == http.client.TOO_MANY_REQUESTS:
                time.sleep(1)
                page -= 1
                continue
            if answer.status != http.client.OK:
                raise RuntimeError(f"HTTP {answer.status}")
            found = _PAGE.decode(body)
            last = -(-found.total // PAGE_SIZE)
            for call in found.callLogs:
                block += _row(start_of_row, call)
            if len(block) >= _BLOCK:
                write(bytes(block))
                block.clear()
    write(bytes(block))
    connection.close()


def _row(start: bytes, call: _Call) -> bytes:
    since = call.createdAt - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * _MICROSECOND + since.microseconds
    return b"".join(
        (
            start,
            _field(call.id.encode()),
            _text(call.agentId),
            _text(call.contactId),
            _text(call.fromNumber),
            _TIME_AND_LENGTH.pack(8, microseconds, 8, call.duration),
            b"\0\0\0\x01\x01" if call.trialCall else b"\0\0\0\x01\0",
            b"\0\0\0\x01\x01" if call.isAgentDeleted else b"\0\0\0\x01\0",
            _text(call.summary),
            _text(call.transcript),
            _json(call.executedCallActions),
            _json(call.extractedData),
            _json(call.translation),
            _text(call.messageId),
        )
    )


def _field(value: bytes) -> bytes:
    return _HEAD.pack(len(value)) + value


def _text(value: str | None) -> bytes:
    return _NULL if value is None else _field(value.encode())


def _json(value: msgspec.Raw) -> bytes:
    text = bytes(value)
    return _NULL if text == b"null" else _field(b"\x01" + text)

"""PostgreSQL's binary COPY: encodes fields and rows for a temporary file, and copies such files.

PostgreSQL reads it faster than text, and nothing has to be escaped. The format:
https://www.postgresql.org/docs/current/sql-copy.html
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

import msgspec
import psycopg
import sqlalchemy as sa

_BLOCK: Final = 1 << 18
"""Bytes that are passed to the driver at once."""

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_SIZE: Final = 4
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_FLOAT8: Final = struct.Struct(">d")

JSONB_VERSION: Final = b"\x01"
"""The prefix of a jsonb field, followed by its JSON text."""


def text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def boolean(value: bool | None) -> bytes | None:
    return None if value is None else bytes([value])


def float8(value: float | None) -> bytes | None:
    return None if value is None else _FLOAT8.pack(value)


def timestamptz(value: datetime) -> bytes:
    """Microseconds since 2000."""
    since = value - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    return (seconds * 1_000_000 + since.microseconds).to_bytes(8, signed=True)


def instant_of(field: bytes) -> datetime:
    """The time of a ``timestamptz`` field (UTC)."""
    return _EPOCH + timedelta(microseconds=int.from_bytes(field, signed=True))


def jsonb(value: Any) -> bytes | None:
    """A JSON value, or its text (``msgspec.Raw``)."""
    return None if value is None else JSONB_VERSION + msgspec.json.encode(value)


def row(values: Iterable[bytes | None]) -> bytes:
    """A row as a file of rows has it: its size, then its fields."""
    return framed(_fields(values))


def framed(fields: bytes) -> bytes:
    """A row for a file of rows, from the fields of a row that was read."""
    return len(fields).to_bytes(_SIZE) + fields


def read_rows(rows: IO[bytes]) -> Iterator[bytes]:
    """The rows of a file from its start, without their sizes."""
    rows.seek(0)
    while size := rows.read(_SIZE):
        yield rows.read(int.from_bytes(size))


def fields_of(fields: bytes) -> list[bytes | None]:
    """The fields of a row that was read."""
    found: list[bytes | None] = []
    start = 0
    while start < len(fields):
        size = fields[start : start + _SIZE]
        start += _SIZE
        end = start + (0 if size == _NULL else int.from_bytes(size))
        found.append(None if size == _NULL else fields[start:end])
        start = end
    return found


def _fields(values: Iterable[bytes | None]) -> bytes:
    parts = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(len(value).to_bytes(_SIZE))
            parts.append(value)
    return b"".join(parts)


def copy(
    db: sa.Connection,
    table: str,
    columns: Sequence[str],
    parts: Iterable[tuple[IO[bytes], Mapping[str, bytes]]],
    common: Sequence[str] = (),
) -> None:
    """COPY rows into a table with one statement.

    Args:
        parts: files of ``row`` results, which have the fields of ``columns``; each file with the
            values of the columns ``common`` for all its rows.

    Raises:
        sqlalchemy.exc.DBAPIError: as for any other statement.
    """
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    names = ", ".join([*common, *columns])
    number = (len(common) + len(columns)).to_bytes(2)
    with (
        errors_as_sqlalchemys(),
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)") as stream,
    ):
        block = bytearray(_SIGNATURE)
        for rows, values in parts:
            start = number + _fields(values[name] for name in common)
            for fields in read_rows(rows):
                block += start
                block += fields
                if len(block) >= _BLOCK:
                    stream.write(bytes(block))
                    block.clear()
        stream.write(bytes(block + _END))


@contextlib.contextmanager
def errors_as_sqlalchemys() -> Iterator[None]:
    """Raise psycopg's errors as SQLAlchemy would, for statements that bypass SQLAlchemy."""
    try:
        yield
    except psycopg.Error as error:
        raise sa.exc.DBAPIError.instance("COPY", None, error, psycopg.Error) from None

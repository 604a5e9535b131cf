"""Exports: writes the calls or metrics of some days to a CSV, JSON Lines or Parquet file.

Rows pass through in batches, so a million calls take no more memory than one batch. A file appears
complete under its name, or not at all. ``extracts.py`` selects its rows and columns.
"""

import codecs
import contextlib
import csv
import errno
import io
import os
import re
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from voiceai_pipeline.calls.call_filter import CallFilter
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.installation import INSTALL_PARQUET
from voiceai_pipeline.marts import extracts
from voiceai_pipeline.marts.extracts import Extract, Field, Kind

_AT_ONCE: Final = 20_000
"""Rows in one batch, which is also one row group of Parquet."""

_AT_ONCE_WITH_CONTENT: Final = 2_000
"""Fewer, because a transcript takes some kilobytes."""

_DECIMALS: Final = 6
"""Digits that Parquet keeps after the decimal point."""


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class ExportError(Exception):
    """Nothing was written; the text says why and what to do."""


@dataclass(frozen=True)
class Order:
    """What to export.

    Attributes:
        what: ``calls``, or the name of a mart.
        first, last: days, inclusive: of ``zone`` for calls, of each location's own time zone
            for a mart.
        location_ids: None: all locations.
        trial, missing: for calls: include trial calls, and calls that HighLevel no longer lists.
        content: for calls: include what was said and by whom.
    """

    what: str
    first: date
    last: date
    zone: ZoneInfo
    location_ids: Collection[str] | None = None
    trial: bool = False
    missing: bool = False
    content: bool = False


def export(engine: sa.Engine, order: Order, format_: Format, target: Path | IO[bytes]) -> int:
    """Write an export; return its number of rows.

    Args:
        target: a file that must not exist yet, or a stream. A file with content is readable only
            by its owner.

    Raises:
        ExportError: the file cannot be written, or the package for Parquet is not installed.
    """
    extract = _extract(order)
    at_once = _AT_ONCE_WITH_CONTENT if order.content else _AT_ONCE
    open_writer = _writer_of(format_)
    with contextlib.ExitStack() as stack:
        if isinstance(target, Path):
            target = stack.enter_context(_new_file(target, private=order.content))
        writer = open_writer(target, extract.fields)
        count = 0
        with extracts.read_batches(engine, extract, at_once) as batches:
            for rows in batches:
                writer.write(rows)
                count += len(rows)
        writer.close()
    return count


def stream(
    engine: sa.Engine, wanted: CallFilter, format_: Format, *, content: bool
) -> Generator[bytes, None, None]:
    """The calls of a list as a file, piece by piece. Nothing is read before the first piece is
    requested. CSV starts with a byte order mark, by which Excel recognizes UTF-8.

    Raises:
        ExportError: immediately, if the package for Parquet is not installed.
    """
    return _stream(engine, wanted, _writer_of(format_), format_, content)


def _stream(
    engine: sa.Engine, wanted: CallFilter, open_writer: "_Open", format_: Format, content: bool
) -> Generator[bytes, None, None]:
    extract = extracts.listed_calls(content=content)
    at_once = _AT_ONCE_WITH_CONTENT if content else _AT_ONCE
    pieces = _Pieces()
    if format_ is Format.CSV:
        pieces.write(codecs.BOM_UTF8)
    writer = open_writer(cast("IO[bytes]", pieces), extract.fields)
    with extracts.read_listed(engine, extract, wanted, at_once) as batches:
        for rows in batches:
            writer.write(rows)
            yield pieces.take()
    writer.close()
    yield pieces.take()


class _Pieces:
    """A write-only file in memory, whose content is removed as it grows."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        """Does nothing, because nothing is buffered."""

    def take(self) -> bytes:
        """Remove and return what was written since the last call."""
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def _extract(order: Order) -> Extract:
    if order.what != extracts.CALLS:
        return extracts.mart(order.what, order.first, order.last, order.location_ids)
    window = Window(
        Window.of_day(order.first, order.zone).start, Window.of_day(order.last, order.zone).end
    )
    return extracts.calls(
        window,
        order.location_ids,
        trial=order.trial,
        missing=order.missing,
        content=order.content,
    )


@contextlib.contextmanager
def _new_file(path: Path, *, private: bool) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is complete, and never replaces another."""
    exists = f"{path} already exists and was not changed. Choose another name, or delete it."
    if path.exists() or path.is_symlink():
        raise ExportError(exists)
    try:
        # Readable only by its owner until it is complete.
        draft = tempfile.NamedTemporaryFile(  # noqa: SIM115 - kept under another name
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        )
        try:
            with draft:
                yield draft.file
            if not private:
                Path(draft.name).chmod(0o666 & ~_umask())
            os.link(draft.name, path)
        finally:
            Path(draft.name).unlink()
    except FileExistsError:
        raise ExportError(exists) from None
    except OSError as error:
        advice = (
            "Free some disk space and try again."
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Choose an existing folder that this user can write to."
        )
        raise ExportError(
            f"{path} could not be written: {error.strerror}. No part of it was kept. {advice}"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Writer(Protocol):
    def write(self, rows: Sequence[Sequence[Any]]) -> None: ...

    def close(self) -> None: ...


_Open = Callable[[IO[bytes], Sequence[Field]], _Writer]


def _writer_of(format_: Format) -> _Open:
    if format_ is Format.PARQUET:
        return _parquet()
    return _Jsonl if format_ is Format.JSONL else _Csv


# CSV ---------------------------------------------------------------------------------------------

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_PHONE_NUMBER: Final = re.compile(r"\+[0-9]{6,15}")


def _harmless(text: str) -> str:
    """The text, after an apostrophe if a spreadsheet would run it as a formula (CWE-1236).

    Callers control what transcripts, names and captured data say. A phone number stays as it is.
    """
    if text.startswith(_FORMULA) and not _PHONE_NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _instant(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


_AS_TEXT: Final[dict[Kind, Callable[[Any], Any]]] = {
    Kind.TEXT: _harmless,
    Kind.JSON: _harmless,
    Kind.INSTANT: _instant,
    Kind.BOOLEAN: lambda value: "true" if value else "false",
}


class _Csv:
    """RFC 4180 in UTF-8: a header, CRLF after each line; NULL is empty."""

    def __init__(self, file: IO[bytes], fields: Sequence[Field]) -> None:
        self._file = file
        self._as_text = [_AS_TEXT.get(field.kind) for field in fields]
        self._write_rows([[field.name for field in fields]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        columns = [
            values
            if as_text is None
            else [None if value is None else as_text(value) for value in values]
            for as_text, values in zip(self._as_text, zip(*rows, strict=True), strict=True)
        ]
        self._write_rows(zip(*columns, strict=True))

    def close(self) -> None:
        self._file.flush()

    def _write_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        self._file.write(text.getvalue().encode())


# JSON Lines --------------------------------------------------------------------------------------


class _Jsonl:
    """One object per line, in UTF-8, with every column; JSON values are embedded as JSON."""

    def __init__(self, file: IO[bytes], fields: Sequence[Field]) -> None:
        self._file = file
        self._fields = [(field.name, field.kind is Kind.JSON) for field in fields]

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        encode = msgspec.json.Encoder(decimal_format="number").encode
        for row in rows:
            values = {
                name: msgspec.Raw(value.encode()) if is_json and value is not None else value
                for (name, is_json), value in zip(self._fields, row, strict=True)
            }
            self._file.write(encode(values) + b"\n")

    def close(self) -> None:
        self._file.flush()


# Parquet -----------------------------------------------------------------------------------------


def _parquet() -> _Open:
    """The writer for Parquet, whose package is imported only if it is needed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ExportError(
            "Parquet needs the package pyarrow, which is not installed. Install it with: "
            f"{INSTALL_PARQUET}. Or write CSV: --format csv"
        ) from None

    types = {
        Kind.TEXT: pa.string(),
        Kind.JSON: pa.string(),
        Kind.INTEGER: pa.int64(),
        Kind.NUMBER: pa.float64(),
        Kind.DECIMAL: pa.decimal128(38, _DECIMALS),
        Kind.BOOLEAN: pa.bool_(),
        Kind.DAY: pa.date32(),
        Kind.INSTANT: pa.timestamp("us", "UTC"),
    }

    class Writer:
        def __init__(self, file: IO[bytes], fields: Sequence[Field]) -> None:
            self._decimals = [field.kind is Kind.DECIMAL for field in fields]
            self._schema = pa.schema(
                [
                    pa.field(field.name, types[field.kind], metadata={"comment": field.comment})
                    for field in fields
                ]
            )
            self._parquet = parquet.ParquetWriter(file, self._schema, compression="zstd")

        def write(self, rows: Sequence[Sequence[Any]]) -> None:
            columns = [
                pa.array([_rounded(v) for v in values] if decimal else values, type=field.type)
                for decimal, values, field in zip(
                    self._decimals, zip(*rows, strict=True), self._schema, strict=True
                )
            ]
            self._parquet.write_batch(pa.record_batch(columns, schema=self._schema))

        def close(self) -> None:
            self._parquet.close()

    return Writer


def _rounded(value: Decimal | None) -> Decimal | None:
    return None if value is None else round(value, _DECIMALS)

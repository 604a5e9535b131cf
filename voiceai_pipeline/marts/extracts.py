"""Extracts for export: which rows and columns of calls or of a mart, read as a stream.

Each extract is read from one snapshot, without what is written meanwhile. ``export.py`` has the
file formats.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_filter import CallFilter
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.tables import agents, call_logs, locations
from voiceai_pipeline.database.views import (
    ACTION_TYPES,
    CALL_COMMENTS,
    CALL_CONTENT,
    CALLS_WITH_NAMES,
    COUNTED_BY,
    DERIVED,
    IS_AGENT_DELETED,
    LOCATION_NAME,
)

CALLS: Final = "calls"
MART_NAMES: Final = tuple(mart.name for mart in ALL_MARTS)


class Kind(StrEnum):
    """The Python type of a column's values; ids are text."""

    TEXT = "str"
    JSON = "str of JSON"
    INTEGER = "int"
    NUMBER = "float"
    DECIMAL = "Decimal"
    BOOLEAN = "bool"
    DAY = "date"
    INSTANT = "datetime, aware UTC"


@dataclass(frozen=True)
class Field:
    """A column of an extract; ``comment`` is that of the table."""

    name: str
    kind: Kind
    comment: str


@dataclass(frozen=True)
class Extract:
    """The columns of an extract, and the query that selects exactly these."""

    fields: Sequence[Field]
    query: sa.Select[Any]


def calls(
    window: Window,
    location_ids: Collection[str] | None,
    *,
    trial: bool = False,
    missing: bool = False,
    content: bool = False,
) -> Extract:
    """Calls that started in ``window``, oldest first: one row per call, however many users see it.

    Args:
        location_ids: None: all locations.
        trial: include trial calls.
        missing: include calls that HighLevel no longer lists.
        content: include what was said and by whom.
    """
    query = (
        _calls(content)
        .where(call_logs.c.started_at >= window.start, call_logs.c.started_at < window.end)
        .order_by(call_logs.c.started_at, call_logs.c.location_id, call_logs.c.call_id)
    )
    if not trial:
        query = query.where(call_logs.c.is_trial.is_not(True))
    if not missing:
        query = query.where(call_logs.c.missing_since.is_(None))
    if location_ids is not None:
        query = query.where(call_logs.c.location_id.in_(location_ids))
    return _extract(query)


def listed_calls(*, content: bool = False) -> Extract:
    """The columns of every call, for ``read_listed``."""
    return _extract(_calls(content))


def _calls(content: bool) -> sa.Select[Any]:
    columns: list[sa.ColumnElement[Any]] = [
        call_logs.c.location_id,
        LOCATION_NAME.label("location_name"),
        locations.c.timezone.label("location_timezone"),
        call_logs.c.call_id,
        call_logs.c.agent_id,
        agents.c.name.label("agent_name"),
        call_logs.c.started_at,
        call_logs.c.duration_seconds,
        ACTION_TYPES,
        IS_AGENT_DELETED,
        call_logs.c.is_trial,
        call_logs.c.missing_since,
        call_logs.c.first_seen_at,
        call_logs.c.last_changed_at,
        *DERIVED,
        *COUNTED_BY,
    ]
    if content:
        columns += CALL_CONTENT
    return sa.select(*columns).select_from(CALLS_WITH_NAMES)


def mart(name: str, first: date, last: date, location_ids: Collection[str] | None) -> Extract:
    """A mart's rows from ``first`` to ``last``, inclusive: days of each location's own zone, or the
    weeks and months that contain such a day."""
    (table,) = (mart for mart in ALL_MARTS if mart.name == name)
    is_daily = "day" in table.c
    begins, ends = (table.c.day,) * 2 if is_daily else (table.c.first_day, table.c.last_day)
    query = (
        sa.select(table)
        .where(ends >= first, begins <= last)
        .order_by(begins, *(c for c in table.primary_key.columns if c is not begins))
    )
    if location_ids is not None:
        query = query.where(table.c.location_id.in_(location_ids))
    return _extract(query)


@contextmanager
def read_batches(
    engine: sa.Engine, extract: Extract, at_once: int
) -> Iterator[Iterator[Sequence[Sequence[Any]]]]:
    """The rows in batches of ``at_once``; memory never holds more than one batch."""
    with engine.connect().execution_options(postgresql_readonly=True, yield_per=at_once) as db:
        yield db.execute(extract.query).partitions()


@contextmanager
def read_listed(
    engine: sa.Engine, extract: Extract, wanted: CallFilter, at_once: int
) -> Iterator[Iterator[Sequence[Sequence[Any]]]]:
    """The calls of a list, in its order and in batches of ``at_once``.

    Only keys are sorted: a million transcripts would not fit in the server's memory.

    Args:
        extract: ``listed_calls``.
    """
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as db:
        # A client that stops reading must not hold a snapshot, which keeps old rows from VACUUM.
        db.execute(sa.text(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE}"))
        keys = db.execution_options(yield_per=at_once).execute(call_search.all_rows(wanted))
        yield (_rows_of(db, extract, part) for part in keys.partitions())


_IDLE: Final = 120_000
"""Milliseconds without progress of its reader after which the server ends an export."""


def _rows_of(
    db: sa.Connection, extract: Extract, keys: Sequence[sa.Row[Any]]
) -> Sequence[sa.Row[Any]]:
    """The rows with these keys, in their order."""
    texts = sa.ARRAY(sa.Text)
    wanted = (
        sa.func.unnest(
            sa.literal([key.location_id for key in keys], texts),
            sa.literal([key.call_id for key in keys], texts),
        )
        .table_valued("location_id", "call_id", with_ordinality="nth", name="wanted")
        .render_derived()
    )
    query = (
        extract.query.join(
            wanted,
            (wanted.c.location_id == call_logs.c.location_id)
            & (wanted.c.call_id == call_logs.c.call_id),
        )
        .order_by(wanted.c.nth)
        .execution_options(yield_per=None)
    )
    return db.execute(query).all()


def _extract(query: sa.Select[Any]) -> Extract:
    """The extract of a query; types that the file formats lack are cast to text."""
    plain = [
        sa.cast(column, sa.Text).label(column.name)
        if _is_json(column) or isinstance(column.type, sa.Uuid)
        else column
        for column in query.selected_columns
    ]
    fields = [
        Field(
            column.name,
            Kind.JSON if _is_json(column) else _kind(new.type),
            _comment(column),
        )
        for column, new in zip(query.selected_columns, plain, strict=True)
    ]
    return Extract(fields, query.with_only_columns(*plain))


def _is_json(column: sa.ColumnElement[Any]) -> bool:
    return isinstance(column.type, JSONB) or column.name == ACTION_TYPES.name


def _comment(column: sa.ColumnElement[Any]) -> str:
    own: str | None = getattr(column, "comment", None)
    return CALL_COMMENTS.get(column.name) or own or ""


def _kind(type_: sa.types.TypeEngine[Any]) -> Kind:
    for kinds, kind in _KINDS:
        if isinstance(type_, kinds):
            return kind
    raise TypeError(f"{type_!r} cannot be exported")


_KINDS: Final[tuple[tuple[type, Kind], ...]] = (
    (UtcDateTime, Kind.INSTANT),
    (sa.Date, Kind.DAY),
    (sa.Boolean, Kind.BOOLEAN),
    (sa.Integer, Kind.INTEGER),
    (sa.Float, Kind.NUMBER),
    (sa.Numeric, Kind.DECIMAL),
    (sa.Text, Kind.TEXT),
)

"""Pages of lists of stored calls, and how many calls a list has.

A page costs the same anywhere in a list of millions, because it starts after a given call, not at
an offset. ``call_queries.py`` builds the SQL.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.calls import call_queries, call_words
from voiceai_pipeline.calls.call_filter import CallFilter, Position, Scope, Sort
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import call_logs

COUNTED: Final = 100_000
COUNTED_HITS: Final = 2_000
COUNTED_DERIVED: Final = 20_000
"""Counting stops at this many calls: in any list, among the hits of a search, and in a list
narrowed by derived properties. Counting more would take longer than a page may."""

LOOKED_AT: Final = 20_000
"""In a list narrowed by actions, counting stops after this many calls are examined: actions are in
the wide rows."""

PATIENCE: Final = 4_000
PATIENCE_FOR_COUNTS: Final = 1_000
"""Milliseconds after which a query is canceled. A count gets less time, because a page can be shown
without it."""


@dataclass(frozen=True)
class CallRow:
    """A call in a list, with its position.

    Attributes:
        agent_name: the agent's latest name, even if it was deleted; None if it was never listed.
        actions: HighLevel's action types, in order.
        outcome: derived (``core/outcome.py``).
        summary, transcript, from_number, contact_id: content; also None if not requested.
    """

    position: Position
    location_name: str
    agent_id: str | None
    agent_name: str | None
    is_agent_deleted: bool | None
    started_at: datetime
    duration_seconds: float | None
    is_trial: bool | None
    missing_since: datetime | None
    first_seen_at: datetime
    last_changed_at: datetime
    actions: Sequence[str]
    outcome: str
    from_number: str | None = None
    contact_id: str | None = None
    summary: str | None = None
    transcript: str | None = None

    @property
    def location_id(self) -> str:
        return self.position.location_id

    @property
    def call_id(self) -> str:
        return self.position.call_id


@dataclass(frozen=True)
class Counts:
    """How many calls of each kind a filter finds.

    Attributes:
        is_more: counting stopped at a limit, so each number is only a lower bound.
    """

    live: int
    test: int
    gone: int
    is_more: bool = False

    @property
    def all(self) -> int:
        return self.live + self.test + self.gone


def page(
    db: sa.Connection,
    wanted: CallFilter,
    limit: int,
    *,
    after: Position | None = None,
    before: Position | None = None,
    content: bool = False,
    now: datetime | None = None,
) -> list[CallRow]:
    """One page of a list, in the list's order, at most ``limit`` calls: the first ones, those right
    after ``after``, or those right before ``before``.

    Args:
        content: include number, contact, summary and transcript.
        now: the current time (UTC), from which a list looks back first; None: from its end.

    Raises:
        sqlalchemy.exc.OperationalError: the query took too long (``be_patient``).
    """
    if not wanted.scopes:
        return []
    is_up = wanted.is_ascending is not (before is not None)
    edge = after or before
    parts = _first_parts(db, wanted, edge, now, is_up=is_up) if wanted.sort is Sort.TIME else ()
    rows: list[CallRow] = []
    for part, within in (*parts, (wanted, None)):
        if len(rows) < limit:
            rows = _page(db, part, limit, edge, is_up=is_up, content=content, within=within)
    return rows[::-1] if before is not None else rows


def one(
    db: sa.Connection, location_id: str, call_id: str, sort: Sort, *, content: bool = False
) -> CallRow | None:
    """A call as a list sorted by ``sort`` shows it; None if there is no such call."""
    keys = (
        sa.select(
            call_queries.key_of(sort).label("key"), call_logs.c.location_id, call_logs.c.call_id
        )
        .where(call_logs.c.location_id == location_id, call_logs.c.call_id == call_id)
        .subquery("keys")
    )
    found = db.execute(call_queries.rows_of(keys, content)).one_or_none()
    return None if found is None else _row(found)


def counts(db: sa.Connection, wanted: CallFilter) -> Counts:
    """How many calls of each kind the filter finds, whatever kind it shows.

    Raises:
        sqlalchemy.exc.OperationalError: the query took too long (``be_patient``).
    """
    if not wanted.scopes:
        return Counts(0, 0, 0)
    most = COUNTED_DERIVED if wanted.has or wanted.outcomes else COUNTED
    most = most if wanted.search is None else COUNTED_HITS
    hits = call_queries.hits_of(wanted, most + 1)
    columns: list[call_queries.Column] = [call_logs.c.is_trial, call_logs.c.missing_since]
    has_action: sa.ColumnElement[bool] = sa.true()
    if wanted.actions and hits is None:
        most = LOOKED_AT
        columns.append(call_queries.has_any_action(wanted.actions).label("has_action"))
        wanted = replace(wanted, actions=())
    some = call_queries.all_of(wanted, sa.true(), columns, hits).limit(most + 1).subquery()
    if "has_action" in some.c:
        has_action = some.c.has_action
    gone, test = some.c.missing_since.is_not(None), some.c.is_trial.is_(True)
    looked_at: sa.ColumnElement[int] = sa.func.count()
    if hits is not None:
        looked_at = sa.select(sa.func.count()).select_from(hits).scalar_subquery()
    row = db.execute(
        sa.select(
            sa.func.count().filter(has_action).label("every"),
            sa.func.count().filter(has_action, gone).label("gone"),
            sa.func.count().filter(has_action, ~gone, test).label("test"),
            looked_at.label("looked_at"),
        ).select_from(some)
    ).one()
    return Counts(row.every - row.gone - row.test, row.test, row.gone, is_more=row.looked_at > most)


def exact_count(db: sa.Connection, wanted: CallFilter) -> int:
    """The number of calls in the list, however long counting takes."""
    found = all_rows(wanted).order_by(None).subquery("found")
    return int(db.execute(sa.select(sa.func.count()).select_from(found)).scalar_one())


def all_rows(wanted: CallFilter) -> sa.Select[Any]:
    """Selects ``location_id``, ``call_id`` and ``key`` of every call in the list, in its order."""
    key = call_queries.key_of(wanted.sort)
    found = call_queries.all_of(
        wanted,
        call_queries.is_shown(wanted.show),
        [call_logs.c.location_id, call_logs.c.call_id, key.label("key")],
        call_queries.hits_of(wanted),
    )
    return found.order_by(*call_queries.order(wanted.is_ascending))


def location_ids(db: sa.Connection) -> list[str]:
    """Every location that has calls, even if no user can sync it now. Reads only an index."""
    return list(db.execute(_LOCATIONS).scalars())


def be_patient(db: sa.Connection, patience: int = PATIENCE) -> None:
    """Let PostgreSQL cancel queries of this transaction that take longer than ``patience``."""
    db.execute(
        sa.text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": str(patience)}
    )


def took_too_long(error: sa.exc.DBAPIError) -> bool:
    """Whether PostgreSQL canceled the query, as ``be_patient`` makes it do."""
    return getattr(error.orig, "sqlstate", None) == "57014"


def _page(
    db: sa.Connection,
    wanted: CallFilter,
    limit: int,
    edge: Position | None,
    *,
    is_up: bool,
    content: bool,
    within: Window | None,
) -> list[CallRow]:
    if not wanted.scopes:
        return []
    keys = call_queries.page_of(wanted, limit, edge, is_up=is_up, within=within)
    query = call_queries.rows_of(keys, content).order_by(*call_queries.order(is_up))
    return [_row(one) for one in db.execute(query)]


def _first_parts(
    db: sa.Connection,
    wanted: CallFilter,
    edge: Position | None,
    now: datetime | None,
    *,
    is_up: bool,
) -> Iterator[tuple[CallFilter, Window | None]]:
    """The filter, narrowed to parts of the list of growing length, the first of which fill the page
    if matches are common; none if narrowing does not help. If a part fills the page, no call
    outside it comes earlier in the list. With a part comes its time, if its calls are to be read by
    time, not by location."""
    are_many = len(wanted.scopes) > _MANY
    windows = [one.window for one in wanted.scopes if one.window]
    is_bounded = bool(windows) and len(windows) == len(wanted.scopes)
    end = max((w.end for w in windows), default=None) if is_bounded else _NEVER
    at = edge.value if edge is not None and isinstance(edge.value, datetime) else None
    lengths: Sequence[timedelta] = _LENGTHS
    if is_bounded:
        start = min(w.start for w in windows)
        at = at or (start if is_up else min(end or start, now or _NEVER))
        lengths = ((max(w.end for w in windows) - start) / _PARTS,)
    elif edge is None and not is_up and wanted.search is None:
        at = now
    if wanted.search is not None:
        parts = [call_words.first_part(db, at, is_up=is_up)]
    elif (wanted.is_selective or are_many) and at is not None:
        later = at + _INSTANT if edge is not None else end or at
        every = [
            Window(at, at + length) if is_up else Window(at - length, later)
            for length in (_LENGTHS_OF_MANY if are_many else lengths)
        ]
        first = next((part for part in every if _has_many(db, part)), None) if are_many else None
        parts = [first or every[-1]] if are_many else [*every]
    else:
        parts = []
    for part in parts:
        if part is not None:
            is_by_time = are_many and wanted.search is None
            scopes = wanted.scopes
            if is_by_time:
                there = _locations_in(db, part)
                scopes = [one for one in scopes if one.location_id in there]
            narrowed = replace(wanted, scopes=list(_within(scopes, part)))
            yield narrowed, part if is_by_time else None


def _has_many(db: sa.Connection, part: Window) -> bool:
    """Whether so many calls of any location are in a part that a page of them is likely."""
    at = call_logs.c.started_at
    inside = sa.select(sa.literal(1)).where(at >= part.start, at < part.end).limit(_LIKELY)
    query = sa.select(sa.func.count()).select_from(inside.subquery("inside"))
    return int(db.execute(query).scalar_one()) == _LIKELY


def _locations_in(db: sa.Connection, part: Window) -> set[str]:
    at = call_logs.c.started_at
    inside = sa.select(call_logs.c.location_id).where(at >= part.start, at < part.end)
    return set(db.execute(inside.distinct()).scalars())


_LIKELY: Final = 500
_PARTS: Final = 10
_LENGTHS: Final = (timedelta(days=3), timedelta(days=60))
"""The lengths of the parts of a list without bounds."""

_MANY: Final = 300
"""Scopes from which on looking into each takes longer than reading all calls of a short time."""

_LENGTHS_OF_MANY: Final = (
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(days=1),
    timedelta(days=7),
    timedelta(days=60),
)

_NEVER: Final = datetime(2101, 1, 2, tzinfo=UTC)
_INSTANT: Final = timedelta(microseconds=1)


def _within(scopes: Sequence[Scope], part: Window) -> Iterator[Scope]:
    for one in scopes:
        whole = one.window or part
        start, end = max(whole.start, part.start), min(whole.end, part.end)
        if start < end:
            yield Scope(one.location_id, Window(start, end))


_LOCATIONS: Final = sa.text(
    "WITH RECURSIVE found AS ("
    "(SELECT location_id FROM call_logs ORDER BY location_id LIMIT 1) UNION ALL "
    "SELECT (SELECT c.location_id FROM call_logs c WHERE c.location_id > f.location_id "
    "ORDER BY c.location_id LIMIT 1) FROM found f WHERE f.location_id IS NOT NULL) "
    "SELECT location_id FROM found WHERE location_id IS NOT NULL"
)


def _row(found: sa.Row[Any]) -> CallRow:
    values = dict(found._mapping)
    key, kinds = values.pop("key"), values.pop("action_types")
    position = Position(key, values.pop("location_id"), values.pop("call_id"))
    actions = tuple(kind for kind in kinds or () if isinstance(kind, str))
    return CallRow(position, actions=actions, **values)

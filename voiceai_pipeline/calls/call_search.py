"""Pages of lists of stored calls, and how many calls a list has.

A page costs the same anywhere in a list of millions, because it starts after a given call, not at
an offset. ``call_queries.py`` builds the SQL.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
PATIENCE_FOR_USERS: Final = 30_000
"""Milliseconds after which a query is canceled. A count gets less time, because a page can be shown
without it; a query of all users gets more, because very many are kept for a while."""


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
    of_time = wanted.sort is Sort.TIME
    found = None
    if of_time and wanted.search is None and len(wanted.scopes) > _MANY:
        found = _page_by_time(db, wanted, limit, edge, is_up=is_up, content=content)
    if found is None:
        found = []
        parts = _first_parts(db, wanted, edge, now, is_up=is_up) if of_time else ()
        for part in (*parts, wanted):
            if len(found) < limit:
                found = _page(db, part, limit, edge, is_up=is_up, content=content)
    return found[::-1] if before is not None else found


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


def be_patient(db: sa.Connection, limit: int | str = PATIENCE) -> None:
    """Let PostgreSQL cancel queries of this transaction that take longer than ``limit``."""
    db.execute(
        sa.text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": str(limit)}
    )


@contextmanager
def patience(db: sa.Connection, limit: int) -> Iterator[None]:
    """Another patience inside the ``with``; if nothing fails there, the former one after it."""
    before: str = db.execute(sa.text("SHOW statement_timeout")).scalar_one()
    be_patient(db, limit)
    yield
    be_patient(db, before)


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
    within: Window | None = None,
) -> list[CallRow]:
    if not wanted.scopes:
        return []
    keys = call_queries.page_of(wanted, limit, edge, is_up=is_up, within=within)
    query = call_queries.rows_of(keys, content).order_by(*call_queries.order(is_up))
    return [_row(one) for one in db.execute(query)]


def _page_by_time(
    db: sa.Connection,
    wanted: CallFilter,
    limit: int,
    edge: Position | None,
    *,
    is_up: bool,
    content: bool,
) -> list[CallRow] | None:
    """A page, read from all calls next to its edge, whatever their location. None if it has to be
    read location by location: few of these calls match, or calls of one time are scattered over the
    table, as after a backfill, so that finding them takes too long."""
    bounds = _bounds(wanted.scopes)
    at = edge.value if edge is not None and isinstance(edge.value, datetime) else None
    start = at or (bounds.start if is_up else bounds.end)
    try:
        with db.begin_nested(), patience(db, PATIENCE_FOR_COUNTS):
            for calls in _NEXT_CALLS:
                near = call_words.first_part(db, start, is_up=is_up, calls=calls)
                if near is None:
                    return None
                # To the edge or the bound itself: calls whose words are not indexed are in between.
                if is_up:
                    part = Window(start, min(near.end, bounds.end))
                else:
                    end = bounds.end if at is None else at + _INSTANT
                    part = Window(max(near.start, bounds.start), min(end, bounds.end))
                rows: list[CallRow] = []
                if part.start < part.end:
                    there = _locations_in(db, part)
                    scopes = [one for one in wanted.scopes if one.location_id in there]
                    narrowed = replace(wanted, scopes=list(_within(scopes, part)))
                    rows = _page(
                        db, narrowed, limit, edge, is_up=is_up, content=content, within=part
                    )
                is_whole = near.end >= bounds.end if is_up else near.start <= bounds.start
                if len(rows) == limit or is_whole:
                    return rows
    except sa.exc.OperationalError as error:
        if not took_too_long(error):
            raise
    return None


def _bounds(scopes: Sequence[Scope]) -> Window:
    """The time from the start of the first of these scopes to the end of the last."""
    windows = [one.window or _EVER for one in scopes]
    return Window(min(one.start for one in windows), max(one.end for one in windows))


def _locations_in(db: sa.Connection, part: Window) -> set[str]:
    at = call_logs.c.started_at
    inside = sa.select(call_logs.c.location_id).where(at >= part.start, at < part.end)
    return set(db.execute(inside.distinct()).scalars())


_MANY: Final = 2_000
"""Scopes from which on looking into each takes longer than reading all calls of a short time."""

_NEXT_CALLS: Final = (1_000, 20_000)
"""How many calls of all locations are read for a page: more if the first do not fill it."""


def _first_parts(
    db: sa.Connection,
    wanted: CallFilter,
    edge: Position | None,
    now: datetime | None,
    *,
    is_up: bool,
) -> Iterator[CallFilter]:
    """The filter, narrowed to parts of the list of growing length, the first of which fill the page
    if matches are common; none if narrowing does not help. If a part fills the page, no call
    outside it comes earlier in the list."""
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
    elif wanted.is_selective and at is not None:
        later = at + _INSTANT if edge is not None else end or at
        parts = [
            Window(at, at + length) if is_up else Window(at - length, later) for length in lengths
        ]
    else:
        parts = []
    for part in parts:
        if part is not None:
            yield replace(wanted, scopes=list(_within(wanted.scopes, part)))


_PARTS: Final = 10
_LENGTHS: Final = (timedelta(days=3), timedelta(days=60))
"""The lengths of the parts of a list without bounds."""

_NEVER: Final = datetime(2101, 1, 2, tzinfo=UTC)
_EVER: Final = Window(datetime(2000, 1, 1, tzinfo=UTC), _NEVER)
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

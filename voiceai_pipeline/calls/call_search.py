"""Lists of stored calls, page by page, and how many there are.

A page costs the same wherever it is in a list of millions: it starts after a call, not after a
number of calls. How filters become SQL is in ``call_queries.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.calls import call_queries, call_words
from voiceai_pipeline.calls.call_filter import CallFilter, Position, Scope, Sort
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import call_logs

COUNTED: Final = 100_000
COUNTED_OUTCOMES: Final = 5_000
COUNTED_HITS: Final = 2_000
"""Calls up to which a list is counted, one of some outcomes, and what a search finds: beyond it
takes longer than a page may."""

PATIENCE: Final = 4_000
"""Milliseconds after which a query is given up."""


@dataclass(frozen=True)
class CallRow:
    """A call in a list, and where it stands in it.

    Attributes:
        agent_name: its latest name, a deleted agent's too; None: never listed.
        actions: HighLevel's types, in order.
        outcome: derived (``core/outcome.py``).
        summary, transcript, from_number, contact_id: content; None also where it was not asked for.
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
        is_more: counting stopped: there are more, and the kinds are not known.
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
) -> list[CallRow]:
    """The first calls of a list, or those that follow ``after``, or those that lead to ``before``;
    in the list's order, at most ``limit``.

    Args:
        content: with number, contact, summary and transcript.

    Raises:
        sqlalchemy.exc.OperationalError: the query took longer than ``PATIENCE``.
    """
    if not wanted.scopes:
        return []
    is_up = wanted.is_ascending is not (before is not None)
    edge = after or before
    rows: list[CallRow] = []
    part = _first_part(db, wanted, edge, is_up=is_up) if wanted.sort is Sort.TIME else None
    if part is not None:
        rows = _page(db, part, limit, edge, is_up=is_up, content=content)
    if len(rows) < limit:
        rows = _page(db, wanted, limit, edge, is_up=is_up, content=content)
    return rows[::-1] if before is not None else rows


def one(
    db: sa.Connection, location_id: str, call_id: str, sort: Sort, *, content: bool = False
) -> CallRow | None:
    """A call as a list sorted by ``sort`` shows it; None: there is no such call."""
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
    """How many calls of each kind the filter finds, whichever of them it shows.

    Raises:
        sqlalchemy.exc.OperationalError: the query took longer than ``PATIENCE``.
    """
    if not wanted.scopes:
        return Counts(0, 0, 0)
    most = COUNTED_OUTCOMES if wanted.outcomes else COUNTED
    most = most if wanted.search is None else COUNTED_HITS
    hits = call_queries.hits_of(wanted, most + 1)
    if hits is None:
        hits = call_queries.with_outcome(wanted, most + 1)
        # Not asked again of each of them.
        wanted = wanted if hits is None else replace(wanted, outcomes=())
    columns: list[call_queries.Column] = [call_logs.c.is_trial, call_logs.c.missing_since]
    some = call_queries.all_of(wanted, sa.true(), columns, hits).limit(most + 1).subquery()
    gone, test = some.c.missing_since.is_not(None), some.c.is_trial.is_(True)
    looked_at = sa.select(sa.func.count()).select_from(hits if hits is not None else some)
    row = db.execute(
        sa.select(
            sa.func.count().label("every"),
            sa.func.count().filter(gone).label("gone"),
            sa.func.count().filter(~gone, test).label("test"),
            looked_at.scalar_subquery().label("looked_at"),
        ).select_from(some)
    ).one()
    return Counts(row.every - row.gone - row.test, row.test, row.gone, is_more=row.looked_at > most)


def exact_count(db: sa.Connection, wanted: CallFilter) -> int:
    """The number of calls of the list, however long it takes."""
    found = all_rows(wanted).order_by(None).subquery("found")
    return int(db.execute(sa.select(sa.func.count()).select_from(found)).scalar_one())


def all_rows(wanted: CallFilter) -> sa.Select[Any]:
    """The keys of every call of the list, in its order: ``location_id``, ``call_id``, ``key``."""
    key = call_queries.key_of(wanted.sort)
    found = call_queries.all_of(
        wanted,
        call_queries.is_shown(wanted.show),
        [call_logs.c.location_id, call_logs.c.call_id, key.label("key")],
        call_queries.hits_of(wanted),
    )
    return found.order_by(*call_queries.order(wanted.is_ascending))


def location_ids(db: sa.Connection) -> list[str]:
    """Every location that has calls, even if no user can read them now, from the index alone."""
    return list(db.execute(_LOCATIONS).scalars())


def be_patient(db: sa.Connection) -> None:
    """Give up every query of this transaction that takes longer than ``PATIENCE``."""
    db.execute(
        sa.text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": str(PATIENCE)}
    )


def took_too_long(error: sa.exc.DBAPIError) -> bool:
    """Whether a query was given up."""
    return getattr(error.orig, "sqlstate", None) == "57014"


def _page(
    db: sa.Connection,
    wanted: CallFilter,
    limit: int,
    edge: Position | None,
    *,
    is_up: bool,
    content: bool,
) -> list[CallRow]:
    if not wanted.scopes:
        return []
    keys = call_queries.page_of(wanted, limit, edge, is_up=is_up)
    query = call_queries.rows_of(keys, content).order_by(*call_queries.order(is_up))
    return [_row(one) for one in db.execute(query)]


def _first_part(
    db: sa.Connection, wanted: CallFilter, edge: Position | None, *, is_up: bool
) -> CallFilter | None:
    """The filter within the time where the page probably ends, if what is looked for is common;
    None: it is no use. Where the page is full there, nothing outside of it would come first."""
    windows = [one.window for one in wanted.scopes if one.window]
    is_bounded = bool(windows) and len(windows) == len(wanted.scopes)
    at = edge.value if edge is not None and isinstance(edge.value, datetime) else None
    if at is None and is_bounded:
        at = min(w.start for w in windows) if is_up else max(w.end for w in windows)
    if wanted.search is not None:
        part = call_words.first_part(db, at, is_up=is_up)
    elif wanted.is_selective and is_bounded and at is not None:
        length = (max(w.end for w in windows) - min(w.start for w in windows)) / _PARTS
        part = Window(at, at + length) if is_up else Window(at - length, at + _INSTANT)
    else:
        part = None
    return None if part is None else replace(wanted, scopes=list(_within(wanted.scopes, part)))


_PARTS: Final = 10
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

"""Lists of stored calls, page by page, and how many there are.

A page costs the same wherever it is in a list of millions: it starts after a call, not after a
number of calls. Each location is walked in the order of ``call_logs_list_idx``, and only as far as
the page needs; the rows themselves are read for the page alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.calls.call_filter import CallFilter, Position, Scope, Show, Sort
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.fact_tables import IS_NOT_FINAL, OUTCOME, call_facts
from voiceai_pipeline.database.tables import agents, call_logs
from voiceai_pipeline.database.views import ACTION_TYPES, CALLS_WITH_NAMES, LOCATION_NAME

COUNTED: Final = 100_000
COUNTED_HITS: Final = 10_000
"""Calls up to which a list, or what a search finds, is counted: beyond it takes longer than a page
may."""

PATIENCE: Final = 4_000
"""Milliseconds after which a query is given up."""

_UNKNOWN_DURATION: Final = -1.0


@dataclass(frozen=True)
class CallRow:
    """A call in a list, and where it stands in it.

    Attributes:
        agent_name: its latest name; None: never read.
        actions: HighLevel's types, in order.
        outcome: derived (``core/outcome.py``).
        summary, transcript, from_number, contact_id: content; None also where it was not asked for.
    """

    position: Position
    location_name: str
    agent_id: str | None
    agent_name: str | None
    is_agent_deleted: bool
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
    if wanted.search is not None and wanted.sort is Sort.TIME:
        part = _first_part(db, wanted, edge, is_up=is_up)
        rows = _page(db, part, limit, edge, is_up=is_up, content=content)
    if len(rows) < limit:
        rows = _page(db, wanted, limit, edge, is_up=is_up, content=content)
    return rows[::-1] if before is not None else rows


def one(
    db: sa.Connection, location_id: str, call_id: str, sort: Sort, *, content: bool = False
) -> CallRow | None:
    """A call as a list sorted by ``sort`` shows it; None: there is no such call."""
    keys = (
        sa.select(_key(sort).label("key"), call_logs.c.location_id, call_logs.c.call_id)
        .where(call_logs.c.location_id == location_id, call_logs.c.call_id == call_id)
        .subquery("keys")
    )
    found = db.execute(_rows(keys, content)).one_or_none()
    return None if found is None else _row(found)


def counts(db: sa.Connection, wanted: CallFilter) -> Counts:
    """How many calls of each kind the filter finds, whichever of them it shows.

    Raises:
        sqlalchemy.exc.OperationalError: the query took longer than ``PATIENCE``.
    """
    if not wanted.scopes:
        return Counts(0, 0, 0)
    found = _found(wanted, sa.true(), [call_logs.c.is_trial, call_logs.c.missing_since])
    most = COUNTED if wanted.search is None else COUNTED_HITS
    some = found.limit(most + 1).subquery()
    gone, test = some.c.missing_since.is_not(None), some.c.is_trial.is_(True)
    row = db.execute(
        sa.select(
            sa.func.count().label("every"),
            sa.func.count().filter(gone).label("gone"),
            sa.func.count().filter(~gone, test).label("test"),
        ).select_from(some)
    ).one()
    return Counts(row.every - row.gone - row.test, row.test, row.gone, is_more=row.every > most)


def exact_count(db: sa.Connection, wanted: CallFilter) -> int:
    """The number of calls of the list, however long it takes."""
    found = all_rows(wanted).order_by(None).subquery("found")
    return int(db.execute(sa.select(sa.func.count()).select_from(found)).scalar_one())


def all_rows(wanted: CallFilter) -> sa.Select[Any]:
    """The keys of every call of the list, in its order: ``location_id``, ``call_id``, ``key``."""
    key = _key(wanted.sort)
    found = _found(
        wanted,
        _shown(wanted.show),
        [call_logs.c.location_id, call_logs.c.call_id, key.label("key")],
    )
    return found.order_by(*_order(wanted.is_ascending))


def location_ids(db: sa.Connection) -> list[str]:
    """Every location that has calls, whoever may read them now, from the index alone."""
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
    keys = _keys(wanted, limit, edge, is_up=is_up)
    query = _rows(keys, content).order_by(*_order(is_up))
    return [_row(one) for one in db.execute(query)]


def _first_part(
    db: sa.Connection, wanted: CallFilter, edge: Position | None, *, is_up: bool
) -> CallFilter:
    """The filter within the time where the page probably ends, if what is looked for is common.
    Where the page is full there, nothing outside of it would come first."""
    at = edge.value if edge is not None and isinstance(edge.value, datetime) else None
    ends = [(one.window.start if is_up else one.window.end) for one in wanted.scopes if one.window]
    if at is None and len(ends) == len(wanted.scopes):
        at = min(ends) if is_up else max(ends)
    part = call_words.first_part(db, at, is_up=is_up)
    if part is None:
        return replace(wanted, scopes=())
    scopes = []
    for one in wanted.scopes:
        whole = one.window or part
        start, end = max(whole.start, part.start), min(whole.end, part.end)
        if start < end:
            scopes.append(Scope(one.location_id, Window(start, end)))
    return replace(wanted, scopes=scopes)


# Queries -----------------------------------------------------------------------------------------

_LOCATIONS: Final = sa.text(
    "WITH RECURSIVE found AS ("
    "(SELECT location_id FROM call_logs ORDER BY location_id LIMIT 1) UNION ALL "
    "SELECT (SELECT c.location_id FROM call_logs c WHERE c.location_id > f.location_id "
    "ORDER BY c.location_id LIMIT 1) FROM found f WHERE f.location_id IS NOT NULL) "
    "SELECT location_id FROM found WHERE location_id IS NOT NULL"
)


def _key(sort: Sort) -> sa.ColumnElement[Any]:
    if sort is Sort.DURATION:
        return sa.func.coalesce(call_logs.c.duration_seconds, _UNKNOWN_DURATION)
    return call_logs.c.started_at if sort is Sort.TIME else call_logs.c.first_seen_at


def _order(is_up: bool) -> list[Any]:
    names: list[sa.ColumnClause[Any]] = [
        sa.column(name) for name in ("key", "location_id", "call_id")
    ]
    return [name.asc() if is_up else name.desc() for name in names]


def _keys(wanted: CallFilter, limit: int, edge: Position | None, *, is_up: bool) -> sa.Subquery:
    """The keys of one page: of each location no more than the page can hold."""
    key = _key(wanted.sort)
    where = _shown(wanted.show)
    if edge is not None:
        here = sa.tuple_(key, call_logs.c.location_id, call_logs.c.call_id)
        kind: Any = sa.Double() if wanted.sort is Sort.DURATION else UtcDateTime()
        there = sa.tuple_(
            sa.literal(edge.value, kind), sa.literal(edge.location_id), sa.literal(edge.call_id)
        )
        bound = sa.literal(edge.value, kind)
        # The second bound is the first one's, in words that an index understands.
        where &= here > there if is_up else here < there
        where &= key >= bound if is_up else key <= bound
    columns = [call_logs.c.location_id, call_logs.c.call_id, key.label("key")]
    if wanted.search is not None:
        found = _found(wanted, where, columns)
    else:
        scope = _scopes(wanted)
        own = (
            sa.select(*columns)
            .where(_in_scope(scope), *_conditions(wanted), where)
            .order_by(*_order(is_up))
            .limit(limit)
            .correlate(scope)
            .lateral("own")
        )
        found = sa.select(own).select_from(scope.join(own, sa.true()))
    return found.order_by(*_order(is_up)).limit(limit).subquery("keys")


def _found(
    wanted: CallFilter, where: sa.ColumnElement[bool], columns: Sequence[sa.ColumnElement[Any]]
) -> sa.Select[Any]:
    """Every call of the filter, in no order."""
    scope = _scopes(wanted)
    query = sa.select(*columns).where(_in_scope(scope), *_conditions(wanted), where)
    if wanted.search is None:
        return query.select_from(scope.join(call_logs, _in_scope(scope)))
    hits: sa.SelectBase = call_words.hits(wanted.search, wanted.scopes, only_ids=wanted.only_ids)
    if wanted.search.identifier:
        # A call that is looked for by its id is found before its words are.
        by_id = (
            sa.select(call_logs.c.location_id, call_logs.c.call_id)
            .select_from(scope.join(call_logs, _in_scope(scope)))
            .where(call_logs.c.call_id == wanted.search.identifier)
        )
        hits = sa.union(hits, by_id)
    keys = hits.subquery("hits")
    matches = (keys.c.location_id == call_logs.c.location_id) & (
        keys.c.call_id == call_logs.c.call_id
    )
    return query.select_from(keys.join(call_logs, matches).join(scope, _in_scope(scope)))


def _scopes(wanted: CallFilter) -> sa.TableValuedAlias:
    """The locations and their windows as a table."""
    windows = [one.window for one in wanted.scopes]
    arrays: list[Any] = [
        sa.literal([one.location_id for one in wanted.scopes], ARRAY(sa.Text)),
        sa.literal([one and one.start for one in windows], ARRAY(UtcDateTime)),
        sa.literal([one and one.end for one in windows], ARRAY(UtcDateTime)),
    ]
    return (
        sa.func.unnest(*arrays)
        .table_valued(
            sa.column("location_id", sa.Text),
            sa.column("first", UtcDateTime),
            sa.column("last", UtcDateTime),
            name="scope",
        )
        .render_derived()
    )


def _in_scope(scope: sa.TableValuedAlias) -> sa.ColumnElement[bool]:
    first = sa.func.coalesce(scope.c.first, sa.text("'-infinity'"))
    last = sa.func.coalesce(scope.c.last, sa.text("'infinity'"))
    return sa.and_(
        call_logs.c.location_id == scope.c.location_id,
        call_logs.c.started_at >= first,
        call_logs.c.started_at < last,
    )


def _shown(show: Show) -> sa.ColumnElement[bool]:
    is_listed, is_test = call_logs.c.missing_since.is_(None), call_logs.c.is_trial.is_(True)
    return {
        Show.LIVE: is_listed & call_logs.c.is_trial.is_not(True),
        Show.TEST: is_listed & is_test,
        Show.GONE: ~is_listed,
        Show.ALL: sa.true(),
    }[show]


def _conditions(wanted: CallFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.agent_ids:
        found.append(call_logs.c.agent_id.in_(wanted.agent_ids))
    if wanted.min_seconds is not None:
        found.append(call_logs.c.duration_seconds >= wanted.min_seconds)
    if wanted.max_seconds is not None:
        found.append(call_logs.c.duration_seconds <= wanted.max_seconds)
    if wanted.changed_since is not None:
        found.append(call_logs.c.last_changed_at >= wanted.changed_since)
    if wanted.outcomes:
        found.append(_has_outcome(wanted.outcomes))
    if wanted.actions:
        found.append(
            sa.or_(
                *(
                    call_logs.c.executed_call_actions.contains(
                        sa.literal([{"actionType": kind}], JSONB)
                    )
                    for kind in wanted.actions
                )
            )
        )
    return found


def _has_outcome(outcomes: Sequence[str]) -> sa.ColumnElement[bool]:
    """An outcome that is not derived yet, or may change, is NOT_FINAL."""
    final = sa.exists().where(
        call_facts.c.location_id == call_logs.c.location_id,
        call_facts.c.call_id == call_logs.c.call_id,
        sa.not_(IS_NOT_FINAL),
    )
    one_of = final.where(call_facts.c.outcome.in_(outcomes))
    return one_of | ~final if Outcome.NOT_FINAL in outcomes else one_of


def _rows(keys: sa.Subquery, content: bool) -> sa.Select[Any]:
    is_gone = call_logs.c.is_agent_deleted.is_(True) | agents.c.missing_since.is_not(None)
    same = (keys.c.location_id == call_logs.c.location_id) & (keys.c.call_id == call_logs.c.call_id)
    names: tuple[str, ...] = ("from_number", "contact_id", "summary", "transcript")
    return sa.select(
        keys.c.key,
        keys.c.location_id,
        keys.c.call_id,
        LOCATION_NAME.label("location_name"),
        call_logs.c.agent_id,
        agents.c.name.label("agent_name"),
        is_gone.label("is_agent_deleted"),
        call_logs.c.started_at,
        call_logs.c.duration_seconds,
        call_logs.c.is_trial,
        call_logs.c.missing_since,
        call_logs.c.first_seen_at,
        call_logs.c.last_changed_at,
        ACTION_TYPES,
        OUTCOME,
        *(call_logs.c[name] for name in names if content),
    ).select_from(keys.join(CALLS_WITH_NAMES, same))


def _row(found: sa.Row[Any]) -> CallRow:
    values = dict(found._mapping)
    key, kinds = values.pop("key"), values.pop("action_types")
    position = Position(key, values.pop("location_id"), values.pop("call_id"))
    actions = tuple(kind for kind in kinds or () if isinstance(kind, str))
    return CallRow(position, actions=actions, **values)

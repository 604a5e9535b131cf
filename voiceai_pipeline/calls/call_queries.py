"""Builds the SQL of lists of calls from a filter. ``call_search.py`` decides which queries run.

Each location's calls are read in the order of ``call_logs_list_idx``, only as far as the page
needs; a search starts from its hits instead, and a list of very many locations from the calls of a
short time, whatever their location. The wide rows are read only for the keys of the page.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.calls.call_filter import CallFilter, Derived, Position, Show, Sort
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.fact_tables import IS_NOT_FINAL, OUTCOME, call_facts
from voiceai_pipeline.database.tables import agents, call_logs
from voiceai_pipeline.database.views import (
    ACTION_TYPES,
    CALLS_WITH_NAMES,
    IS_AGENT_DELETED,
    LOCATION_NAME,
)

_UNKNOWN_DURATION: Final = -1.0


Column = sa.Column[Any] | sa.Label[Any]


def key_of(sort: Sort) -> sa.ColumnElement[Any]:
    """The sort key of a list: a time, or a duration in seconds (-1 if unknown)."""
    if sort is Sort.DURATION:
        return sa.func.coalesce(call_logs.c.duration_seconds, _UNKNOWN_DURATION)
    return call_logs.c.started_at if sort is Sort.TIME else call_logs.c.first_seen_at


def order(is_up: bool) -> list[Any]:
    """ORDER BY the sort key; location id and call id break ties."""
    names: list[sa.ColumnClause[Any]] = [
        sa.column(name) for name in ("key", "location_id", "call_id")
    ]
    return [name.asc() if is_up else name.desc() for name in names]


def page_of(
    wanted: CallFilter,
    limit: int,
    edge: Position | None,
    *,
    is_up: bool,
    within: Window | None = None,
) -> sa.Subquery:
    """The keys of one page, which starts after ``edge``; None: at the start of the list.

    Args:
        within: a short time that contains the windows of all scopes: all calls of this time are
            read, in any order, instead of each location's.
    """
    key = key_of(wanted.sort)
    where = is_shown(wanted.show)
    if edge is not None:
        here = sa.tuple_(key, call_logs.c.location_id, call_logs.c.call_id)
        kind: Any = sa.Double() if wanted.sort is Sort.DURATION else UtcDateTime()
        there = sa.tuple_(
            sa.literal(edge.value, kind), sa.literal(edge.location_id), sa.literal(edge.call_id)
        )
        bound = sa.literal(edge.value, kind)
        # The second condition follows from the first, and can use an index.
        where &= here > there if is_up else here < there
        where &= key >= bound if is_up else key <= bound
    columns: list[Column] = [call_logs.c.location_id, call_logs.c.call_id, key.label("key")]
    if wanted.search is not None:
        found = all_of(wanted, where, columns, hits_of(wanted))
    elif within is not None:
        found = _in_time(wanted, where, columns, within)
    else:
        scope = _scopes(wanted)
        own = (
            _of_location(wanted, scope, columns)
            .where(where)
            .order_by(*order(is_up))
            .limit(limit)
            .correlate(scope)
            .lateral("own")
        )
        found = sa.select(own).select_from(scope.join(own, sa.true()))
    return found.order_by(*order(is_up)).limit(limit).subquery("keys")


def all_of(
    wanted: CallFilter,
    where: sa.ColumnElement[bool],
    columns: Sequence[Column],
    hits: sa.CTE | None,
) -> sa.Select[Any]:
    """Selects every call of the filter, unordered.

    Args:
        hits: only these calls are looked at; None for all calls of the scopes.
    """
    scope = _scopes(wanted)
    if hits is None and (wanted.has or wanted.outcomes):
        own = _of_location(wanted, scope, columns).where(where).offset(0)
        one = own.correlate(scope).lateral("own")
        query = sa.select(*(one.c[column.name] for column in columns))
        return query.select_from(scope.join(one, sa.true()))
    if hits is None:
        query = sa.select(*columns).where(_in_scope(scope), *_conditions(wanted), where)
        return query.select_from(scope.join(call_logs, _in_scope(scope)))
    location, start = call_logs.c.location_id.label("of"), call_logs.c.started_at.label("at")
    hit = (
        sa.select(*columns, location, start)
        .where(
            call_logs.c.location_id == hits.c.location_id,
            call_logs.c.call_id == hits.c.call_id,
            *_conditions(wanted),
            where,
        )
        # OFFSET 0 forces a lookup of each hit. The server cannot estimate the scopes, and would
        # otherwise scan them.
        .offset(0)
        .lateral("hit")
    )
    inside = (hit.c.of == scope.c.location_id) & _is_between(hit.c.at, scope)
    found = hits.join(hit, sa.true()).join(scope, inside)
    return sa.select(*(hit.c[column.name] for column in columns)).select_from(found)


def _in_time(
    wanted: CallFilter, where: sa.ColumnElement[bool], columns: Sequence[Column], within: Window
) -> sa.Select[Any]:
    """Selects the calls of a short time, found by ``call_logs_started_at_idx``."""
    scope, at = _scopes(wanted), call_logs.c.started_at
    of, start = call_logs.c.location_id.label("of"), at.label("at")
    calls = (
        sa.select(*columns, of, start)
        .where(at >= within.start, at < within.end, *_conditions(wanted), where)
        # OFFSET 0 keeps the server from looking for each location's calls first.
        .offset(0)
        .subquery("calls")
    )
    inside = (calls.c.of == scope.c.location_id) & _is_between(calls.c.at, scope)
    return sa.select(*(calls.c[column.name] for column in columns)).select_from(
        calls.join(scope, inside)
    )


def _of_location(
    wanted: CallFilter, scope: sa.TableValuedAlias, columns: Sequence[Column]
) -> sa.Select[Any]:
    """Selects the calls of one row of ``scope``. Facts that the filter asks for are joined, so that
    a location's facts are read at once: looking up each call's facts takes six times as long."""
    query = sa.select(*columns).where(_in_scope(scope))
    if not wanted.has and not wanted.outcomes:
        return query.where(*_conditions(wanted))
    same = (
        (call_facts.c.location_id == scope.c.location_id)
        & (call_facts.c.call_id == call_logs.c.call_id)
        & (call_facts.c.started_at == call_logs.c.started_at)
        & _is_between(call_facts.c.started_at, scope)
    )
    query = query.select_from(call_logs.outerjoin(call_facts, same)).where(
        *_conditions(replace(wanted, has=(), outcomes=())), *(_DERIVED[one] for one in wanted.has)
    )
    if wanted.outcomes:
        query = query.where(OUTCOME.element.in_(wanted.outcomes))
        if Outcome.NOT_FINAL not in wanted.outcomes:
            # Follows from the condition above, and can use an index.
            query = query.where(call_facts.c.outcome.in_(wanted.outcomes))
    return query


def hits_of(wanted: CallFilter, most: int | None = None) -> sa.CTE | None:
    """What the search finds, before other filters; at most ``most`` calls by their words. None if
    there is no search."""
    if wanted.search is None:
        return None
    found: Any = call_words.hits(wanted.search, wanted.scopes, only_ids=wanted.only_ids).limit(most)
    if wanted.search.identifier:
        # A call is found by its id even before its words are indexed.
        scope = _scopes(wanted)
        by_id = (
            sa.select(call_logs.c.location_id, call_logs.c.call_id)
            .select_from(scope.join(call_logs, _in_scope(scope)))
            .where(call_logs.c.call_id == wanted.search.identifier)
        )
        found = sa.union(sa.select(found.subquery("words")), by_id)
    cte: sa.CTE = found.cte("hits").prefix_with("MATERIALIZED", dialect="postgresql")
    return cte


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
    is_there = call_logs.c.location_id == scope.c.location_id
    return is_there & _is_between(call_logs.c.started_at, scope)


def _is_between(
    at: sa.ColumnElement[datetime], scope: sa.TableValuedAlias
) -> sa.ColumnElement[bool]:
    first = sa.func.coalesce(scope.c.first, sa.text("'-infinity'"))
    last = sa.func.coalesce(scope.c.last, sa.text("'infinity'"))
    return (at >= first) & (at < last)


def is_shown(show: Show) -> sa.ColumnElement[bool]:
    """SQL condition: the call is of the kind that ``show`` asks for."""
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
        found.append(call_logs.c.duration_seconds < wanted.max_seconds + 1)
    if wanted.changed_since is not None:
        found.append(call_logs.c.last_changed_at >= wanted.changed_since)
    if wanted.has:
        found.append(sa.exists().where(*_FACTS_OF_CALL, *(_DERIVED[one] for one in wanted.has)))
    if wanted.outcomes:
        found.append(_has_outcome(wanted.outcomes))
    if wanted.actions:
        found.append(has_any_action(wanted.actions))
    return found


def has_any_action(kinds: Sequence[str]) -> sa.ColumnElement[bool]:
    """SQL condition: the call has an action of one of these types."""
    return sa.or_(
        *(
            call_logs.c.executed_call_actions.contains(sa.literal([{"actionType": kind}], JSONB))
            for kind in kinds
        )
    )


_FACTS_OF_CALL: Final = (
    call_facts.c.location_id == call_logs.c.location_id,
    call_facts.c.call_id == call_logs.c.call_id,
    call_facts.c.started_at == call_logs.c.started_at,
)

_DERIVED: Final = {
    Derived.ENGAGED: call_facts.c.is_engaged,
    Derived.TRANSFERRED: call_facts.c.is_transferred,
    Derived.CONTAINED: call_facts.c.is_engaged & ~call_facts.c.is_transferred,
    Derived.CAPTURED: call_facts.c.is_data_captured,
}


def _has_outcome(outcomes: Sequence[str]) -> sa.ColumnElement[bool]:
    """SQL condition. An outcome that is not derived yet, or may still change, is NOT_FINAL."""
    final = sa.exists().where(*_FACTS_OF_CALL, sa.not_(IS_NOT_FINAL))
    one_of = final.where(call_facts.c.outcome.in_(outcomes))
    return one_of | ~final if Outcome.NOT_FINAL in outcomes else one_of


def rows_of(keys: sa.Subquery, content: bool) -> sa.Select[Any]:
    """Selects the rows with these keys, unordered."""
    same = (keys.c.location_id == call_logs.c.location_id) & (keys.c.call_id == call_logs.c.call_id)
    names: tuple[str, ...] = ("from_number", "contact_id", "summary", "transcript")
    return sa.select(
        keys.c.key,
        keys.c.location_id,
        keys.c.call_id,
        LOCATION_NAME.label("location_name"),
        call_logs.c.agent_id,
        agents.c.name.label("agent_name"),
        IS_AGENT_DELETED,
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

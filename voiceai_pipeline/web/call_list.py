"""The list of calls. Its address alone sets the filters, the order and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from voiceai_pipeline.calls import (
    call_content,
    call_options,
    call_search,
    call_words,
    deleted_months,
)
from voiceai_pipeline.calls.call_content import Kind
from voiceai_pipeline.calls.call_filter import Show, Sort
from voiceai_pipeline.calls.call_options import AgentChoice, Coverage
from voiceai_pipeline.calls.call_search import CallRow, Counts
from voiceai_pipeline.core.call import ACTION_TYPES, agent_label
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.kept_days import sentence
from voiceai_pipeline.core.outcome import Outcome, label, sentences
from voiceai_pipeline.web import call_scope, call_texts
from voiceai_pipeline.web.access import refuse_analysts
from voiceai_pipeline.web.call_export import formats
from voiceai_pipeline.web.call_query import PRESETS, CallQuery, call_path
from voiceai_pipeline.web.call_scope import CallScope
from voiceai_pipeline.web.call_texts import Part
from voiceai_pipeline.web.headers import with_scripts
from voiceai_pipeline.web.pages import render
from voiceai_pipeline.web.site import Site, site_of

PER_PAGE: Final = 50
OPENINGS: Final = 200
"""How many openings of content operators see."""

MOST_CHOICES: Final = 300
"""Maximum number of locations, users or agents in a drop-down; with more, a name is typed."""

_MOST_COUNTED: Final = 20_000
"""Scopes up to which calls are counted: looking into more takes longer than a page may."""

INDEXED_WITHIN: Final = timedelta(minutes=2)
"""A call should be found by its words after this long."""

_SHOWN: Final = {
    Show.LIVE: "Live",
    Show.TEST: "Test",
    Show.GONE: "No longer listed",
    Show.ALL: "All",
}


@dataclass(frozen=True)
class Listed:
    """A row as the page shows it.

    Attributes:
        day, time: in the chosen zone, which ``time`` names.
        source: where the search found the call; "": not in a text.
        text: the sentence that the search found, else the summary.
    """

    row: CallRow
    address: str
    day: str
    time: str
    duration: str
    agent: str
    actions: Sequence[str]
    outcome: str
    first_seen: str
    source: str
    text: Sequence[Part]


def list_page(request: Request) -> Response:
    """``/calls``."""
    site = site_of(request)
    query = CallQuery.of(request.query_params)
    content = call_scope.may_see_content(request)
    now = datetime.now(UTC)
    try:
        with site.pipeline.engine.begin() as db:
            call_search.be_patient(db)
            scope = call_scope.read_scope(db, site, query, content=content)
            rows = call_search.page(
                db,
                scope.wanted,
                PER_PAGE + 1,
                after=query.after,
                before=query.before,
                content=content,
                now=now,
            )
            shown = rows[-PER_PAGE:] if query.before else rows[:PER_PAGE]
            if content and shown:
                call_scope.record(db, request, Kind.LIST, len(shown))
            extra = _extra(db, site, scope, now)
            is_behind = scope.wanted.search is not None and call_words.is_behind(
                db, now, INDEXED_WITHIN
            )
    except sa.exc.OperationalError as error:
        if call_search.took_too_long(error):
            raise call_scope.too_long() from None
        raise
    is_more = len(rows) > PER_PAGE
    answer = render(
        request,
        "calls.html",
        query=query,
        scope=scope,
        rows=[_listed(one, scope, query, site) for one in shown],
        newer=shown[0].position if shown and (query.after or (query.before and is_more)) else None,
        older=shown[-1].position if shown and (query.before or is_more) else None,
        content=content,
        presets=PRESETS,
        kinds=_SHOWN,
        sorts=Sort,
        action_types=sorted(ACTION_TYPES, key=call_texts.action),
        action_words=call_texts.action,
        outcomes=_outcomes(site),
        rules=sentences(site.pipeline.metrics),
        cleaned=cleaned,
        most_choices=MOST_CHOICES,
        formats=formats(),
        is_behind=is_behind,
        **extra,
    )
    return with_scripts(answer, site.page)


def _outcomes(site: Site) -> Mapping[str, str]:
    """What each outcome is called, in the order of the rules."""
    goals = site.pipeline.metrics.goal_actions
    return {one.value: label(one, goals) for one in Outcome}


def _extra(db: sa.Connection, site: Site, scope: CallScope, now: datetime) -> Mapping[str, Any]:
    """What the page shows around the rows: counts, agents, and how many days were read."""
    agents = _agents(db, [one.location_id for one in scope.chosen])
    zone, keep_days = site.pipeline.zone, site.pipeline.keep_days
    since = deleted_months.kept_since(db, zone, keep_days, now)
    coverage = call_options.coverage(db, scope.wanted.scopes, zone, now, since)
    return {
        "counts": _counts(db, scope),
        "agents": [
            (one.agent_id, agent_label(one.agent_id, one.name, is_deleted=one.is_deleted))
            for one in agents
        ],
        "coverage": coverage,
        "not_kept": sentence(since) if since and _reaches_back(scope, coverage) else "",
    }


def _agents(db: sa.Connection, location_ids: Sequence[str]) -> list[AgentChoice]:
    """The agents of these locations, or more than can be chosen from."""
    most = MOST_CHOICES + 1
    some = call_options.agents_of(db, location_ids[:_LIKELY_ENOUGH], most)
    is_all = len(some) == most or len(location_ids) <= _LIKELY_ENOUGH
    return some if is_all else call_options.agents_of(db, location_ids, most)


_LIKELY_ENOUGH: Final = 1_000
"""Locations that are likely to have more agents than can be chosen from."""


def _counts(db: sa.Connection, scope: CallScope) -> Counts | None:
    """How many calls there are of each kind; None if counting takes too long."""
    if len(scope.wanted.scopes) > _MOST_COUNTED:
        return None
    try:
        with db.begin_nested():
            call_search.be_patient(db, call_search.PATIENCE_FOR_COUNTS)
            return call_search.counts(db, scope.wanted)
    except sa.exc.OperationalError as error:
        if call_search.took_too_long(error):
            return None
        raise


def _reaches_back(scope: CallScope, coverage: Coverage | None) -> bool:
    """Whether the list has days that are no longer kept, or has no beginning."""
    if coverage is not None:
        return coverage.not_kept > 0
    return any(one.window is None for one in scope.wanted.scopes)


def _listed(row: CallRow, scope: CallScope, query: CallQuery, site: Site) -> Listed:
    zone = scope.zone_of(row.location_id, query.zone, site.pipeline.zone)
    day, time = call_texts.day_and_time(row.started_at, zone)
    wanted = call_texts.words_of(scope.wanted.search)
    source, text = call_texts.sentence_with_hit(row, wanted)
    if not text and row.summary:
        text = [Part(cleaned(row.summary, call_texts.SUMMARY_LENGTH))]
    return Listed(
        row=row,
        address=query.call_address(row.location_id, row.call_id),
        day=day,
        time=time,
        duration=call_texts.duration(row.duration_seconds),
        agent=call_texts.agent(row),
        actions=call_texts.actions(row.actions),
        outcome=_outcomes(site)[row.outcome],
        first_seen=" ".join(call_texts.day_and_time(row.first_seen_at, zone)),
        source=source,
        text=text,
    )


def openings_page(request: Request) -> Response:
    """``/calls/openings``: who opened what callers said, for operators."""
    refuse_analysts(request)
    site = site_of(request)
    with site.pipeline.engine.begin() as db:
        found = call_content.openings(db, OPENINGS)
    return render(request, "openings.html", openings=found, most=OPENINGS, call_path=call_path)

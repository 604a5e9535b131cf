"""One call: what it was about, what was said, what the agent ran, and what HighLevel sent."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import call_content, call_search
from voiceai_pipeline.calls.call_content import Action, CallContent, Kind
from voiceai_pipeline.calls.call_search import CallRow
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.outcome import Outcome, label, sentences
from voiceai_pipeline.web import call_scope, call_texts
from voiceai_pipeline.web.call_list import list_page, openings_page
from voiceai_pipeline.web.call_query import PATH, CallQuery
from voiceai_pipeline.web.headers import with_scripts
from voiceai_pipeline.web.pages import PageError, reading, render
from voiceai_pipeline.web.site import site_of

_HIGHLEVEL_ID: Final = re.compile(r"[A-Za-z0-9]{10,40}")
"""What HighLevel's ids look like; nothing else becomes a part of a link."""

_KEY: Final = re.compile(r"[^\x00-\x1f]{1,500}")
_YEARS: Final = range(1970, 2200)


@dataclass(frozen=True)
class ShownAction:
    """An action in words.

    Attributes:
        at: the time in the chosen zone, or as HighLevel wrote it; "": not given.
        after: how long after the start of the call; "": not known, or before it.
        parameters: as JSON; "": there are none.
    """

    name: str
    kind: str
    at: str
    after: str
    parameters: str


def routes() -> list[Route]:
    """The pages of calls, except their export."""
    return [
        Route(PATH, reading(list_page), methods=["GET"]),
        Route(f"{PATH}/openings", reading(openings_page), methods=["GET"]),
        Route(f"{PATH}/{{location_id}}/{{call_id:path}}", reading(_call_page), methods=["GET"]),
    ]


def _call_page(request: Request) -> Response:
    site = site_of(request)
    query = CallQuery.of(request.query_params)
    location_id, call_id = (request.path_params[name] for name in ("location_id", "call_id"))
    if not _KEY.fullmatch(location_id) or not _KEY.fullmatch(call_id):
        raise _not_found()
    content = call_scope.may_see_content(request)
    try:
        with site.pipeline.engine.begin() as db:
            call_search.be_patient(db)
            row = call_search.one(db, location_id, call_id, query.sort, content=content)
            if row is None:
                raise _not_found()
            scope = call_scope.read_scope(db, site, query, content=content)
            if content:
                call_scope.record(db, request, Kind.CALL, 1, location_id, call_id)
            said = call_content.read(db, location_id, call_id) if content else None
            opened = call_content.openings(db, 10, of=(location_id, call_id))
            before = call_search.page(db, scope.wanted, 1, before=row.position)
            after = call_search.page(db, scope.wanted, 1, after=row.position)
    except sa.exc.OperationalError as error:
        if call_search.took_too_long(error):
            raise call_scope.too_long() from None
        raise
    zone = scope.zone_of(location_id, query.zone, site.pipeline.zone)
    wanted = call_texts.words_of(scope.wanted.search)
    answer = render(
        request,
        "call.html",
        query=query,
        row=row,
        said=said,
        content=content,
        title=" ".join(call_texts.day_and_time(row.started_at, zone)),
        time_of=lambda at: call_texts.moment(at, zone),
        zone=zone.key,
        duration=call_texts.duration,
        agent=call_texts.agent(row),
        location_name=cleaned(row.location_name, NAME_LENGTH),
        outcome=label(Outcome(row.outcome), site.pipeline.metrics.goal_actions),
        rule=sentences(site.pipeline.metrics)[Outcome(row.outcome)],
        kinds=call_texts.actions(row.actions),
        actions=[_action(one, row, zone) for one in said.actions] if said else [],
        marked=lambda text: call_texts.marked(text, wanted),
        extracted=call_texts.extracted(said.extracted) if said else [],
        translation=call_texts.pretty(said.translation) if said and said.translation else "",
        raw=call_texts.pretty(said.raw) if said else "",
        contact_url=_contact_url(site.highlevel.app_url, location_id, said),
        previous=_address(query, before),
        following=_address(query, after),
        opened=opened,
    )
    return with_scripts(answer, site.page)


def _address(query: CallQuery, found: Sequence[CallRow]) -> str:
    """The address of the one call that was found; "" if none was."""
    return query.call_address(found[0].location_id, found[0].call_id) if found else ""


def _not_found() -> PageError:
    return PageError(
        404,
        "Call not found",
        "No call with this id is stored for this location. It may not have been synced yet, or be "
        "too old to be kept.",
        "Find the call in the list of calls.",
    )


def _action(action: Action, row: CallRow, zone: ZoneInfo) -> ShownAction:
    at = _instant(action.at)
    seconds = (at - row.started_at).total_seconds() if at else None
    return ShownAction(
        name=cleaned(action.name, NAME_LENGTH),
        kind=call_texts.action(action.kind),
        at=call_texts.moment(at, zone) if at else cleaned(action.at, 40),
        after=call_texts.duration(seconds) if seconds is not None and seconds >= 0 else "",
        parameters=call_texts.pretty(action.parameters) if action.parameters else "",
    )


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        instant = found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
        # A default such as 0001-01-01 is no time, and does not exist in every zone.
        return instant if instant.year in _YEARS else None
    except (ValueError, OverflowError):
        return None


def _contact_url(app_url: str, location_id: str, said: CallContent | None) -> str:
    """The URL of the contact in HighLevel; "" if an id does not look like HighLevel's."""
    contact_id = (said.contact_id if said else None) or ""
    ids = (location_id, contact_id)
    if not app_url or not all(map(_HIGHLEVEL_ID.fullmatch, ids)):
        return ""
    return f"{app_url}/v2/location/{location_id}/contacts/detail/{contact_id}"

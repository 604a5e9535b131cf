"""``/changes``: what was done to connections, which syncs operators asked for, and by whom, for all
users together. Each user's own page shows more."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.user_syncs import UserSync
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.web.pages import reading, render
from voiceai_pipeline.web.site import site_of

MOST: Final = 100
"""Maximum number of changes shown."""


@dataclass(frozen=True)
class Change:
    """A change as it is shown.

    Attributes:
        at: UTC.
        user_id: None: all users.
        actor: a part of the program. Operators share one password, so they have no names.
    """

    at: datetime
    user_id: UUID | None
    user_name: str
    text: str
    actor: str
    run_id: str | None


def routes() -> list[Route]:
    return [Route("/changes", reading(page), methods=["GET"])]


def page(request: Request) -> Response:
    with site_of(request).pipeline.engine.begin() as db:
        found = sorted(_changes(db), key=lambda one: one.at, reverse=True)[:MOST]
    return render(request, "changes.html", changes=found, most=MOST)


def _changes(db: sa.Connection) -> Iterator[Change]:
    entries = list(history.of_all(db, MOST))
    syncs = list(user_syncs.asked_for(db, MOST))
    ids = {user_id for user_id, _ in entries if user_id} | {sync.user_id for sync in syncs}
    named = connections.all_connections(db, list(ids))
    names = {one.user.id: one.user.name for one in named}
    for user_id, entry in entries:
        name = names.get(user_id, str(user_id)) if user_id else "all users"
        yield Change(entry.at, user_id, name, entry.sentence, entry.actor, entry.run_id)
    for sync in syncs:
        name = names.get(sync.user_id, str(sync.user_id))
        text, actor = _sentence(sync), sync.asked_by or "unknown"
        yield Change(sync.started_at, sync.user_id, name, text, actor, sync.run_id)


def _sentence(sync: UserSync) -> str:
    days = f"{sync.first_day}"
    if sync.last_day != sync.first_day:
        days += f" to {sync.last_day}"
    calls = f"{sync.new_calls} new call{'s' * (sync.new_calls != 1)}"
    return f"Requested a sync of {days}: {sync.state.value}, {calls}"

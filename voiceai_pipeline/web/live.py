"""Shows syncs while they run, by a stream of changes to every open page, and cancels them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.web import lookups
from voiceai_pipeline.web.access import Form, is_still_in, posted
from voiceai_pipeline.web.cookies import Flash
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.pages import fragment, redirect, safe_back
from voiceai_pipeline.web.site import site_of
from voiceai_pipeline.web.sync_watch import POLL

_STEPS: Final = 5
"""How often within ``POLL`` a stream checks whether the process is stopping."""

_QUIET: Final = 15
"""Polls without a change after which a comment is sent: that is how a closed page is noticed."""


def routes() -> list[Route]:
    return [
        Route("/live", _stream, methods=["GET"]),
        Route("/users/{user_id:uuid}/cancel", posted(_cancel), methods=["POST"]),
    ]


async def _stream(request: Request) -> Response:
    headers = {"X-Accel-Buffering": "no"}  # a proxy must pass each event on at once
    return StreamingResponse(_events(request), media_type="text/event-stream", headers=headers)


async def _events(request: Request) -> AsyncIterator[str]:
    site = site_of(request)
    shown = user_syncs.by_user(site.watch.under_way)
    quiet = 0
    yield "retry: 3000\n\n"
    with site.watch.looking():
        while site.page.secret is None or is_still_in(request):
            for _ in range(_STEPS):
                await asyncio.sleep(POLL / _STEPS)
                if site.watch.is_over:
                    return
            now = user_syncs.by_user(site.watch.under_way)
            changed = [user for user in {*shown, *now} if shown.get(user) != now.get(user)]
            shown = now
            for user_id in changed:
                yield await run_in_threadpool(_event, request, user_id)
            quiet = 0 if changed else quiet + 1
            if quiet >= _QUIET:
                quiet = 0
                yield ": still here\n\n"


def _event(request: Request, user_id: UUID) -> str:
    """A user's cell, as the page would show it now."""
    site = site_of(request)
    row, is_known = lookups.row_of(site, user_id)
    content: dict[str, Any] = {
        "row": row,
        "last_syncs_are_known": is_known,
        "in_full": request.query_params.get("full") == "1",
        "back": safe_back(request.query_params.get("back", "")),
    }
    html = fragment(request, "sync_cell.html", **content)
    return f"data: {json.dumps({'user': str(user_id), 'html': html})}\n\n"


def _cancel(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site = site_of(request)
    flash = Flash.about(
        user_id, "plain", "{user}: nothing to cancel", "No sync of this user is under way any more."
    )
    with site.pipeline.engine.begin() as db:
        running = [one for one in user_syncs.under_way(db) if one.user_id == user_id]
    try:
        for one in running:
            site.dagster.cancel(one.run_id)
            flash = Flash.about(
                user_id,
                "plain",
                "{user}: sync is being canceled",
                "Days that are already stored are kept; sync again to get the rest.",
            )
    except DagsterError as error:
        flash = Flash.about(user_id, "bad", "{user}: sync not canceled", str(error))
    site.watch.wake()
    return redirect(request, safe_back(form.get("back", "")), flash)

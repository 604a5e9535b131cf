"""Each user's own page, and a user's buttons; Connect is in ``connect``, the list in
``user_list``."""

from datetime import date, timedelta
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import freshness, user_syncs
from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections.new_users import NewUserError, new_user
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, Connection
from voiceai_pipeline.core.days import DaysError
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web import lookups, sync_runs
from voiceai_pipeline.web.access import Form, posted, refuse_analysts
from voiceai_pipeline.web.cookies import Flash
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.headers import with_scripts
from voiceai_pipeline.web.pages import HOME, reading, redirect, render, safe_back
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import ACTOR, Site, site_of
from voiceai_pipeline.web.sync_runs import PartlyLaunchedError

MONTH: Final = 31
"""Days that a user's page suggests for a re-sync: one run."""

HISTORY: Final = 50
"""Number of events, and of syncs, shown for a user."""


def routes() -> list[Route]:
    """The users' pages, and their buttons except Connect."""
    user = "/users/{user_id:uuid}"
    return [
        Route("/users", posted(_add), methods=["POST"]),
        Route(user, reading(_detail), methods=["GET"]),
        Route(f"{user}/test", posted(_test), methods=["POST"]),
        Route(f"{user}/sync", posted(_sync), methods=["POST"]),
        Route(f"{user}/pause", _ask_pause, methods=["GET"]),
        Route(f"{user}/pause", posted(_pause), methods=["POST"]),
        Route(f"{user}/resume", posted(_resume), methods=["POST"]),
        Route(f"{user}/disconnect", _ask_disconnect, methods=["GET"]),
        Route(f"{user}/disconnect", posted(_disconnect), methods=["POST"]),
    ]


def _add(request: Request, form: Form) -> Response:
    try:
        user_id = new_user(site_of(request).pipeline.engine, form.get("name", ""))
    except NewUserError as error:
        return redirect(request, HOME, Flash("bad", "No user was added", str(error)))
    added = Flash.about(user_id, "good", "{user} was added", "Connect the user now.")
    return redirect(request, f"/users/{user_id}", added)


# Pages -------------------------------------------------------------------------------------------


def _detail(request: Request) -> Response:
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    row, last_sync_is_known = lookups.row_of(site, user_id)
    connection = row.connection
    today = site.today()
    response = render(
        request,
        "user.html",
        today=today,
        month_ago=today - timedelta(days=MONTH - 1),
        row=row,
        back=f"/users/{user_id}",
        scopes=_scopes(connection),
        history=lookups.read_or_none(site, lambda db: history.of_user(db, user_id, HISTORY)),
        syncs=lookups.read_or_none(site, lambda db: user_syncs.of_user(db, user_id, HISTORY)),
        last_syncs_are_known=last_sync_is_known,
        circuit=lookups.open_circuit(site),
        freshness=_freshness(site, connection),
    )
    return with_scripts(response, site.page)


def _freshness(site: Site, connection: Connection) -> Freshness | None:
    location_id = connection.location_id
    if not location_id or not connection.can_sync:
        return None
    found = lookups.read_or_none(site, lambda db: freshness.of_locations(db, [location_id]))
    return found[location_id] if found else None


def _scopes(connection: Connection) -> list[tuple[str, bool]]:
    """Every scope that was requested or granted, and whether it was granted."""
    granted = (connection.scope or "").split()
    extra = sorted(set(granted) - set(REQUESTED_SCOPES))
    return [(scope, scope in granted) for scope in (*REQUESTED_SCOPES, *extra)]


# Buttons -----------------------------------------------------------------------------------------


def _test(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    check = site_of(request).pipeline.tokens.check(user_id)
    if check.failure is None:
        odd = f" Their fields differ from the published API: {check.drift}." if check.drift else ""
        flash = Flash.about(
            user_id,
            "good",
            "{user}: connection test passed",
            f"HighLevel accepted the token and listed calls.{odd}",
        )
    else:
        flash = _failed(user_id, "{user}: connection test failed", check.failure)
    return redirect(request, safe_back(form.get("back", "")), flash)


def _sync(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site = site_of(request)
    try:
        first, last = (_day(form.get(name, "")) for name in ("first", "last"))
        if first is not None:
            # The suggested month may start before the first partition.
            first = max(first, site.dagster.first_day())
        launched = sync_runs.launch(site, user_id, ACTOR, first, last)
    except PipelineError as error:
        flash = _failed(user_id, "{user}: sync not started", error)
    except DaysError as error:
        flash = Flash.about(user_id, "bad", "{user}: sync not started", str(error))
    except DagsterError as error:
        run_ids = error.run_ids if isinstance(error, PartlyLaunchedError) else ()
        flash = Flash.about(user_id, "bad", "{user}: sync not started", str(error), run_ids)
    else:
        did = "is being synced already" if launched.was_under_way else "sync started"
        flash = Flash.about(
            user_id,
            "plain" if launched.was_under_way else "good",
            f"{{user}}: {did}",
            f"Dagster is syncing {launched.first} to {launched.last}. The result appears here when "
            "the run has finished.",
            launched.run_ids,
        )
    return redirect(request, safe_back(form.get("back", "")), flash)


def _day(text: str) -> date | None:
    """A day of the form; None if the field is empty.

    Raises:
        DaysError: it is not a date.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise DaysError("Enter each day as YYYY-MM-DD, or pick it in the calendar.") from None


def _failed(user_id: UUID, title: str, error: PipelineError) -> Flash:
    """The message and the fix of a failure."""
    return Flash.about(user_id, "bad", title, f"{error.message}. {error.failure.explanation.fix}.")


def _ask_pause(request: Request) -> Response:
    refuse_analysts(request)
    connection = site_of(request).connection(request.path_params["user_id"])
    back = safe_back(request.query_params.get("back", ""))
    return render(
        request, "pause.html", chosen=[connection], action=request.url.path, sure=False, back=back
    )


def _pause(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    paused = site_of(request).pipeline.pauses.pause([user_id], form.get("reason", ""))
    flash = (
        Flash.about(
            user_id,
            "plain",
            "{user}: syncs are paused",
            "No calls are read until you resume them. The token is kept and refreshed.",
        )
        if paused
        else Flash.about(
            user_id, "plain", "{user}: syncs were paused before", "Nothing was changed."
        )
    )
    return redirect(request, safe_back(form.get("back", "")), flash)


def _resume(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site = site_of(request)
    resumed = site.pipeline.pauses.resume([user_id])
    connection = site.connection(user_id)
    if not resumed:
        flash = Flash.about(
            user_id, "plain", "{user}: syncs are not paused", "Nothing was changed."
        )
    elif connection.obstacle is not None:
        said = f"Calls are read once the connection works: {connection.cause}."
        flash = Flash.about(user_id, "warn", "{user}: syncs are resumed", said)
    else:
        said = "The days that were missed are synced automatically within minutes."
        flash = Flash.about(user_id, "good", "{user}: syncs are resumed", said)
    return redirect(request, safe_back(form.get("back", "")), flash)


def _ask_disconnect(request: Request) -> Response:
    refuse_analysts(request)
    connection = site_of(request).connection(request.path_params["user_id"])
    back = safe_back(request.query_params.get("back", ""))
    return render(request, "disconnect.html", row=Row(connection, None), back=back)


def _disconnect(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site_of(request).pipeline.consent.disconnect(user_id)
    flash = Flash.about(
        user_id,
        "plain",
        "{user} is disconnected",
        "The stored tokens were deleted; the calls are kept. You can connect again at any time.",
    )
    return redirect(request, safe_back(form.get("back", "")), flash)

"""Connect: the page that leads to HighLevel, the OAuth callback, assigning a consent from
HighLevel's marketplace to a user, private integration tokens, and choosing an agency's location.

The OAuth flow itself, with its checks of state and code, is in
``voiceai_pipeline.connections.consent``.
"""

import re
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_errors import (
    CONNECTED,
    NO_APP,
    NO_APP_VERSION,
    ChooseLocationError,
    ConsentError,
    FinishedError,
)
from voiceai_pipeline.connections.private_tokens import PrivateTokenError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.core.failures import PipelineError, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import CALLBACK_PATH
from voiceai_pipeline.web import cookies, template_filters
from voiceai_pipeline.web.access import Form, address_of, posted, refuse_analysts
from voiceai_pipeline.web.cookies import Flash, PendingConsent
from voiceai_pipeline.web.pages import (
    PageError,
    may_see_users,
    problem_page,
    redirect,
    render,
    role_of,
    safe_back,
)
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import Site, site_of

_HELD: Final = "/consents/{key}"
_KEY: Final = re.compile("[0-9a-f]{64}")


def routes() -> list[Route]:
    """Connect, the callback, consents from the marketplace, and the choice of a location."""
    user = "/users/{user_id:uuid}"
    return [
        Route(f"{user}/connect", posted(_connect), methods=["POST"]),
        Route(CALLBACK_PATH, _callback, methods=["GET"]),
        Route(_HELD, _whose, methods=["GET"]),
        Route(_HELD, posted(_assign), methods=["POST"]),
        Route(f"{user}/private-token", _token_form, methods=["GET"]),
        Route(f"{user}/private-token", posted(_enter_token), methods=["POST"]),
        Route(f"{user}/location", _location_form, methods=["GET"]),
        Route(f"{user}/location", posted(_choose_location), methods=["POST"]),
    ]


def _connect(request: Request, form: Form) -> Response:
    return leave(request, request.path_params["user_id"], safe_back(form.get("back", "")))


def leave(request: Request, user_id: UUID, back: str, location_id: str | None = None) -> Response:
    """The page that leads to HighLevel, where the user's consent is asked for.

    Args:
        back: our page to return to.
        location_id: the location of an agency to use.

    Raises:
        PageError: HighLevel would not redirect back here, or no app is configured.
    """
    site = site_of(request)
    if not site.callback_leads_here:
        raise PageError(
            409,
            "The redirect URI does not match",
            f"HIGHLEVEL_REDIRECT_URI is {site.highlevel.redirect_uri}, but the callback of this "
            f"page is {site.page.url}{CALLBACK_PATH}. No connection was changed.",
            "Set HIGHLEVEL_REDIRECT_URI to the callback of this page (or VOICEAI_PAGE_URL to the "
            "address that users open), add it to the app in the HighLevel marketplace, and "
            "restart.",
        )
    if not site.highlevel.has_app:
        raise PageError(409, "No app is configured", *NO_APP.split(". ", 1))
    user = site.connection(user_id).user
    started = site.pipeline.consent.begin(user_id, location_id, browser_bound=True)
    address = started.url
    if site.highlevel.is_sandbox:
        # The sandbox preselects the location.
        known = {"user": user_id} | ({"location": location_id} if location_id else {})
        address += f"&{urlencode(known)}"
    # A page with a meta refresh instead of a redirect: browsers apply the policy's form-action to
    # every redirect after a form, and the hosts that HighLevel redirects to are not known.
    response = render(request, "leaving.html", name=user.name, address=address, hint=NO_APP_VERSION)
    pending = PendingConsent(user_id, back)
    cookies.put_consent(site.jar, response, started.state, pending)
    return response


def _callback(request: Request) -> Response:
    if request.method == "HEAD" or _is_prefetch(request):
        # The user does not see the response, so the code must not be used up. A browser discards a
        # failed prefetch.
        return Response(status_code=200 if request.method == "HEAD" else 503)
    site = site_of(request)
    query = request.query_params
    state = Secret(query["state"]) if query.get("state") else None
    pending = cookies.read_consent(site.jar, request.cookies, state)
    try:
        if state is None and query.get("code") and not query.get("error"):
            return _hold(request, Secret(query["code"]))
        connection = site.pipeline.consent.finish(
            state,
            Secret(query["code"]) if query.get("code") else None,
            query.get("error"),
            same_browser=pending is not None,
        )
    except FinishedError as error:
        response = _finished_before(request, error, pending)
    except ConsentError as error:
        return problem_page(request, _not_connected(site, pending, str(error)))
    except ChooseLocationError as choice:
        response = _choose_next(request, choice)
    except PipelineError as error:
        response = problem_page(request, _failed(site, pending, error))
    else:
        response = connected(request, connection, pending)
    # The state is used up. (After a ConsentError it may not be, and the user may retry.)
    if state is not None and pending is not None:
        cookies.delete_consent(site.jar, response, state)
    return response


def _is_prefetch(request: Request) -> bool:
    """Whether a browser or a preview requests the page before the user opens it."""
    purposes = (request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz"))
    return any("prefetch" in purpose or "preview" in purpose for purpose in purposes)


def _finished_before(
    request: Request, error: FinishedError, pending: PendingConsent | None
) -> Response:
    """The response to a repeated request: how the first one ended."""
    is_good = error.outcome == CONNECTED
    if not may_see_users(request) and (is_good or pending is None):
        return render(request, "received.html", is_good=is_good, held="")
    if is_good and error.user_id is not None:
        flash = Flash.about(error.user_id, "good", "{user} is connected", str(error))
        return redirect(request, f"/users/{error.user_id}", flash)
    return problem_page(
        request,
        PageError(
            409,
            "Finished already",
            str(error),
            "Go to the list: it shows whether the user is connected, and if not, what to do.",
        ),
    )


def connected(
    request: Request, connection: Connection, pending: PendingConsent | None = None
) -> Response:
    """The response to a consent that HighLevel accepted."""
    if not may_see_users(request):
        return render(request, "received.html", is_good=connection.obstacle is None, held="")
    user_id = connection.user.id
    if connection.pause is not None and connection.obstacle is None:
        said = "The syncs are still paused: resume them to read calls."
        flash = Flash.about(user_id, "good", "{user} is connected", said)
    elif connection.can_sync:
        flash = Flash.about(user_id, "good", "{user} is connected", "Calls can now be synced.")
    else:
        flash = Flash.about(
            user_id, "bad", "{user}: consent given, action needed", f"{connection.message}."
        )
    return redirect(request, pending.back if pending else f"/users/{user_id}", flash)


def _choose_next(request: Request, choice: ChooseLocationError) -> Response:
    if not may_see_users(request):
        return render(request, "received.html", is_good=False, held="")
    return redirect(request, f"/users/{choice.user_id}/location")


def _not_connected(site: Site, pending: PendingConsent | None, reason: str) -> PageError:
    affected = f" Only {_name(site, pending)} is affected." if pending else ""
    return PageError(
        400,
        "Not connected",
        f"{reason}{affected}",
        "Press Connect in the list and give consent in this browser.",
    )


def _failed(site: Site, pending: PendingConsent | None, error: PipelineError) -> PageError:
    return PageError(
        _status(error),
        "The connection failed",
        # Not "nothing was changed": an agency's grant is stored before its locations are listed.
        f"{error.message}. Only {_name(site, pending)} is affected.",
        f"{template_filters.on_page(error.failure.explanation.fix)}. Then press Connect again.",
    )


def _name(site: Site, pending: PendingConsent | None) -> str:
    """The user of a consent; named only in the browser that started it."""
    return site.connection(pending.user_id).user.name if pending else "one user"


def _status(error: PipelineError) -> int:
    """502 for a temporary failure of HighLevel, 409 for one that needs action."""
    return 502 if error.failure.explanation.remedy is Remedy.RERUN else 409


# From the marketplace ----------------------------------------------------------------------------


def _hold(request: Request, code: Secret) -> Response:
    """Keep a consent that was not started here until an operator assigns it to a user."""
    address = None if role_of(request) is Role.OPERATOR else address_of(request)
    path = _HELD.format(key=site_of(request).pipeline.marketplace.hold(code, address))
    if may_see_users(request):
        return redirect(request, path)
    return render(request, "received.html", is_good=False, held=path)


def _whose(request: Request, complaint: str = "", status: int = 200) -> Response:
    refuse_analysts(request)
    site = site_of(request)
    key = request.path_params["key"]
    held = next((one for one in site.pipeline.marketplace.held() if one.key == key), None)
    if held is None:
        raise PageError(
            404,
            "This consent is not waiting",
            "It was assigned already, or it is older than the ten minutes for which HighLevel's "
            "codes are valid. No connection was changed.",
            "Find the user in the list. If they are not connected, install the app again or press "
            "Connect.",
        )
    with site.pipeline.engine.begin() as db:
        users = connections.all_connections(db)
    return render(
        request,
        "whose.html",
        status=status,
        held=held,
        # Those who are not connected first: it is probably one of them.
        users=sorted(users, key=lambda one: one.can_sync),
        complaint=complaint,
    )


def _assign(request: Request, form: Form) -> Response:
    key, site = request.path_params["key"], site_of(request)
    try:
        user_id = UUID(form.get("user_id", ""))
    except ValueError:
        return _whose(request, "Choose a user first.", status=422)
    name = site.connection(user_id).user.name
    try:
        if not _KEY.fullmatch(key):
            raise ConsentError("There is no such consent. Nothing was changed.")
        connection = site.pipeline.marketplace.assign(key, user_id)
    except FinishedError as error:
        return _finished_before(request, error, None)
    except ConsentError as error:
        text = f"{error} Only {name} is affected."
        remedy = "Install the app again in HighLevel, or press Connect in the list."
        raise PageError(400, "Not connected", text, remedy) from error
    except ChooseLocationError as choice:
        return _choose_next(request, choice)
    except PipelineError as error:
        return problem_page(request, _failed(site, PendingConsent(user_id, ""), error))
    return connected(request, connection)


# A private integration token ---------------------------------------------------------------------


def _token_form(request: Request, complaint: str = "", status: int = 200) -> Response:
    row = Row(site_of(request).connection(request.path_params["user_id"]), None)
    return render(request, "private_token.html", status=status, row=row, complaint=complaint)


def _enter_token(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    private_tokens = site_of(request).pipeline.private_tokens
    token, location_id = Secret(form.get("token", "")), form.get("location_id", "")
    try:
        connection = private_tokens.connect(user_id, token, location_id)
    except PrivateTokenError as error:
        return _token_form(request, str(error), status=422)
    except PipelineError as error:
        fix = template_filters.on_page(error.failure.explanation.fix)
        complaint = f"{error.message}. Nothing was changed. {fix}."
        return _token_form(request, complaint, status=_status(error))
    return connected(request, connection)


# An agency's location ----------------------------------------------------------------------------


def _location_form(request: Request, complaint: str = "", status: int = 200) -> Response:
    refuse_analysts(request)
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    row = Row(site.connection(user_id), None)
    try:
        locations = site.pipeline.consent.locations(user_id)
    except PipelineError as error:
        raise PageError(
            _status(error),
            "The agency's locations cannot be listed",
            f"{error.message}. Only {row.name} is affected; nothing was changed.",
            "Press Reconnect on the user's page.",
        ) from error
    return render(
        request,
        "choose_location.html",
        status=status,
        row=row,
        locations=sorted(locations, key=lambda one: (one.name or "", one.location_id)),
        complaint=complaint,
    )


def _choose_location(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    location_id = form.get("location_id", "")
    if not location_id:
        return _location_form(request, "Choose a location first.", status=422)
    try:
        connection = site_of(request).pipeline.consent.choose_location(user_id, location_id)
    except ChooseLocationError:
        complaint = "The agency does not have this location. Choose one of these."
        return _location_form(request, complaint, status=422)
    except PipelineError as error:
        raise PageError(
            _status(error),
            "The location was not saved",
            f"{error.message}. Nothing was changed.",
            "Try again. If that does not help, press Reconnect on the user's page.",
        ) from error
    return connected(request, connection)

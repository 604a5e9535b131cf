"""Connect: to HighLevel's authorize page and back, and the choice of an agency's location.

The flow itself, with its checks of state and code, is ``voiceai_pipeline.connections.consent``;
here is what the browser sees of it.
"""

from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.connections.consent import ChooseLocationError, ConsentError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import PipelineError, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import CALLBACK_PATH
from voiceai_pipeline.web import actions, cookies, filters
from voiceai_pipeline.web.access import Form, posted
from voiceai_pipeline.web.cookies import BegunHere, Flash
from voiceai_pipeline.web.pages import (
    PageError,
    problem_page,
    redirect,
    render,
    safe_back,
    session_of,
)
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import Site, site_of


def routes() -> list[Route]:
    """Beginning and end of a consent, and the choice of a location."""
    user = "/users/{user_id:uuid}"
    return [
        Route(f"{user}/connect", posted(_connect), methods=["POST"]),
        Route(CALLBACK_PATH, _callback, methods=["GET"]),
        Route(f"{user}/location", _offer_locations, methods=["GET"]),
        Route(f"{user}/location", posted(_choose_location), methods=["POST"]),
    ]


def _connect(request: Request, form: Form) -> Response:
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    if not site.callback_leads_here:
        raise PageError(
            409,
            "HighLevel would not lead back here",
            f"HIGHLEVEL_REDIRECT_URI is {site.highlevel.redirect_uri}, and this page waits at "
            f"{site.page.url}{CALLBACK_PATH}. Nobody's connection was changed.",
            "Set HIGHLEVEL_REDIRECT_URI to this page's address (or VOICEAI_PAGE_URL to the one "
            "that people use), add it to the app in the HighLevel marketplace, and start again.",
        )
    user = actions.find(site, user_id).user
    begun = site.pipeline.consent.begin(user_id, browser_bound=True)
    address = begun.url
    if site.highlevel.is_sandbox:
        # The sandbox has their location chosen already.
        address += f"&{urlencode({'user': user_id})}"
    # A page that leads there, no redirect: browsers hold every redirect of a form against the
    # policy's form-action, and nobody knows to which hosts HighLevel redirects.
    response = render(request, "leaving.html", name=user.name, address=address)
    here = BegunHere(user_id, safe_back(form.get("back", "")))
    cookies.put_consent(site.jar, response, begun.state, here)
    return response


def _callback(request: Request) -> Response:
    site = site_of(request)
    query = request.query_params
    state = Secret(query["state"]) if query.get("state") else None
    here = cookies.read_consent(site.jar, request.cookies, state)
    try:
        connection = site.pipeline.consent.finish(
            state,
            Secret(query["code"]) if query.get("code") else None,
            query.get("error"),
            same_browser=here is not None,
        )
    except ConsentError as error:
        return problem_page(request, _unfinished(site, here, str(error)))
    except ChooseLocationError as choice:
        response = _choose_next(request, choice)
    except PipelineError as error:
        response = problem_page(request, _refused(site, here, error))
    else:
        response = _connected(request, connection, here)
    # The state is spent. (After a ConsentError it may not be, and a second try is fair.)
    if state is not None and here is not None:
        cookies.drop_consent(site.jar, response, state)
    return response


def _may_see_users(request: Request) -> bool:
    """The callback is open to everybody; names are not."""
    session = session_of(request)
    no_password = site_of(request).page.secret is None
    return no_password or (session is not None and session.is_logged_in)


def _connected(request: Request, connection: Connection, here: BegunHere | None) -> Response:
    if not _may_see_users(request):
        return render(request, "received.html", is_good=connection.can_sync)
    user_id = connection.user.id
    if connection.can_sync:
        flash = Flash.about(
            user_id, "good", "{user} is connected", "Their calls can be read from now on."
        )
    else:
        flash = Flash.about(
            user_id, "bad", "{user} has given consent, but", f"{connection.message}."
        )
    return redirect(request, here.back if here else f"/users/{user_id}", flash)


def _choose_next(request: Request, choice: ChooseLocationError) -> Response:
    if not _may_see_users(request):
        return render(request, "received.html", is_good=False)
    return redirect(request, f"/users/{choice.user_id}/location")


def _unfinished(site: Site, here: BegunHere | None, said: str) -> PageError:
    about = f" It concerns {_name(site, here)} only." if here else ""
    return PageError(
        400,
        "The connection was not made",
        f"{said}{about}",
        "Press Connect in the list, and give consent in this same browser.",
    )


def _refused(site: Site, here: BegunHere | None, error: PipelineError) -> PageError:
    return PageError(
        _status(error),
        "HighLevel did not finish the connection",
        # Not always untouched: an agency's grant is stored before its locations are asked for.
        f"{error.message}. It concerns {_name(site, here)} only.",
        f"{filters.on_page(error.failure.explanation.fix)}. Then begin again with Connect.",
    )


def _name(site: Site, here: BegunHere | None) -> str:
    """Whom a consent concerns: a name only for the browser that began it."""
    return actions.find(site, here.user_id).user.name if here else "one user"


def _status(error: PipelineError) -> int:
    """Whether it is HighLevel's trouble, which passes, or one that somebody must mend."""
    return 502 if error.failure.explanation.remedy is Remedy.RERUN else 409


# An agency's location ----------------------------------------------------------------------------


def _offer_locations(request: Request) -> Response:
    return _location_form(request)


def _location_form(request: Request, complaint: str = "", status: int = 200) -> Response:
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    row = Row(actions.find(site, user_id), None)
    try:
        places = site.pipeline.consent.locations(user_id)
    except PipelineError as error:
        raise PageError(
            _status(error),
            "The agency's locations cannot be listed",
            f"{error.message}. It concerns {row.name} only; nothing was changed.",
            "Begin again with Reconnect on the user's page.",
        ) from error
    places = sorted(places, key=lambda place: (place.name or "", place.location_id))
    return render(
        request,
        "choose_location.html",
        status=status,
        row=row,
        places=places,
        complaint=complaint,
    )


def _choose_location(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    location_id = form.get("location_id", "")
    if not location_id:
        return _location_form(request, "Choose one of the locations first.", status=422)
    try:
        connection = site_of(request).pipeline.consent.choose_location(user_id, location_id)
    except ChooseLocationError:
        complaint = "The agency has no such location. Choose one of these."
        return _location_form(request, complaint, status=422)
    except PipelineError as error:
        raise PageError(
            _status(error),
            "The location was not chosen",
            f"{error.message}. Nothing was changed.",
            "Try again; if that does not help, begin again with Reconnect on the user's page.",
        ) from error
    return _connected(request, connection, None)

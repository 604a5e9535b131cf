"""Offers to connect a location that installed the app and belongs to a connected agency.

A signed message only causes the offer. An operator chooses the user, and HighLevel asks for consent
(``connections/installs.py``).
"""

from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.connections import installs
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_errors import ChooseLocationError
from voiceai_pipeline.connections.installs import Install
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web import connect
from voiceai_pipeline.web.access import Form, posted, refuse_analysts
from voiceai_pipeline.web.pages import HOME, PageError, redirect, render, safe_back
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import Site, site_of

_INSTALL: Final = "/installs/{location_id}"


def routes() -> list[Route]:
    """The page of an offer, and its buttons."""
    return [
        Route(_INSTALL, _whose, methods=["GET"]),
        Route(_INSTALL, posted(_connect), methods=["POST"]),
        Route(f"{_INSTALL}/ignore", posted(_ignore), methods=["POST"]),
    ]


def _offer(request: Request) -> tuple[Install, list[Connection]]:
    """The offer that the address names, and all users."""
    location_id = request.path_params["location_id"]
    with site_of(request).pipeline.engine.begin() as db:
        users = connections.all_connections(db)
        offers = installs.offered(db, users)
    for one in offers:
        if one.location_id == location_id:
            return one, users
    raise PageError(
        404,
        "This location is not waiting",
        "A user is connected to it, the app was removed there, its agency is not connected, or the "
        "offer was declined. No connection was changed.",
        "Find the user in the list and press Connect.",
    )


def _whose(request: Request, complaint: str = "", status: int = 200) -> Response:
    refuse_analysts(request)
    offer, users = _offer(request)
    return render(
        request,
        "install.html",
        status=status,
        offer=offer,
        name=_name(site_of(request), offer),
        # Those who are not connected first: it is probably one of them.
        users=sorted(users, key=lambda one: one.can_sync),
        complaint=complaint,
    )


def _name(site: Site, offer: Install) -> str | None:
    """What HighLevel calls the location; None if that is not known."""
    try:
        listed = site.pipeline.consent.locations(offer.agency.user.id)
    except PipelineError:
        return None
    return next((one.name for one in listed if one.location_id == offer.location_id), None)


def _connect(request: Request, form: Form) -> Response:
    offer, _ = _offer(request)
    try:
        user_id = UUID(form.get("user_id", ""))
    except ValueError:
        return _whose(request, "Choose a user first.", status=422)
    connection = site_of(request).connection(user_id)
    is_agencys = connection.company_id == offer.agency.company_id
    if is_agencys and Row(connection, None).needs_location_choice:
        # The user's own consent for the agency covers it: only the choice is missing.
        try:
            chosen = site_of(request).pipeline.consent.choose_location(user_id, offer.location_id)
        except (ChooseLocationError, PipelineError):
            return redirect(request, f"/users/{user_id}/location")
        return connect.connected(request, chosen)
    return connect.leave(request, user_id, HOME, offer.location_id)


def _ignore(request: Request, form: Form) -> Response:
    with site_of(request).pipeline.engine.begin() as db:
        installs.ignore(db, request.path_params["location_id"])
    return redirect(request, safe_back(form.get("back", "")))

"""Access control: login, sessions, roles, and protection against forged forms (CSRF).

Without a password, which is possible on loopback only, every visitor has access. Forms are checked
even then, because any web page can send one to this machine.
"""

import asyncio
import hmac
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import parse_qsl, quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voiceai_pipeline.core.dagster_access import DAGSTER_PATH, Role
from voiceai_pipeline.core.settings import CALLBACK_PATH, PageSettings
from voiceai_pipeline.web import cookies, login_record
from voiceai_pipeline.web.cookies import Flash, Session
from voiceai_pipeline.web.pages import (
    HOME,
    PageError,
    reading,
    redirect,
    render,
    role_of,
    safe_back,
    session_of,
)
from voiceai_pipeline.web.site import Site, site_of

log = logging.getLogger(__name__)

Form = Mapping[str, str]

LOGIN: Final = "/login"
_OPEN: Final = frozenset({LOGIN, CALLBACK_PATH})
"""Paths without login. The callback is protected by its state."""

MAX_BODY: Final = 64 * 1024
"""Maximum size of a request body in bytes; ours have a few hundred."""

MAX_FIELDS: Final = 150
"""Maximum number of fields of a form; the list of users has a checkbox for each of a hundred."""

BODY_TIMEOUT: Final = 20.0
"""Seconds within which a request's body has to arrive."""


class Access:
    """Gives each browser a session and a role, and redirects to the login if one is needed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        site = site_of(connection)
        if scope["type"] == "websocket":
            await self._socket(site, connection, receive, send)
            return
        other_name = site.name_for_cookies(connection.headers.get("host", ""))
        if other_name is not None and scope["method"] == "GET":
            answer = RedirectResponse(other_name + _requested(scope), 307)
            await answer(scope, receive, send)
            return
        jar = site.jar
        found = _session(site, connection)
        session = found or Session.new()
        scope["voiceai_session"] = session
        scope["voiceai_role"] = _role(site, session)

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start" and found is None:
                headers = MutableHeaders(scope=message)
                # Login and logout set a new session themselves.
                if not any(c.startswith(cookies.SESSION) for c in headers.getlist("set-cookie")):
                    carrier = Response()
                    cookies.put_session(jar, carrier, session)
                    headers.append("set-cookie", carrier.headers["set-cookie"])
            await send(message)

        if scope["voiceai_role"] is None and scope["path"] not in _OPEN:
            await _ask_to_log_in(connection)(scope, receive, send_with_session)
            return
        await self._app(scope, receive, send_with_session)

    async def _socket(
        self, site: Site, connection: HTTPConnection, receive: Receive, send: Send
    ) -> None:
        session = _session(site, connection)
        role = _role(site, session) if session is not None else None
        if role is None:
            await send({"type": "websocket.close", "code": 1008})
            return
        connection.scope["voiceai_role"] = role
        await self._app(connection.scope, receive, send)


def is_still_in(connection: HTTPConnection) -> bool:
    """Whether the session of an open connection has neither expired nor been logged out since."""
    site = site_of(connection)
    session = _session(site, connection)
    return session is not None and _role(site, session) is not None


def _session(site: Site, connection: HTTPConnection) -> Session | None:
    session = cookies.read_session(site.jar, connection.cookies)
    return None if session is None or session.id in site.logouts else session


def _role(site: Site, session: Session) -> Role | None:
    # Without a password, which only loopback allows, the visitor is the user of this machine.
    return Role.OPERATOR if site.page.secret is None else session.role


def _ask_to_log_in(connection: HTTPConnection) -> Response:
    """A redirect to the login; for a query from an open tab of Dagster's UI, an error to show."""
    scope = connection.scope
    if scope["path"].startswith(f"{DAGSTER_PATH}/") and scope["method"] == "POST":
        said = "You are logged out, or your session has expired. Reload the page to log in."
        return JSONResponse({"errors": [{"message": said}]}, 401)
    return RedirectResponse(_login_address(scope), 303)


def _requested(scope: Scope) -> str:
    path, query = (scope[name].decode("latin-1") for name in ("raw_path", "query_string"))
    return f"{path}?{query}" if query else str(path)


def _login_address(scope: Scope) -> str:
    # A form's content is lost, so the list is shown after the login.
    back = safe_back(_requested(scope)) if scope["method"] == "GET" else HOME
    return LOGIN if back == HOME else f"{LOGIN}?next={quote(back, safe='')}"


# Forms -------------------------------------------------------------------------------------------


def posted(
    handler: Callable[[Request, Form], Response], *, for_everyone: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for one of our forms. Forged, expired or oversized ones never reach ``handler``,
    nor do those of analysts.

    The handler runs in a thread, so that it may wait for the database and for HighLevel.

    Args:
        for_everyone: analysts may send it too, because it changes only the visitor's own session.
    """

    async def endpoint(request: Request) -> Response:
        form = parse_form(await read_body(request))
        _refuse_forged(request, form)
        if not for_everyone:
            refuse_analysts(request)
        return await run_in_threadpool(handler, request, form)

    return endpoint


def refuse_analysts(request: Request) -> None:
    """
    Raises:
        PageError: the visitor is not an operator.
    """
    if role_of(request) is not Role.OPERATOR:
        raise PageError(
            403,
            "Only operators can do this",
            "You are logged in as an analyst. Analysts can look but not change anything. Nothing "
            "was changed.",
            "Log out, and log in with the operators' password.",
        )


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form. Starlette's own parser needs another package."""
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


async def read_body(request: Request, at_most: int = MAX_BODY) -> bytes:
    """The body of a request, up to ``at_most`` bytes.

    Raises:
        PageError: it is longer, took too long, or the client disconnected before its end.
    """
    body = bytearray()
    try:
        async for chunk in _within(request.stream(), BODY_TIMEOUT):
            body += chunk
            if len(body) > at_most:
                raise PageError(
                    413,
                    "Request too large",
                    f"The request exceeds {at_most // 1024} KB. Nothing was changed.",
                    "Send a smaller request.",
                )
    except ClientDisconnect:
        raise PageError(
            400, "The request was incomplete", "Nothing was changed.", "Try again."
        ) from None
    except TimeoutError:
        raise PageError(
            408,
            "The request was too slow",
            f"Its content did not arrive within {BODY_TIMEOUT:.0f} seconds. Nothing was changed.",
            "Try again.",
        ) from None
    return bytes(body)


async def _within(stream: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """
    Raises:
        TimeoutError: the whole stream took longer.
    """
    async with asyncio.timeout(seconds):
        async for chunk in stream:
            yield chunk


def _refuse_forged(request: Request, form: Form) -> None:
    """Accept only forms that one of our pages showed in this session. ``guard`` has already refused
    those that another website sent.

    Raises:
        PageError: the form's token is wrong, expired or from another session.
    """
    session = session_of(request)
    token = form.get("form_token", "")
    if session is None or not cookies.is_form_token(site_of(request).signer, session, token):
        raise PageError(
            403,
            "This form has expired",
            "It is too old, the server has restarted since, cookies are disabled, or another "
            "website sent it. Nothing was changed.",
            "Go back to the page, reload it and try again.",
        )


# Login -------------------------------------------------------------------------------------------


def routes() -> list[Route]:
    """Login, logout, and the list of logins."""
    return [
        Route(LOGIN, _login_page, methods=["GET"]),
        Route(LOGIN, posted(_login, for_everyone=True), methods=["POST"]),
        Route("/logins", reading(_logins), methods=["GET"]),
        Route("/logout", posted(_logout, for_everyone=True), methods=["POST"]),
    ]


def _login_page(request: Request) -> Response:
    back = safe_back(request.query_params.get("next", HOME))
    if role_of(request) is not None:
        return redirect(request, back)
    return render(request, "login.html", back=back, complaint="")


def _login(request: Request, form: Form) -> Response:
    site = site_of(request)
    secret = site.page.secret
    back = safe_back(form.get("next", HOME))
    if secret is None:
        return redirect(request, back)
    address = address_of(request)
    wait = site.failed_logins.wait(address)
    if wait > 0:
        seconds = math.ceil(wait)
        answer = render(
            request,
            "login.html",
            status=429,
            back=back,
            complaint=f"Too many failed attempts. Try again in {seconds} seconds.",
        )
        answer.headers["Retry-After"] = str(seconds)
        return answer
    role = _role_of_password(site.page, form.get("password", ""))
    if role is None:
        failures = site.failed_logins.count(address)
        login_record.record(site.pipeline.engine, address, None)
        log.warning("login failed from %s, %d within a minute", address, failures)
        return render(
            request,
            "login.html",
            status=401,
            back=back,
            complaint="Wrong password. It is the value of VOICEAI_PAGE_SECRET, or of "
            "VOICEAI_ANALYST_SECRET for read-only access.",
        )
    log.info("login as %s from %s", role, address)
    login_record.record(site.pipeline.engine, address, role)
    response = redirect(request, back)
    # A new id, against session fixation.
    cookies.put_session(site.jar, response, Session.new(role))
    return response


def address_of(connection: HTTPConnection) -> str:
    """The address whose attempts are counted together; for IPv6, a subscriber's /64 network."""
    given = connection.client.host if connection.client else ""
    try:
        address = ip_address(given)
    except ValueError:
        return "an unknown address"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _role_of_password(page: PageSettings, password: str) -> Role | None:
    found = None
    for role, secret in (
        (Role.ANALYST, page.analyst_secret),
        (Role.OPERATOR, page.secret),
    ):
        # Both are always compared, so that the response time reveals nothing.
        if secret is not None and hmac.compare_digest(password.encode(), secret.reveal().encode()):
            found = role
    return found


def _logins(request: Request) -> Response:
    """The last attempts, for operators."""
    refuse_analysts(request)
    with site_of(request).pipeline.engine.begin() as db:
        return render(request, "logins.html", attempts=login_record.newest(db))


def _logout(request: Request, _form: Form) -> Response:
    site = site_of(request)
    session = session_of(request)
    if session is not None:
        site.logouts.add(session.id)
    response = redirect(request, LOGIN, Flash("plain", "You have been logged out."))
    cookies.put_session(site.jar, response, Session.new())
    return response

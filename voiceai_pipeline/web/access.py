"""Access control: login, sessions, and protection against forged forms (CSRF).

Without a password, which is possible on loopback only, every visitor has access. Forms are checked
all the same, because any web page can send one to this machine.
"""

import hmac
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voiceai_pipeline.core.settings import CALLBACK_PATH
from voiceai_pipeline.web import cookies
from voiceai_pipeline.web.cookies import Flash, Session
from voiceai_pipeline.web.pages import (
    HOME,
    PageError,
    redirect,
    render,
    safe_back,
    session_of,
)
from voiceai_pipeline.web.site import Site, site_of

Form = Mapping[str, str]

LOGIN: Final = "/login"
_OPEN: Final = frozenset({LOGIN, CALLBACK_PATH})
"""Paths without login. The callback is protected by its state."""

MAX_BODY: Final = 64 * 1024
"""Maximum size of a request body in bytes; ours have a few hundred."""


class Access:
    """Gives each browser a session, and redirects to the login where one is needed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        site = site_of(connection)
        other_name = site.name_for_cookies(connection.headers.get("host", ""))
        if other_name is not None and scope["method"] == "GET":
            answer = RedirectResponse(other_name + _requested(scope), 307)
            await answer(scope, receive, send)
            return
        jar = site.jar
        session = cookies.read_session(jar, connection.cookies)
        if session is not None and session.id in site.logouts:
            session = None
        is_new = session is None
        session = session or Session.new()
        scope["voiceai_session"] = session

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start" and is_new:
                headers = MutableHeaders(scope=message)
                # Login and logout set a new session themselves.
                if not any(c.startswith(cookies.SESSION) for c in headers.getlist("set-cookie")):
                    carrier = Response()
                    cookies.put_session(jar, carrier, session)
                    headers.append("set-cookie", carrier.headers["set-cookie"])
            await send(message)

        if site.page.secret is not None and not session.is_logged_in and not _is_open(scope):
            answer = RedirectResponse(_login_address(scope), 303)
            await answer(scope, receive, send_with_session)
            return
        await self._app(scope, receive, send_with_session)


def _is_open(scope: Scope) -> bool:
    return scope["path"] in _OPEN


def _requested(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _login_address(scope: Scope) -> str:
    # A form's content is lost: after the login its page is shown again.
    back = safe_back(_requested(scope)) if scope["method"] == "GET" else HOME
    return LOGIN if back == HOME else f"{LOGIN}?next={quote(back, safe='')}"


# Forms -------------------------------------------------------------------------------------------


def posted(
    handler: Callable[[Request, Form], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for one of our forms. Forged, expired or oversized ones never reach ``handler``.

    The handler runs in a thread, so that it may wait for the database and for HighLevel.
    """

    async def endpoint(request: Request) -> Response:
        form = parse_form(await read_body(request))
        _refuse_forged(request, form)
        return await run_in_threadpool(handler, request, form)

    return endpoint


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form. Starlette's own parser needs another package."""
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=50))
    except ValueError:
        return {}


async def read_body(request: Request) -> bytes:
    """The body of a request, up to ``MAX_BODY``.

    Raises:
        PageError: it is longer, or the client disconnected before its end.
    """
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise PageError(
                    413,
                    "Request too large",
                    f"The request exceeds {MAX_BODY // 1024} KB. Nothing was changed.",
                    "Send a smaller request.",
                )
    except ClientDisconnect:
        raise PageError(
            400, "The request was incomplete", "Nothing was changed.", "Try again."
        ) from None
    return body


def _refuse_forged(request: Request, form: Form) -> None:
    """Accept only forms that one of our pages showed in this session.

    Raises:
        PageError: another web page sent it, or its token is wrong, expired or of another session.
    """
    site = site_of(request)
    session = session_of(request)
    token = form.get("form_token", "")
    is_ours = session is not None and cookies.is_form_token(site.signer, session, token)
    if not is_ours or not _is_same_origin(request, site):
        raise PageError(
            403,
            "This form has expired",
            "It is too old, the server has restarted since, cookies are disabled, or another "
            "website sent it. Nothing was changed.",
            "Go back to the page, reload it and try again.",
        )


def _is_same_origin(request: Request, site: Site) -> bool:
    """Whether the form came from one of our pages, as far as the browser says where it was."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    sender = request.headers.get("origin")
    if sender is None:
        return True
    # Behind a proxy the browser uses the public address.
    host = request.headers.get("host", "")
    public = urlsplit(site.page.url)
    return sender in (
        f"http://{host}",
        f"https://{host}",
        f"{public.scheme}://{public.netloc}",
    )


# Login -------------------------------------------------------------------------------------------


def routes() -> list[Route]:
    """Login and logout."""
    return [
        Route(LOGIN, _login_page, methods=["GET"]),
        Route(LOGIN, posted(_login), methods=["POST"]),
        Route("/logout", posted(_logout), methods=["POST"]),
    ]


def _login_page(request: Request) -> Response:
    session = session_of(request)
    back = safe_back(request.query_params.get("next", HOME))
    if site_of(request).page.secret is None or (session is not None and session.is_logged_in):
        return redirect(request, back)
    return render(request, "login.html", back=back, complaint="")


def _login(request: Request, form: Form) -> Response:
    site = site_of(request)
    secret = site.page.secret
    back = safe_back(form.get("next", HOME))
    if secret is None:
        return redirect(request, back)
    wait = site.failed_logins.wait()
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
    if not hmac.compare_digest(form.get("password", "").encode(), secret.reveal().encode()):
        site.failed_logins.count()
        return render(
            request,
            "login.html",
            status=401,
            back=back,
            complaint="Wrong password. It is the value of VOICEAI_PAGE_SECRET.",
        )
    response = redirect(request, back)
    # A new id, against session fixation.
    cookies.put_session(site.jar, response, Session.new(is_logged_in=True))
    return response


def _logout(request: Request, _form: Form) -> Response:
    site = site_of(request)
    session = session_of(request)
    if session is not None:
        site.logouts.add(session.id)
    response = redirect(request, LOGIN, Flash("plain", "You have been logged out."))
    cookies.put_session(site.jar, response, Session.new())
    return response

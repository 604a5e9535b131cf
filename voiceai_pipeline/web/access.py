"""Who may use the page, and which forms are believed: login, session, forged requests.

Without a password (on loopback only) everybody who reaches the page may use it; forms are checked
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
"""What needs no login. HighLevel sends browsers to the callback, and its state is proof enough."""

MAX_BODY: Final = 64 * 1024
"""Bytes of a request that are read: ours have a few hundred."""


class Access:
    """Gives every browser a session, and lets nobody in who has to log in first."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        site = site_of(connection)
        other_name = site.name_for_cookies(connection.headers.get("host", ""))
        if other_name is not None and scope["method"] == "GET":
            answer = RedirectResponse(other_name + _wanted(scope), 307)
            await answer(scope, receive, send)
            return
        jar = site.jar
        session = cookies.read_session(jar, connection.cookies)
        if session is not None and session.id in site.logouts:
            session = None
        is_new = session is None
        session = session or Session.fresh()
        scope["voiceai_session"] = session

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start" and is_new:
                headers = MutableHeaders(scope=message)
                # Logging in and out set a session of their own.
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


def _wanted(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _login_address(scope: Scope) -> str:
    # A form that was sent is lost: after logging in, its page is shown again.
    back = safe_back(_wanted(scope)) if scope["method"] == "GET" else HOME
    return LOGIN if back == HOME else f"{LOGIN}?next={quote(back, safe='')}"


# Forms -------------------------------------------------------------------------------------------


def posted(
    handler: Callable[[Request, Form], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for a form of ours: whatever is forged, old or too long never reaches it.

    The handler may wait for the database and for HighLevel: it runs in a thread.
    """

    async def endpoint(request: Request) -> Response:
        form = parse_form(await read_body(request))
        _refuse_forged(request, form)
        return await run_in_threadpool(handler, request, form)

    return endpoint


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form. Starlette's own parser would need another package."""
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=50))
    except ValueError:
        return {}


async def read_body(request: Request) -> bytes:
    """The body of a request, if it is of a length that ours have.

    Raises:
        PageError: it is longer, or its end did not arrive.
    """
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise PageError(
                    413,
                    "That is too much",
                    f"The request is longer than {MAX_BODY // 1024} KB. Nothing was changed.",
                    "Send less.",
                )
    except ClientDisconnect:
        raise PageError(
            400, "The request broke off", "Nothing was changed.", "Try again."
        ) from None
    return body


def _refuse_forged(request: Request, form: Form) -> None:
    """Only a form that a page of ours showed in this very session is believed.

    Raises:
        PageError: another web page sent it, or its token is wrong, old or of another session.
    """
    site = site_of(request)
    session = session_of(request)
    token = form.get("form_token", "")
    is_ours = session is not None and cookies.is_form_token(site.seal, session, token)
    if not is_ours or not _is_from_here(request, site):
        raise PageError(
            403,
            "This form cannot be believed",
            "It is old, it was made before the page was started again, cookies are off, or "
            "another web page sent it. Nothing was changed.",
            "Go back to the page, reload it and try again.",
        )


def _is_from_here(request: Request, site: Site) -> bool:
    """What the browser itself says of where the form was, as far as it says anything."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    sender = request.headers.get("origin")
    if sender is None:
        return True
    # Behind a proxy the browser sees the page's public address.
    host = request.headers.get("host", "")
    public = urlsplit(site.page.url)
    return sender in (
        f"http://{host}",
        f"https://{host}",
        f"{public.scheme}://{public.netloc}",
    )


# Login -------------------------------------------------------------------------------------------


def routes() -> list[Route]:
    """Logging in and out."""
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
    wait = site.wrong_passwords.wait()
    if wait > 0:
        seconds = math.ceil(wait)
        answer = render(
            request,
            "login.html",
            status=429,
            back=back,
            complaint=f"Too many wrong passwords. Wait {seconds} seconds, then try again.",
        )
        answer.headers["Retry-After"] = str(seconds)
        return answer
    if not hmac.compare_digest(form.get("password", "").encode(), secret.reveal().encode()):
        site.wrong_passwords.count()
        return render(
            request,
            "login.html",
            status=401,
            back=back,
            complaint="That is not the password. It is the value of VOICEAI_PAGE_SECRET.",
        )
    response = redirect(request, back)
    # A new id: whoever knew the old one does not come in with it.
    cookies.put_session(site.jar, response, Session.fresh(is_logged_in=True))
    return response


def _logout(request: Request, _form: Form) -> Response:
    site = site_of(request)
    session = session_of(request)
    if session is not None:
        site.logouts.add(session.id)
    response = redirect(request, LOGIN, Flash("plain", "You are logged out"))
    cookies.put_session(site.jar, response, Session.fresh())
    return response

"""Complete responses: rendered templates with the current message, redirects, and error pages."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.web import cookies, template_filters
from voiceai_pipeline.web.cookies import Flash, Session
from voiceai_pipeline.web.site import Site, site_of

HOME: Final = "/"

READ_TIMEOUT: Final = 5.0
"""Seconds after which a page says that the database does not answer."""

_OURS: Final = re.compile(
    r"/(\?[\w=&%+.~-]*)?|/logins|/changes|/users/[0-9a-f-]{36}|/consents/[0-9a-f]{64}"
    r"|/insights(/values)?(\?[\w=&%+.~:-]*)?"
    r"|/calls(/[\w%.~:-]+)*(\?[\w=&%+.~:-]*)?"
    r"|/dagster(/[!-\[\]-~]*)?(\?[!-\[\]-~]*)?"
)


class PageError(Exception):
    """A request that is refused with an error page.

    Args:
        status: the HTTP status.
        title: what happened, in a few words.
        text: the same in sentences, and which users it affects.
        remedy: what to do.
    """

    def __init__(self, status: int, title: str, text: str, remedy: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text
        self.remedy = remedy


def session_of(request: Request) -> Session | None:
    """The session, set by ``access``; None for paths that have none."""
    session: Session | None = request.scope.get("voiceai_session")
    return session


def role_of(connection: HTTPConnection) -> Role | None:
    """The visitor's role, set by ``access``; None: not logged in, so may see and do nothing."""
    role: Role | None = connection.scope.get("voiceai_role")
    return role


def may_see_users(request: Request) -> bool:
    """Whether the visitor is logged in, or no password is needed. Pages without login, such as the
    callback, must not show names to other visitors."""
    return role_of(request) is not None


class _Read:
    """A page's read of the database.

    Attributes:
        asked_at: when it asked the database what is not answered yet, on the monotonic clock; None
            while it works on an answer.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = time.monotonic()  # for a connection


_under_way: ContextVar[_Read | None] = ContextVar("voiceai_read", default=None)


def notice_answers(engine: sa.Engine) -> None:
    """Let ``reading`` know when the database answers: an answer about very many users takes a page
    longer than the database."""
    sa.event.listen(engine, "before_cursor_execute", _asked)
    sa.event.listen(engine, "after_cursor_execute", _answered)
    sa.event.listen(engine, "handle_error", _answered)


def _asked(*_: object) -> None:
    if read := _under_way.get():
        read.asked_at = time.monotonic()


def _answered(*_: object) -> None:
    if read := _under_way.get():
        read.asked_at = None


def reading(handler: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that reads the database in a thread, as long as the database answers."""

    async def endpoint(request: Request) -> Response:
        read = _Read()
        _under_way.set(read)  # the thread gets a copy of this context
        done = asyncio.ensure_future(run_in_threadpool(handler, request))
        # After a time-out the read continues in its thread, and its result is ignored.
        done.add_done_callback(lambda one: one.cancelled() or one.exception())
        while not done.done():
            now = time.monotonic()
            left = (now if read.asked_at is None else read.asked_at) + READ_TIMEOUT - now
            if left <= 0:
                raise PageError(
                    503,
                    "Database unavailable",
                    f"The database has not answered for {READ_TIMEOUT:.0f} seconds. Nothing was "
                    "changed.",
                    "Reload the page. If it does not help, run voiceai-pipeline doctor.",
                )
            await asyncio.wait([done], timeout=left)
        return done.result()

    return endpoint


def safe_back(path: str) -> str:
    """``path`` if it is one of our pages, else the list: never redirect to another site."""
    return path if _OURS.fullmatch(path) else HOME


def render(request: Request, template: str, *, status: int = 200, **content: Any) -> Response:
    """A page: the template with its content, below the result of the last action."""
    site = site_of(request)
    flash = cookies.read_flash(site.jar, request.cookies)
    html = fragment(request, template, flash=flash and _named(site, flash), **content)
    response = HTMLResponse(html, status)
    if flash:
        site.jar.delete(response, cookies.FLASH)
    return response


def fragment(request: Request, template: str, **content: Any) -> str:
    """A rendered template, with its content and what every template gets: the visitor, times,
    addresses."""
    site = site_of(request)
    session = session_of(request)
    now = datetime.now(UTC)
    zone = site.pipeline.zone
    return site.templates.get_template(template).render(
        session=session,
        may_see_users=may_see_users(request),
        is_operator=role_of(request) is Role.OPERATOR,
        needs_login=site.page.secret is not None,
        form_token=cookies.form_token(site.signer, session) if session else "",
        dagster_url=site.page.dagster_url,
        sandbox_url=site.highlevel.api_url if site.highlevel.is_sandbox else "",
        moment=lambda at: template_filters.moment(at, zone),
        distance=lambda at: template_filters.distance(at, now),
        **content,
    )


def _named(site: Site, flash: Flash) -> dict[str, Any]:
    """The message with its user's name, which the cookie does not hold."""
    name = "The user"
    with contextlib.suppress(sa.exc.SQLAlchemyError), site.pipeline.engine.begin() as db:
        connection = connections.one(db, UUID(flash.user_id)) if flash.user_id else None
        name = connection.user.name if connection else name
    return {
        "tone": flash.tone,
        "title": flash.title.replace("{user}", name),
        "text": template_filters.on_page(flash.text),
        "run_ids": flash.run_ids,
    }


def redirect(request: Request, path: str, flash: Flash | None = None) -> Response:
    """Redirect after an action (303 See Other); the next page shows ``flash``."""
    response = RedirectResponse(path, 303)
    if flash:
        cookies.put_flash(site_of(request).jar, response, flash)
    return response


def problem_page(request: Request, problem: PageError) -> Response:
    return render(request, "problem.html", status=problem.status, problem=problem)

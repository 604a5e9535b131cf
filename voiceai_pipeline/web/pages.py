"""A whole page: a template in its frame, with the message to show, and redirects that leave one.

Also what a page says when something is wrong: ``PageError``.
"""

import contextlib
import re
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.web import cookies, filters
from voiceai_pipeline.web.cookies import Flash, Session
from voiceai_pipeline.web.site import Site, site_of

HOME: Final = "/"
_OURS: Final = re.compile(r"/(\?[\w=&%+.~-]*)?|/users/[0-9a-f-]{36}")


class PageError(Exception):
    """Why a request is refused, as a page of its own.

    Args:
        status: the HTTP status.
        title: what happened, in a few words.
        text: the same in sentences, and whom it touches.
        remedy: what to do.
    """

    def __init__(self, status: int, title: str, text: str, remedy: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text
        self.remedy = remedy


def session_of(request: Request) -> Session | None:
    """The session that ``access`` found or began; None where a path needs none."""
    session: Session | None = request.scope.get("voiceai_session")
    return session


def safe_back(path: str) -> str:
    """The address to return to, if it is one of ours; else the list."""
    return path if _OURS.fullmatch(path) else HOME


def render(request: Request, template: str, *, status: int = 200, **content: Any) -> Response:
    """A page: the template with its content, the message of the last action above it."""
    site = site_of(request)
    session = session_of(request)
    flash = cookies.read_flash(site.jar, request.cookies)
    now = datetime.now(UTC)
    zone = site.pipeline.zone
    html = site.templates.get_template(template).render(
        session=session,
        can_enter=site.page.secret is None or (session is not None and session.is_logged_in),
        needs_login=site.page.secret is not None,
        form_token=cookies.form_token(site.seal, session) if session else "",
        flash=flash and _named(site, flash),
        dagster_url=site.page.dagster_url,
        sandbox_url=site.highlevel.api_url if site.highlevel.is_sandbox else "",
        moment=lambda at: filters.moment(at, zone),
        distance=lambda at: filters.distance(at, now),
        **content,
    )
    response = HTMLResponse(html, status)
    if flash:
        site.jar.drop(response, cookies.FLASH)
    return response


def _named(site: Site, flash: Flash) -> dict[str, Any]:
    """The message with the name of its user, which the cookie does not hold."""
    name = "The user"
    with contextlib.suppress(sa.exc.SQLAlchemyError), site.pipeline.engine.begin() as db:
        connection = connections.one(db, UUID(flash.user_id)) if flash.user_id else None
        name = connection.user.name if connection else name
    return {
        "tone": flash.tone,
        "title": flash.title.replace("{user}", name),
        "text": filters.on_page(flash.text),
        "run_ids": flash.run_ids,
    }


def redirect(request: Request, path: str, flash: Flash | None = None) -> Response:
    """See other, after an action; the next page shows ``flash``."""
    response = RedirectResponse(path, 303)
    if flash:
        cookies.put_flash(site_of(request).jar, response, flash)
    return response


def problem_page(request: Request, problem: PageError) -> Response:
    return render(request, "problem.html", status=problem.status, problem=problem)

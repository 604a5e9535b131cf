"""The page's routes, what stands before them, and what is shown when something is wrong: a table of
contents."""

from pathlib import Path

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, database_sentence
from voiceai_pipeline.web import access, api, connections, consent
from voiceai_pipeline.web.headers import SecurityHeaders, allowed_hosts, security_headers
from voiceai_pipeline.web.pages import PageError, problem_page
from voiceai_pipeline.web.site import Site

HEALTH = {"service": "voiceai-pipeline connections"}
"""How the command line knows that it is this page that listens on the port of the callback."""


def create_app(site: Site) -> ASGIApp:
    """The page over HTTP."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=site.page.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=api.CALLERS_HEADERS,
    )
    app = Starlette(
        routes=[
            Route("/health", _health),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
            Mount(api.PREFIX, routes=api.routes(), middleware=[cors]),
            Mount(
                "/",
                routes=[*access.routes(), *connections.routes(), *consent.routes()],
                middleware=[Middleware(access.Access)],
            ),
        ],
        middleware=[
            Middleware(
                TrustedHostMiddleware,
                allowed_hosts=allowed_hosts(site.page),
                www_redirect=False,
            )
        ],
        exception_handlers={
            PageError: _problem,
            UnknownUserError: _unknown_user,
            sa.exc.SQLAlchemyError: _database,
            HTTPException: _http,
            Exception: _unforeseen,
        },
    )
    app.state.site = site
    return SecurityHeaders(_logging_bugs(app), security_headers(site.page))


async def _health(_request: Request) -> Response:
    return JSONResponse(HEALTH)


# What is wrong, as a page or, for callers of /functions, as JSON ----------------------------------


def _answer(request: Request, problem: PageError, error: str) -> Response:
    if request.url.path.startswith(api.PREFIX):
        return api.refusal(problem.status, error, f"{problem.text} {problem.remedy}")
    return problem_page(request, problem)


def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, PageError)  # noqa: S101 - registered for it
    return problem_page(request, problem)


def _unknown_user(request: Request, _error: Exception) -> Response:
    text = "The address names a user who does not exist, or no longer."
    return problem_page(
        request, PageError(404, "There is no such user", text, "Find the user in the list.")
    )


def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, sa.exc.SQLAlchemyError)  # noqa: S101 - registered for it
    if isinstance(error, sa.exc.DBAPIError):
        said = database_sentence(error)
    else:
        said = f"{database_error(error)}"
    what, _, remedy = said.partition(". ")
    text = f"{what}. Nobody's connection was touched."
    return problem_page(request, PageError(503, "The database does not answer", text, remedy))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 404:
        problem = PageError(
            404, "There is no such page", "The address leads nowhere.", "See the list."
        )
    else:
        text = f"The address does not take a {request.method} request. Nothing was changed."
        problem = PageError(error.status_code, "That does not work", text, "Use the buttons.")
    answer = _answer(request, problem, "not_found" if error.status_code == 404 else "not_allowed")
    answer.headers.update(error.headers or {})
    return answer


def _unforeseen(request: Request, error: Exception) -> Response:
    name = type(error).__name__  # logged by _logging_bugs
    text = f"Unexpected error ({name}). The log of the page says where."
    problem = PageError(500, "This is a bug", text, "Report it with the error's name.")
    return _answer(request, problem, "internal")


def _logging_bugs(app: ASGIApp) -> ASGIApp:
    """Starlette answers a bug, then raises it again; the server would log it with its text."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            unexpected(error)

    return call

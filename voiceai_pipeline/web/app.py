"""The ASGI application: routes, middleware and error pages. Handlers live in their own modules."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.dagster_access import DAGSTER_PATH
from voiceai_pipeline.core.disk import is_full
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.installation import START
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, database_sentence
from voiceai_pipeline.web import (
    access,
    api,
    call_export,
    call_page,
    captured_values,
    changes,
    connect,
    insights,
    installs,
    live,
    user_list,
    users,
    webhooks,
)
from voiceai_pipeline.web.dagster_proxy import DagsterProxy
from voiceai_pipeline.web.guard import Guard
from voiceai_pipeline.web.headers import SecurityHeaders, security_headers
from voiceai_pipeline.web.pages import PageError, notice_answers, problem_page
from voiceai_pipeline.web.site import Site, site_of

HEALTH = {"service": "voiceai-pipeline connections"}
"""What tells the command line that the Connections page listens on the callback's port."""


def create_app(site: Site) -> ASGIApp:
    """The pages and ``/functions/v1`` as one application."""
    notice_answers(site.pipeline.engine)
    functions = [
        Middleware(
            CORSMiddleware,
            allow_origins=site.page.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=api.CALLERS_HEADERS,
        ),
        # Inside CORS: a browser hides a response without CORS headers from the page.
        Middleware(ExceptionMiddleware, handlers={HTTPException: _http}),
    ]
    app = Starlette(
        routes=[
            Route("/health", _health),
            *webhooks.routes(site.inbox),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
            Mount(api.PREFIX, routes=api.routes(), middleware=functions),
            # The UI's own scripts ask for them at the root.
            Route("/favicon-run-{_}.svg", _moved),
            *(
                Route(path, _moved)
                for name in MOVED
                for path in (f"/{name}", f"/{name}/{{_:path}}")
            ),
            Mount(
                "/",
                routes=[
                    *access.routes(),
                    *user_list.routes(),
                    *users.routes(),
                    *live.routes(),
                    *connect.routes(),
                    *installs.routes(),
                    *changes.routes(),
                    *insights.routes(),
                    *captured_values.routes(),
                    *call_export.routes(),
                    *call_page.routes(),
                    Mount(DAGSTER_PATH, _dagster(site)),
                ],
                middleware=[Middleware(access.Access)],
            ),
        ],
        exception_handlers={
            PageError: _problem,
            UnknownUserError: _unknown_user,
            sa.exc.SQLAlchemyError: _database,
            HTTPException: _http,
            Exception: _bug,
        },
    )
    app.state.site = site
    guarded = Guard(_logging_bugs(app), site.page, keyed=[api.PREFIX])
    return SecurityHeaders(guarded, security_headers(site.page))


def _dagster(site: Site) -> ASGIApp:
    key = site.page.dagster_key
    return DagsterProxy(site.upstreams, key) if key is not None else _no_dagster


async def _no_dagster(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    raise PageError(
        503,
        "Dagster is not connected",
        "This process has no key for Dagster's UI process.",
        f"Start both with {START}, or set VOICEAI_DAGSTER_KEY to the same value for both.",
    )


MOVED: Final = (
    "asset-groups",
    "assets",
    "automation",
    "catalog",
    "concurrency",
    "deployment",
    "instance",
    "jobs",
    "lineage",
    "locations",
    "overview",
    "runs",
    "schedules",
    "sensors",
    "workspace",
)
"""Pages of Dagster's UI that redirect to ``/dagster``. Old events, descriptions, bookmarks and
messages link to them, from when the UI had an address of its own."""


async def _moved(request: Request) -> Response:
    path, query = (request.scope[name].decode("latin-1") for name in ("raw_path", "query_string"))
    return RedirectResponse(f"{DAGSTER_PATH}{path}{'?' if query else ''}{query}", 308)


async def _health(_request: Request) -> Response:
    return JSONResponse(HEALTH)


# Errors, as a page or, for callers of /functions, as JSON -----------------------------------------


def _answer(request: Request, problem: PageError, error: str) -> Response:
    if request.url.path.startswith(api.PREFIX):
        return api.refusal(problem.status, error, f"{problem.text} {problem.remedy}")
    return problem_page(request, problem)


def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, PageError)  # noqa: S101 - registered for it
    return problem_page(request, problem)


def _unknown_user(request: Request, _error: Exception) -> Response:
    text = "There is no user with this id. It may have been deleted."
    return problem_page(
        request, PageError(404, "User not found", text, "Find the user in the list.")
    )


def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, sa.exc.SQLAlchemyError)  # noqa: S101 - registered for it
    if isinstance(error, sa.exc.OperationalError) and is_full(site_of(request).home):
        # A server that cannot start does not say why.
        said = f"{PipelineError(FailureClass.DISK_FULL)}"
    elif isinstance(error, sa.exc.DBAPIError):
        said = database_sentence(error)
    else:
        said = f"{database_error(error)}"
    what, _, remedy = said.partition(". ")
    text = f"{what}. No connection was changed."
    return problem_page(request, PageError(503, "Database unavailable", text, remedy))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 404:
        problem = PageError(
            404, "Page not found", "There is no page at this address.", "Go to the list of users."
        )
    else:
        text = f"This address does not accept {request.method} requests. Nothing was changed."
        problem = PageError(error.status_code, "Method not allowed", text, "Use the buttons.")
    answer = _answer(request, problem, "not_found" if error.status_code == 404 else "not_allowed")
    answer.headers.update(error.headers or {})
    return answer


def _bug(request: Request, error: Exception) -> Response:
    name = type(error).__name__  # logged by _logging_bugs
    text = f"Unexpected error ({name}). The page's log says where it was raised."
    problem = PageError(500, "Something went wrong", text, "Report it with the error's name.")
    return _answer(request, problem, "internal")


def _logging_bugs(app: ASGIApp) -> ASGIApp:
    """Log bugs without their text. Starlette responds to a bug, then raises it again for the
    server, which would log it in full."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            unexpected(error)

    return call

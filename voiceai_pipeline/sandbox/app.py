"""The ASGI application: all routes of the sandbox, with one world. It has no logic of its own."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from voiceai_pipeline.sandbox import api, authorize_page, control, front_page, token_endpoints
from voiceai_pipeline.sandbox.answers import refusal
from voiceai_pipeline.sandbox.world import World


def create_app(world: World) -> Starlette:
    """The sandbox over HTTP."""
    app = Starlette(
        routes=[
            *front_page.routes(),
            *authorize_page.routes(),
            *token_endpoints.routes(),
            *api.routes(),
            *control.routes(),
        ],
        exception_handlers={HTTPException: _not_found},
    )
    app.state.world = world
    return app


async def _not_found(request: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    return refusal(status, f"Cannot {request.method} {request.url.path}", "Not Found")

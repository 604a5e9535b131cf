"""Security headers of every response."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voiceai_pipeline.core.settings import PageSettings


def security_headers(page: PageSettings) -> dict[str, str]:
    """No scripts, no foreign content, no framing, no caching."""
    policy = (
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
    found = {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Not no-referrer: the Origin header of forms would then be `null`.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "Cache-Control": "no-store",
    }
    if page.url.startswith("https://"):
        found["Strict-Transport-Security"] = "max-age=31536000"
    return found


def with_scripts(response: Response, page: PageSettings) -> Response:
    """The response, with a policy that lets its page run our own scripts and no others."""
    policy = security_headers(page)["Content-Security-Policy"]
    ours = "script-src 'self'; connect-src 'self'"
    response.headers["Content-Security-Policy"] = f"{policy}; {ours}"
    return response


class SecurityHeaders:
    """Adds headers to every response, error responses included.

    A response that brings its own, as Dagster's files do (``dagster_policy``), keeps them.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)

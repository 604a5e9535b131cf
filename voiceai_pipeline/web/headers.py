"""Security headers of every response, and the host names that are answered."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
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


def allowed_hosts(page: PageSettings) -> list[str]:
    """Host names that are answered. With any other name that resolves to this machine (DNS
    rebinding), the scripts of that site could read our responses."""
    names = {"127.0.0.1", "localhost", "::1", page.host, urlsplit(page.url).hostname or page.host}
    return sorted(f"[{name}]" if ":" in name else name for name in names)


class SecurityHeaders:
    """Adds headers to every response, error responses included."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)

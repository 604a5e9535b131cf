"""A HighLevel whose tokens are canaries, and which repeats in its errors whatever it was sent.

It stands before the sandbox and translates: what the sandbox calls SANDBOX-ACCESS is a canary of
the same length on the wire.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voiceai_pipeline.sandbox.app import create_app
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.faults import TOKEN_PATH
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline_tests.canary.canaries import CANARIES

_SANDBOX: Final = {
    "SANDBOX-ACCESS": "access token",
    "SANDBOX-REFRESH": "refresh token",
    "SANDBOX-CODE": "auth code",
    SANDBOX_CLIENT_SECRET: "client secret",
}


def _translated(text: bytes, *, to_canaries: bool) -> bytes:
    for word, name in _SANDBOX.items():
        pair = (word.encode(), CANARIES[name].encode())
        text = text.replace(*(pair if to_canaries else pair[::-1]))
    return text


@dataclass(frozen=True)
class Echo:
    """An error answer; its texts repeat the request."""

    status: int
    message: str


@dataclass
class CanaryHighLevel:
    """An ASGI application.

    Attributes:
        errors: what a location is answered instead of what the sandbox says.
        token_errors: the same, of the token endpoint.
        held: locations whose token request is answered by nothing at all.
    """

    world: World
    errors: Mapping[str, Echo] = field(default_factory=dict)
    token_errors: Mapping[str, Echo] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    url: str = ""

    def __post_init__(self) -> None:
        self._sandbox: ASGIApp = create_app(self.world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = _translated(body, to_canaries=False)
        echo = self._error(scope, asked)
        if echo is not None:
            await self._refuse(echo, scope, body, send)
            return
        headers = [
            (name, _translated(value, to_canaries=False)) for name, value in scope["headers"]
        ]
        query = _translated(scope["query_string"], to_canaries=False)

        whole: list[Message] = [{"type": "http.request", "body": asked}]

        async def read() -> Message:
            return whole.pop() if whole else await receive()

        async def translated(message: Message) -> None:
            for key in ("body", "headers"):
                if key == "body" and key in message:
                    message[key] = _translated(message[key], to_canaries=True)
                elif key in message:
                    message[key] = [
                        (name, _translated(value, to_canaries=True)) for name, value in message[key]
                    ]
            await send(message)

        await self._sandbox({**scope, "headers": headers, "query_string": query}, read, translated)

    def _error(self, scope: Scope, asked: bytes) -> Echo | None:
        if scope["path"] == TOKEN_PATH:
            (token, *_) = parse_qs(asked.decode()).get("refresh_token", [""])
            grant = self.world.grant_of(refresh=token) if token else None
            return self.token_errors.get(grant.resource) if grant else None
        (location, *_) = parse_qs(scope["query_string"].decode()).get("locationId", [""])
        return self.errors.get(location)

    async def _refuse(self, echo: Echo, scope: Scope, body: bytes, send: Send) -> None:
        repeated = b" ".join(
            [scope["query_string"], body, *(value for _, value in scope["headers"])]
        ).decode()
        (token, *_) = parse_qs(body.decode()).get("refresh_token", [""])
        error = {
            "statusCode": echo.status,
            "message": f"{echo.message} {repeated}",
            "error": repeated,
            "traceId": token.replace(".", "-")[:64] or repeated,
        }
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": echo.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(error).encode()})


@contextmanager
def running(world: World) -> Iterator[CanaryHighLevel]:
    """Serve it until the ``with`` block ends; its address is ``url``."""
    world.limits.enabled = False
    world.stopping = False
    highlevel = CanaryHighLevel(world)
    listener = listen("127.0.0.1", 0)
    with serve_in_thread(highlevel, listener, "canaries", stopping=world.stop) as url:
        highlevel.url = url
        yield highlevel

"""``/dagster``: Dagster's whole UI, behind the guard, the login and the role.

A thin reverse proxy to Dagster's UI process (``defs/dagster_ui.py``). ``dagster_policy`` says what
is open. Each request is written from scratch: only the body of a query and two caching headers are
passed on from the browser. Only the headers that are named here are passed back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
import websockets
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from voiceai_pipeline.core.dagster_access import DAGSTER_PATH, KEY_HEADER, ROLE_HEADER, Role
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.web import dagster_policy
from voiceai_pipeline.web.access import is_still_in, read_body
from voiceai_pipeline.web.dagster_policy import GRAPHQL, Kind
from voiceai_pipeline.web.dagster_upstream import Answer, Upstream, UpstreamError
from voiceai_pipeline.web.pages import PageError, problem_page, role_of
from voiceai_pipeline.web.site import site_of

log = logging.getLogger(__name__)

MAX_QUERY: Final = 2 * 1024 * 1024
"""Maximum bytes of a query with its variables; a backfill names each of its days."""

_MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Maximum bytes of a message from Dagster: the events of a run come in one."""

_CHECK_INTERVAL: Final = 5.0
"""Seconds between checks whether the session of an open websocket is still valid."""

_PASSED_ON: Final = ("if-none-match", "if-modified-since")
_PASSED_BACK: Final = ("content-type", "content-length", "etag", "last-modified")
_PROTOCOL: Final = "graphql-ws"

_STARTING: Final = (
    "Dagster is starting, or has stopped",
    "Its process does not answer. Loading takes up to a minute; the other pages work meanwhile.",
    "Wait: this page reloads automatically. If that does not help, see Dagster's webserver.log.",
)


class DagsterProxy:
    """The application under ``/dagster``.

    Args:
        upstreams: the UI process for each role: one for both, or two if the operators' process has
            rights that the analysts' must not have.
        key: the key that these processes require.
    """

    def __init__(self, upstreams: Mapping[Role, Upstream], key: Secret) -> None:
        self._upstreams = upstreams
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
            return
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(DAGSTER_PATH) or "/"
        try:
            if path == GRAPHQL and request.method == "POST":
                return await self._query(request)
            return await self._get(request, path)
        except UpstreamError as error:
            log.warning("Dagster's UI process does not answer: %s", cleaned(str(error)))
            if path == GRAPHQL:
                return _refused(503, f"{_STARTING[0]}. {_STARTING[1]}")
            return await run_in_threadpool(_starting, request)

    # HTTP ----------------------------------------------------------------------------------------

    async def _query(self, request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if len(request.headers.getlist("content-type")) != 1 or media_type != "application/json":
            return _refused(415, "Send a query as application/json.")
        if request.headers.getlist("sec-fetch-site") not in ([], ["same-origin"]):
            return _refused(403, "Only pages of this installation may send queries.")
        body = await read_body(request, MAX_QUERY)
        if not _is_query(body):
            return _refused(400, "Send one query, as a JSON object.")
        headers = [*self._credentials(request), ("content-type", "application/json")]
        return await self._passed(
            request, "POST", DAGSTER_PATH + GRAPHQL, headers, Kind.ANSWER, body
        )

    async def _get(self, request: Request, path: str) -> Response:
        is_get = request.method in ("GET", "HEAD")
        found = dagster_policy.find(path) if is_get else None
        if found is None:
            raise PageError(
                404 if is_get else 405,
                "Not available",
                "This address of Dagster's web server is closed here. Nothing was changed.",
                "Use the pages of Dagster's UI.",
            )
        caching = [(n, v) for n in _PASSED_ON if (v := request.headers.get(n)) is not None]
        headers = [*self._credentials(request), *(caching if found.kind is Kind.FILE else ())]
        return await self._passed(request, "GET", found.path, headers, found.kind)

    async def _passed(
        self,
        request: Request,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        kind: Kind,
        body: bytes = b"",
    ) -> Response:
        stack = contextlib.AsyncExitStack()
        upstream = self._upstreams[_known_role(request)]
        try:
            answer = await stack.enter_async_context(upstream.request(method, path, headers, body))
            passed = {n: v for n in _PASSED_BACK if (v := answer.headers.get(n)) is not None}
            passed |= _policy(request, answer, kind)
        except BaseException:
            await stack.aclose()
            raise
        return _Streamed(answer, passed, stack)

    def _credentials(self, connection: Request | WebSocket) -> list[tuple[str, str]]:
        return [(KEY_HEADER, self._key.reveal()), (ROLE_HEADER, _known_role(connection).value)]

    # Websockets ----------------------------------------------------------------------------------

    async def _socket(self, socket: WebSocket) -> None:
        """Live logs and the state of code locations: GraphQL subscriptions."""
        is_open = socket.scope["path"] == DAGSTER_PATH + GRAPHQL
        if not is_open or _PROTOCOL not in socket.scope["subprotocols"]:
            await socket.close(1008)
            return
        upstream = self._upstreams[_known_role(socket)]
        url = f"{upstream.url.replace('http', 'ws', 1)}{DAGSTER_PATH}{GRAPHQL}"
        try:
            async with connect(
                url,
                additional_headers=self._credentials(socket),
                subprotocols=[cast("Any", _PROTOCOL)],
                compression=None,
                max_size=_MAX_MESSAGE,
                proxy=None,
                user_agent_header=None,
            ) as dagster:
                await socket.accept(_PROTOCOL)
                await _exchange(socket, dagster)
        except (OSError, TimeoutError, websockets.WebSocketException):
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(1013)


async def _exchange(socket: WebSocket, dagster: ClientConnection) -> None:
    """Pass messages on in both directions until one side leaves or the session ends."""
    pumps = [
        asyncio.create_task(pump)
        for pump in (_to_dagster(socket, dagster), _to_browser(socket, dagster), _session(socket))
    ]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in done:
            with contextlib.suppress(websockets.ConnectionClosed, WebSocketDisconnect):
                pump.result()
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(1001)


async def _to_dagster(socket: WebSocket, dagster: ClientConnection) -> None:
    """Returns when the browser disconnects or sends a message that is not text."""
    while (text := (await socket.receive()).get("text")) is not None:
        await dagster.send(text)


async def _to_browser(socket: WebSocket, dagster: ClientConnection) -> None:
    async for message in dagster:
        if isinstance(message, str):
            await socket.send_text(message)


async def _session(socket: WebSocket) -> None:
    """Returns once the session has expired or was logged out."""
    while is_still_in(socket):
        await asyncio.sleep(_CHECK_INTERVAL)


class _Query(msgspec.Struct):
    """What the body of a query may hold, by GraphQL's names."""

    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815


_QUERY: Final = msgspec.json.Decoder(_Query)


def _is_query(body: bytes) -> bool:
    """Whether Dagster's web server can read ``body``; anything else would be an error in it."""
    try:
        _QUERY.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _known_role(connection: Request | WebSocket) -> Role:
    """The visitor's role.

    Raises:
        PageError: it is unknown; nothing is passed on for such a visitor.
    """
    role = role_of(connection)
    if role is None:
        raise PageError(403, "Not logged in", "Nothing was changed.", "Log in first.")
    return role


# Responses ---------------------------------------------------------------------------------------


class _Streamed(StreamingResponse):
    """A response that is passed on as it arrives; at its end the connection is closed."""

    def __init__(
        self, answer: Answer, headers: Mapping[str, str], stack: contextlib.AsyncExitStack
    ) -> None:
        super().__init__(answer.body, answer.status, headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


def _policy(request: Request, answer: Answer, kind: Kind) -> dict[str, str]:
    """The policy of a response.

    Raises:
        PageError: Dagster's document names no nonce, so its scripts cannot be told from foreign
            ones.
    """
    if kind is Kind.ANSWER:
        return {"Content-Security-Policy": dagster_policy.SANDBOX}
    if kind is Kind.FILE:
        is_script = request.scope["path"].endswith(".js")
        policy = dagster_policy.SCRIPT if is_script else dagster_policy.SANDBOX
        # Their names change with their content. Only the visitor's own browser may cache them.
        kept = "private, max-age=31536000, immutable"
        named = "/_next/static/" in request.scope["path"] and answer.status in (200, 304)
        return {"Content-Security-Policy": policy} | ({"Cache-Control": kept} if named else {})
    nonce = dagster_policy.nonce_of(answer.headers.get("content-security-policy", ""))
    if nonce is None:
        raise PageError(
            502,
            "Dagster's UI cannot be shown",
            f"Its page (HTTP {answer.status}) names no nonce for its scripts, so they cannot be "
            "told from foreign ones.",
            "Run the release of Dagster that this program was installed with, and see its log, "
            "webserver.log.",
        )
    is_https = site_of(request).page.url.startswith("https://")
    policy = dagster_policy.page_policy(nonce, request.headers["host"], is_https=is_https)
    return {"Content-Security-Policy": policy}


def _refused(status: int, sentence: str) -> Response:
    """An error in the form in which the UI shows those of queries."""
    return JSONResponse({"errors": [{"message": sentence}]}, status)


def _starting(request: Request) -> Response:
    response = problem_page(request, PageError(503, *_STARTING))
    response.headers["Refresh"] = "3"
    response.headers["Retry-After"] = "3"
    return response

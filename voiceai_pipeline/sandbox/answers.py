"""The exact error answers of CONTRACT 6, and answers that break in transit.

Bodies and bytes only: `guard` and the endpoints decide which answer a request gets.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from voiceai_pipeline.sandbox.faults import Fault

NO_VERSION = "version header was not found."
BAD_VERSION = "version header is invalid"
NO_AUTHORIZATION = "No Authorization header found for authentication!"
INVALID_JWT = "Invalid JWT"
INVALID_TOKEN = "Invalid token: access token is invalid"
WRONG_SCOPE = "The token is not authorized for this scope."
WRONG_CLASS = (
    "This authClass type is not allowed to access this scope. Please use the correct token type."
)
WRONG_LOCATION = "The token does not have access to this location."
NOT_THIS_LOCATION = "This location is not accessible from this token!"
INVALID_PRIVATE_TOKEN = "Invalid Private Integration token"
NO_LOCATION = "LocationId is missing in query"
INACTIVE = "Location is not active"
GATEWAY_TIMEOUT = "Command timed out"
# The body of a wrong client secret is UNKNOWN (CONTRACT 6); this is the wording of the OAuth
# library whose other messages the API answers.
WRONG_CLIENT = "Invalid client: client is invalid"

_CLOUDFLARE_1010 = """<!DOCTYPE html>
<html><head><title>Access denied</title></head>
<body><h1>Error 1010</h1><p>The owner of this website has banned your access based on your
browser's signature. error_code: 1010 browser_signature_banned</p></body></html>
"""
_BAD_GATEWAY = """<html>
<head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>cloudflare</center></body>
</html>
"""
# An invented status may have no standard reason phrase, so phrases are looked up with a default.
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def refusal(
    status: int,
    message: str | list[str],
    error: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """`{statusCode, message, error?}`, the shape of nearly every error."""
    body: dict[str, Any] = {"statusCode": status, "message": message}
    if error is not None:
        body["error"] = error
    return JSONResponse(body, status, headers=headers)


def unprocessable(*messages: str) -> JSONResponse:
    """422 with an array of messages (CONTRACT 6)."""
    return refusal(422, list(messages), "Unprocessable Entity")


def aip_error(status: int, code: str, message: str, **details: str) -> JSONResponse:
    """The error envelope of the v3 oauth lists (CONTRACT 6)."""
    error: dict[str, Any] = {"code": code, "message": message, "details": details}
    if code == "RESOURCE_NOT_FOUND":
        what = details.get("resource", "resource")
        error["resolution"] = f"Verify the {what} exists and you have permission to access it."
    return JSONResponse({"error": error}, status)


def banned_user_agent() -> Response:
    """Cloudflare's answer to Python's default urllib agent (CONTRACT 1)."""
    return HTMLResponse(_CLOUDFLARE_1010, 403)


def wrong_client() -> JSONResponse:
    """401: the token endpoint does not know this client id and secret."""
    return refusal(401, WRONG_CLIENT, "Unauthorized")


def answer_of_fault(fault: Fault) -> Response | None:
    """The answer that a rule gives instead of the API's; None if it only alters the real one."""
    match fault.kind:
        case "rate_limit":
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return refusal(429, "Too Many Requests", headers=wait)
        case "server_error":
            return refusal(fault.status, _PHRASES.get(fault.status, "Server Error"))
        case "html_502":
            return HTMLResponse(_BAD_GATEWAY, 502)
        case "gateway_timeout_401":
            return refusal(401, GATEWAY_TIMEOUT)
        case "forbidden_location":
            return refusal(403, WRONG_LOCATION)
        case "error_in_200":
            return JSONResponse({"statusCode": 500, "message": "Internal server error"}, 200)
        case "bad_client":
            return wrong_client()
        case "unauthorized":
            if fault.variant == "documented":
                return refusal(401, INVALID_TOKEN, "Unauthorized")
            texts = {
                "invalid_jwt": INVALID_JWT,
                "scope": WRONG_SCOPE,
                "version": BAD_VERSION,
                "no_authorization": NO_AUTHORIZATION,
                "authclass": WRONG_CLASS,
            }
            return refusal(401, texts[fault.variant])
        case _:
            return None


def bend(answer: Response, fault: Fault, stopping: Callable[[], bool]) -> Response:
    """The real answer, broken as the rule says."""
    body = bytes(answer.body)
    if fault.kind == "truncated_json":
        cut = body[: max(1, len(body) * 2 // 3)]
        return Response(cut, answer.status_code, media_type="application/json")
    if fault.kind == "gzip_lie":
        headers = {"Content-Encoding": "gzip"}
        # Short, so that a client that cannot decode it has read all of it, and closes the
        # connection.
        return Response(body[:1000], answer.status_code, headers, media_type="application/json")
    if fault.kind == "reset":
        return _Reset(body, answer.status_code, half=True)
    if fault.kind == "lost_token_response":
        return _Reset(body, answer.status_code, half=False)
    if fault.kind == "stall":
        return _Stall(body, answer.status_code, fault.seconds, stopping)
    return answer


class _Reset(Response):
    """Half an answer (or none of it), then a TCP reset."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int, *, half: bool) -> None:
        super().__init__(body, status)
        self.half = half

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.half:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            part = bytes(self.body)[: len(self.body) // 2]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            # Give the bytes time to leave, or the reset overtakes them.
            await asyncio.sleep(0.02)
        _abort(receive)
        # Let uvicorn notice the closed connection, so that it does not report a missing response.
        await asyncio.sleep(0.01)


class _Stall(Response):
    """Headers and half of the body, then silence until the client gives up or `seconds` pass."""

    media_type = "application/json"

    def __init__(
        self, body: bytes, status: int, seconds: float, stopping: Callable[[], bool]
    ) -> None:
        super().__init__(body, status)
        self.seconds = seconds
        self.stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        body = bytes(self.body)
        middle = len(body) // 2
        await send({"type": "http.response.body", "body": body[:middle], "more_body": True})
        if await _silent(self.seconds, receive, self.stopping):
            await send({"type": "http.response.body", "body": body[middle:]})
        else:
            _abort(receive)
            await asyncio.sleep(0.01)


async def _silent(seconds: float, receive: Receive, stopping: Callable[[], bool]) -> bool:
    """Wait; returns False if the client leaves or the server stops before `seconds` pass."""

    async def client_left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(client_left())
    try:
        end = asyncio.get_running_loop().time() + seconds
        while not leaving.done() and not stopping():
            if asyncio.get_running_loop().time() >= end:
                return True
            await asyncio.wait({leaving}, timeout=min(0.05, seconds))
        return False
    finally:
        leaving.cancel()


def _abort(receive: Receive) -> None:
    """Reset the TCP connection under a request.

    ASGI has no event for it, so this reaches through uvicorn's bound `receive` to its transport.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.WriteTransport):
        raise RuntimeError("a reset needs uvicorn's transport")
    wire = transport.get_extra_info("socket")
    if wire is not None:
        # Linger 0: close sends RST instead of FIN. A client that has left needs neither.
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

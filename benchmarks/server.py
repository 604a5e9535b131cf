"""HighLevel's list of call logs on loopback, cheap enough not to be the bottleneck.

    python -m benchmarks.server     # a shape as JSON on stdin; prints its port, ends with stdin

It implements CONTRACT 2 in the dated dialect, directly on asyncio. Pages are joined from prepared
pieces, the latency is a timer, and the limits are the sandbox's. ``/bench/reset`` resets limits and
counts, ``/bench/counts`` returns the counts. There are no faults.
"""

import asyncio
import gc
import json
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from benchmarks.world import PAGE_SIZE, Calls, Shape, location_id, token
from voiceai_pipeline.sandbox.limits import RateLimits

PATH = "/voice-ai/dashboard/call-logs"
_PARAMETERS = {
    "locationId", "agentId", "contactId", "callType", "startDate", "endDate", "actionType",
    "sortBy", "sort", "page", "pageSize",
}  # fmt: skip

_MANY = 10**9
"""Stands for no limit: clients keep to the announced limit, so a high one has to be announced."""


@dataclass
class _Counts:
    requests: int = 0
    refused: int = 0
    cpu: float = 0.0


class Api:
    """Answers requests; knows nothing of sockets."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._calls = Calls(shape)
        self._calls.prepare()
        self._places = {location_id(n): n for n in range(shape.locations)}
        self._today = datetime.now(UTC).date()
        self._reset()

    def _reset(self) -> None:
        self._limits = RateLimits() if self._shape.limits else RateLimits(burst=_MANY, daily=_MANY)
        self._counts = _Counts(cpu=time.process_time())

    def answer(self, head: bytes) -> tuple[bytes, float]:
        """The whole answer to a request's head, and the seconds until it is sent."""
        request, *lines = head.decode("latin-1").split("\r\n")
        path, _, query = request.split(" ")[1].partition("?")
        if path == "/bench/reset":
            self._reset()
            return _answer(200, b"{}"), 0
        if path == "/bench/counts":
            counts = vars(self._counts) | {"cpu": time.process_time() - self._counts.cpu}
            return _answer(200, json.dumps(counts).encode()), 0
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        self._counts.requests += 1
        asked = dict(parse_qsl(query))
        place = self._places.get(asked.get("locationId", ""))
        problem = _problem(path, headers, asked, place)
        if place is None or problem:
            return _refusal(*problem or (400, "locationId is unknown")), self._shape.latency
        slow = self._shape.slow_latency if place == 0 else None
        latency = self._shape.latency if slow is None else slow
        resource = asked["locationId"]
        allowed = self._limits.spend(resource, self._today)
        limits = self._limits.headers(resource, self._today)
        if not allowed:
            self._counts.refused += 1
            return _refusal(429, "Too Many Requests", limits), latency
        return _answer(200, self._page(place, asked), limits), latency

    def _page(self, place: int, asked: dict[str, str]) -> bytes:
        start, end = (int(asked[name]) if name in asked else None for name in _DATES)
        page, size = int(asked.get("page", 1)), min(int(asked.get("pageSize", 10)), PAGE_SIZE)
        first, last = self._calls.between(start, end)
        if asked.get("sort") == "ascend" and "sortBy" in asked:
            numbers = range(first, last)[(page - 1) * size : page * size]
        else:
            numbers = range(first, last)[::-1][(page - 1) * size : page * size]
        envelope = b'{"total":%d,"page":%d,"pageSize":%d,"callLogs":[%b],"traceId":"bench"}'
        return envelope % (last - first, page, size, self._calls.page(place, numbers))


_DATES = ("startDate", "endDate")


def _problem(
    path: str, headers: dict[str, str], asked: dict[str, str], place: int | None
) -> tuple[int, str] | None:
    """The status and message with which the contract refuses a request; None if it does not."""
    if path != PATH:
        return 404, "Not Found"
    if headers.get("version") not in ("2021-04-15", "2021-07-28", "2023-02-21"):
        return 401, "version header was not found"
    if place is None or headers.get("authorization") != f"Bearer {token(place)}":
        return 401, "Invalid JWT"
    if strange := asked.keys() - _PARAMETERS:
        return 422, f"property {min(strange)} should not exist"
    if ("startDate" in asked) != ("endDate" in asked):
        return 422, "startDate and endDate go together"
    return None


def _answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> bytes:
    body = {"statusCode": status, "message": message, "traceId": "bench"}
    return _answer(status, json.dumps(body).encode(), headers)


class _Connection(asyncio.Protocol):
    """One client's socket: heads in, answers out, each after its latency. Requests have no body."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._pending = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Room for a whole page: the rest of it would wait for the next iteration of the event loop.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024
        )

    def data_received(self, data: bytes) -> None:
        *heads, self._pending = (self._pending + data).split(b"\r\n\r\n")
        for head in heads:
            answer, seconds = self._api.answer(head)
            self._loop.call_later(seconds, self._send, answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(shape: Shape) -> None:
    """Serve until stdin ends, which it does with the process that started this one."""
    loop = asyncio.get_running_loop()
    api = Api(shape)
    gc.freeze()  # a million prepared pieces, none of which will ever be garbage
    server = await loop.create_server(lambda: _Connection(api), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Shape.from_json(json.loads(sys.stdin.readline()))))

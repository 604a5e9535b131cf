"""Sends requests to Dagster's UI process over HTTP/1.1. Each has its own connection, which closes
when the visitor disconnects; responses are streamed.

Only what ``dagster_proxy`` decides is sent: no cookie or query string of a browser. On loopback a
new connection takes a fifth of a millisecond.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

CONNECT_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 120.0
"""Seconds to wait for each part of a response; the first one of a cold query takes long."""

_CHUNK: Final = 64 * 1024

Headers = Sequence[tuple[str, str]]


class UpstreamError(Exception):
    """The process does not answer, or its answer is not HTTP."""


@dataclass(frozen=True)
class Answer:
    """A response whose body is still on its way.

    Attributes:
        headers: by lower-case name; if a name is repeated, the last value.
    """

    status: int
    headers: dict[str, str]
    body: AsyncIterator[bytes]


class Upstream:
    """Dagster's UI process.

    Args:
        url: scheme, host and port; plain HTTP.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80

    @asynccontextmanager
    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b""
    ) -> AsyncIterator[Answer]:
        """Send a request; the connection is closed at the end of the ``with``.

        Args:
            path: percent-encoded, with the prefix.

        Raises:
            UpstreamError: the process does not answer; also raised while the body is read.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError) as error:
            raise UpstreamError(f"no connection ({type(error).__name__})") from error
        try:
            connection = h11.Connection(h11.CLIENT)
            fixed = [
                ("host", f"{self._host}:{self._port}"),
                ("connection", "close"),
                ("accept-encoding", "identity"),
            ]
            if body:
                fixed.append(("content-length", str(len(body))))
            request = h11.Request(method=method, target=path, headers=[*fixed, *headers])
            for event in (request, *([h11.Data(body)] if body else []), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            events = _events(connection, reader, writer)
            async for event in events:
                if isinstance(event, h11.Response):
                    found = {k.decode(): v.decode("latin-1") for k, v in event.headers}
                    yield Answer(event.status_code, found, _body(events))
                    return
            raise UpstreamError("no response")
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def _body(events: AsyncIterator[h11.Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, h11.Data):
            yield bytes(event.data)


async def _events(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[h11.Event]:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await writer.drain()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return
            elif isinstance(event, h11.Event):
                yield event
    except (OSError, TimeoutError, h11.ProtocolError) as error:
        raise UpstreamError(type(error).__name__) from error

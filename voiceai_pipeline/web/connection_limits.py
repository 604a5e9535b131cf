"""Limits on connections: how many, and how long one may stay without a request.

Opening connections and sending nothing, or one header a minute, costs an attacker nothing. uvicorn
limits only their number: from then on it would refuse everyone else. Here a connection has seconds
to send its headers. With too many connections, the one that has waited longest for the rest of its
request, headers or body, is closed.
"""

import asyncio
from typing import Final, cast

from h11 import SEND_BODY, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT: Final = 10.0
"""Seconds from a connection's start, or from the first byte of its next request, to the end of the
request's headers."""

MAX_CONNECTIONS: Final = 500
"""Maximum number of open connections, including idle ones; with more, the one that has waited
longest is closed. If none is waiting, twice as many may open before requests get status 503."""

_waiting: dict["LimitedProtocol", None] = {}
"""Connections of this process that have not sent a complete request, the longest waiting first."""


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol of one connection, with these limits."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _waiting[self] = None
        self._start_timer()
        if len(self.connections) > MAX_CONNECTIONS:
            mine = (one for one in _waiting if one.connections is self.connections)
            if (longest := next(mine)) is not self:
                longest._drop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()  # bodies have a limit of their own, where they are read
            if self.conn.their_state is not SEND_BODY:
                self._leave()
        elif self in _waiting and self._timer is None:
            self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            _waiting[self] = None

    def handle_websocket_upgrade(self, event: Request) -> None:
        self._leave()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._drop)

    def _leave(self) -> None:
        _waiting.pop(self, None)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self) -> None:
        self._leave()
        self.connections.discard(cast("H11Protocol", self))
        self.transport.abort()

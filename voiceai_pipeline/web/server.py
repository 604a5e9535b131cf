"""Serves an ASGI application with uvicorn: until a signal, or in a background thread.

The pages and the sandbox share it, so only ``connection_limits`` is imported here. uvicorn's own
entry point would exit if the port is in use, die of the signal after a clean stop, and notify the
application only after its last responses.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from voiceai_pipeline.web import connection_limits
from voiceai_pipeline.web.connection_limits import LimitedProtocol

_START_TIMEOUT: Final = 20.0
"""Seconds within which a server in a thread has to start."""

_MAX_HEAD: Final = 32 * 1024
"""Maximum bytes of a request line and its headers."""

_MAX_MESSAGE: Final = 256 * 1024
"""Maximum bytes of a websocket message; Dagster's UI sends subscriptions of a few KB."""

Hook = Callable[[], None]


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 picks a free one.

    Raises:
        OSError: the address is not available, for example because the port is in use.
    """
    # asyncio disables Nagle's algorithm only if the protocol is named; otherwise each response
    # takes 40 ms longer.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_until_stopped(
    app: ASGIApp,
    listener: socket.socket,
    *,
    stopping: Hook | None = None,
    websockets: bool = False,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then close ``listener`` and return.

    Args:
        stopping: called before the server waits for its last responses.
        websockets: whether ``app`` accepts them.
        trusted_proxies: addresses whose X-Forwarded-For and -Proto are believed.
    """
    server = _Server(app, stopping, websockets=websockets, trusted_proxies=trusted_proxies)
    with contextlib.closing(listener), _handling_signals(server):
        server.run(sockets=[listener])


@contextlib.contextmanager
def serve_in_thread(
    app: ASGIApp,
    listener: socket.socket,
    name: str,
    *,
    stopping: Hook | None = None,
    websockets: bool = False,
) -> Iterator[str]:
    """Serve in a background thread, then close ``listener``; yields the URL.

    Args:
        name: of the thread, and in the error if the server does not start.
        stopping: called before the server waits for its last responses.
        websockets: whether ``app`` accepts them.

    Raises:
        RuntimeError: the server did not start.
    """
    server = _Server(app, stopping, websockets=websockets)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name=name, daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the {name} did not start")
            time.sleep(0.005)
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(_START_TIMEOUT)
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn with limits and no access log: URLs carry authorization codes."""

    def __init__(
        self,
        app: ASGIApp,
        stopping: Hook | None,
        *,
        websockets: bool,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedProtocol,
                loop="asyncio",
                ws="websockets-sansio" if websockets else "none",
                ws_max_size=_MAX_MESSAGE,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                # Twice, because a request of a closed connection ends a moment after it.
                limit_concurrency=2 * connection_limits.MAX_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEAD,
                # Believed from these proxies only: any program here can send such headers.
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                # Longer than clients usually pause: a request sent just as its connection is
                # closed fails.
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stopping is not None:
            self._stopping()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _handling_signals(server: uvicorn.Server) -> Iterator[None]:
    """Make SIGTERM and SIGINT a clean stop with exit code 0.

    After a clean stop uvicorn raises the signal again, for the handler that was there before it.
    This one only repeats the request to stop.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, server.handle_exit) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Serves an ASGI application on a socket: as a process of its own, or in a thread for tests."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

_START_TIMEOUT: Final = 20.0

Hook = Callable[[], None]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one.

    Raises:
        OSError: the address cannot be had (somebody else listens on the port).
    """
    # With the protocol named, asyncio turns Nagle's algorithm off; else every answer takes 40 ms.
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
    """The address of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_until_stopped(
    app: ASGIApp,
    listener: socket.socket,
    *,
    ready: Hook | None = None,
    stopping: Hook | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then close ``listener`` and return.

    Args:
        ready: called when requests are answered.
        stopping: called before the last answers are waited for.
    """
    with contextlib.closing(listener):
        _Server(app, ready, stopping).run(sockets=[listener])


@contextlib.contextmanager
def serve_in_thread(
    app: ASGIApp, listener: socket.socket, name: str, *, stopping: Hook | None = None
) -> Iterator[str]:
    """Serve in a background thread, then close ``listener``; yields the URL.

    Args:
        name: what is served, for the thread and for what is said if it does not start.
        stopping: called before the last answers are waited for.
    """
    url = url_of(listener)
    server = _Server(app, None, stopping)
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
        yield url
    finally:
        server.should_exit = True
        thread.join(_START_TIMEOUT)
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn without a log of addresses, which carry codes, and with an exit code of 0."""

    def __init__(self, app: ASGIApp, ready: Hook | None, stopping: Hook | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                # Longer than clients usually pause: to one that asks again just as its connection
                # is closed, that is an error.
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stopping is not None:
            self._stopping()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal once more after a clean stop, so that the process dies of it;
        # a program that was asked to stop has done nothing wrong.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

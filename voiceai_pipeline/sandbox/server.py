"""The sandbox on a real socket: as a process of its own, or in a thread for tests."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from voiceai_pipeline.sandbox.app import create_app
from voiceai_pipeline.sandbox.world import RecordedRequest, World

_START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox that answers at `url`."""

    url: str
    world: World

    @property
    def requests(self) -> list[RecordedRequest]:
        """What was asked so far, oldest first: a copy."""
        return list(self.world.requests)


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    state_file: Path | None = None,
    ready: Callable[[str], None] | None = None,
    world: World | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    Raises:
        OSError: the address cannot be had (somebody else listens on the port).
    """
    world = world or World(state_file=state_file)
    listener = _listen(host, port)
    server = _Server(world, ready=lambda: ready(_url(listener)) if ready else None)
    server.run(sockets=[listener])


@contextlib.contextmanager
def running(world: World, *, limits: bool = True) -> Iterator[RunningSandbox]:
    """The sandbox in a background thread, on a free port of this machine.

    `limits=False` turns the rate limits off.
    """
    world.limits.enabled = limits
    world.stopping = False
    listener = _listen("127.0.0.1", 0)
    url = _url(listener)
    server = _Server(world)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.005)
        yield RunningSandbox(url, world)
    finally:
        world.stopping = True
        server.should_exit = True
        thread.join(_START_TIMEOUT_S)
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn that ends stalled answers when told to stop and leaves exit codes alone."""

    def __init__(self, world: World, ready: Callable[[], object] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(world),
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._world = world
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._world.stopping = True
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal once more after a clean stop, so that the process dies of it;
        # a sandbox that was asked to stop has done nothing wrong and exits with 0.
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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; else every answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"

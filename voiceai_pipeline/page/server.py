"""The page on a real socket: as a process of its own, or in a thread for tests."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from voiceai_pipeline.dagster_api import Dagster
from voiceai_pipeline.page.app import create_app
from voiceai_pipeline.page.cookies import Seal
from voiceai_pipeline.page.site import Site
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.settings import Settings
from voiceai_pipeline.storage.history import Actor

ACTOR = "connections page"
_START_TIMEOUT = 20.0


@dataclass(frozen=True)
class RunningPage:
    """A page that answers at ``url``."""

    url: str
    site: Site


def open_site(settings: Settings, pipeline: Pipeline, dagster_url: str | None = None) -> Site:
    """The parts of the page.

    Args:
        dagster_url: where Dagster is asked; None: where people find it.
    """
    return Site(
        pipeline=pipeline,
        highlevel=settings.highlevel,
        page=settings.page,
        dagster=Dagster(dagster_url or settings.page.dagster_url),
        seal=Seal(settings.page.secret),
    )


def serve(settings: Settings, dagster_url: str | None, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    Raises:
        OSError: the address cannot be had (somebody else listens on the port).
        SettingsError, PostgresError: with what to do.
    """
    with (
        contextlib.closing(listen(settings.page.host, settings.page.port)) as listener,
        open_pipeline(settings, actor=Actor(ACTOR)) as pipeline,
    ):
        server = _Server(open_site(settings, pipeline, dagster_url), ready)
        server.run(sockets=[listener])


@contextlib.contextmanager
def running(site: Site, listener: socket.socket) -> Iterator[RunningPage]:
    """The page in a background thread, on a socket that listens already."""
    host, port = listener.getsockname()[:2]
    server = _Server(site)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the page did not start")
            time.sleep(0.005)
        yield RunningPage(f"http://{host}:{port}", site)
    finally:
        server.should_exit = True
        thread.join(_START_TIMEOUT)
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one.

    Raises:
        OSError: the address cannot be had.
    """
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


class _Server(uvicorn.Server):
    """uvicorn without a log of addresses, which carry codes, and with an exit code of 0."""

    def __init__(self, site: Site, ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(site),
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                # Nothing here depends on where a request says that it comes from.
                proxy_headers=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal once more after a clean stop, so that the process dies of it;
        # a page that was asked to stop has done nothing wrong.
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

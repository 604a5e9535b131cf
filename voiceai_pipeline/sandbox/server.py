"""The sandbox on a real socket: as a process of its own, or in a thread for tests."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from voiceai_pipeline.sandbox.app import create_app
from voiceai_pipeline.sandbox.webhooks import WebhookSender
from voiceai_pipeline.sandbox.world import RecordedRequest, World
from voiceai_pipeline.web.server import listen, serve_in_thread, serve_until_stopped, url_of


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox that answers at `url`."""

    url: str
    world: World

    @property
    def requests(self) -> list[RecordedRequest]:
        """A copy of the requests so far, oldest first."""
        return list(self.world.requests)


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    state_file: Path | None = None,
    ready: Callable[[str], None] | None = None,
    world: World | None = None,
    webhook_url: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    `webhook_url` receives the webhook messages.

    Raises:
        OSError: the address is not available (another process listens on the port).
    """
    world = world or World(state_file=state_file)
    listener = listen(host, port)
    if ready is not None:
        ready(url_of(listener))
    with sending(world, webhook_url) if webhook_url else contextlib.nullcontext():
        serve_until_stopped(create_app(world), listener, stopping=world.stop)


@contextlib.contextmanager
def sending(world: World, webhook_url: str) -> Iterator[None]:
    """Send webhook messages until the `with` block ends."""
    sender = WebhookSender(world, webhook_url)
    sender.start()
    try:
        yield
    finally:
        sender.stop()


@contextlib.contextmanager
def running(world: World, *, limits: bool = True) -> Iterator[RunningSandbox]:
    """The sandbox in a background thread, on a free port of this machine.

    `limits=False` turns the rate limits off.
    """
    world.limits.enabled = limits
    world.stopping = False
    listener = listen("127.0.0.1", 0)
    with serve_in_thread(create_app(world), listener, "sandbox", stopping=world.stop) as url:
        yield RunningSandbox(url, world)

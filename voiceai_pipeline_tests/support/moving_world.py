"""A sandbox in which something happens between the requests of a sync."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.world import World


class Moving(World):
    """A HighLevel in which something happens at every request for calls, before the response."""

    meanwhile: Callable[[], None] | None = None

    def fire_faults(
        self, location_ids: set[str], path: str, window: tuple[float, float] | None
    ) -> list[Fault]:
        if path == CALL_LOGS and self.meanwhile is not None:
            self.meanwhile()
        return super().fire_faults(location_ids, path, window)

    @contextmanager
    def while_asked(self, happens: Callable[[], None]) -> Iterator[None]:
        self.meanwhile = happens
        try:
            yield
        finally:
            self.meanwhile = None

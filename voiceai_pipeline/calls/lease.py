"""A worker's lease of one location, in memory: whether it still holds, and whether the worker shows
signs of life. The leases in the database are in ``leases``.
"""

import contextlib
from collections.abc import Callable, Iterator


class LeaseLostError(Exception):
    """The lease ran out, so another run may be reading: this one must not go on."""


class Lease:
    """The right to read one location, as its reader's thread sees it."""

    def __init__(self, until: float, monotonic: Callable[[], float]) -> None:
        self._until = until
        self._monotonic = monotonic
        self._seen_at = monotonic()
        self._asked_at: float | None = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Around each request.

        Raises:
            LeaseLostError: the lease may be another's by now.
        """
        self.check()
        self._asked_at = self._seen_at
        try:
            yield
        finally:
            self._asked_at = None

    def check(self) -> None:
        """A sign of life.

        Raises:
            LeaseLostError: the lease may be another's by now.
        """
        now = self._monotonic()
        if now >= self._until:
            raise LeaseLostError
        self._seen_at = now

    def has_been_silent(self, seconds: float) -> bool:
        return self._monotonic() - self._seen_at > seconds

    def has_been_asking(self, seconds: float) -> bool:
        """Whether an answer has been waited for so long."""
        asked_at = self._asked_at
        return asked_at is not None and self._monotonic() - asked_at > seconds

    def prolong(self, until: float) -> None:
        self._until = until

    def lose(self) -> None:
        self._until = 0.0

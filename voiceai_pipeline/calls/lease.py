"""A worker's view, in memory, of its lease of one location: whether it is still valid, and when the
worker last showed a sign of life. ``leases`` has the rows in the database.
"""

import contextlib
from collections.abc import Callable, Iterator


class LeaseLostError(Exception):
    """The lease expired. The worker must stop, because another run may be reading the location."""


class Lease:
    """The right to read one location; used by its worker and by the queue's thread.

    Args:
        until: when it expires, in seconds of ``monotonic``.
    """

    def __init__(self, until: float, monotonic: Callable[[], float]) -> None:
        self._until = until
        self._monotonic = monotonic
        self._seen_at = monotonic()
        self._asked_at: float | None = None

    @contextlib.contextmanager
    def requesting(self) -> Iterator[None]:
        """A context manager for each request of the worker.

        Raises:
            LeaseLostError: another run may hold the lease by now.
        """
        self.check()
        self._asked_at = self._seen_at
        try:
            yield
        finally:
            self._asked_at = None

    def check(self) -> None:
        """Record a sign of life.

        Raises:
            LeaseLostError: another run may hold the lease by now.
        """
        now = self._monotonic()
        if now >= self._until:
            raise LeaseLostError
        self._seen_at = now

    def is_silent(self, seconds: float) -> bool:
        """Whether the last sign of life is longer ago than ``seconds``."""
        return self._monotonic() - self._seen_at > seconds

    def is_blocked(self, seconds: float) -> bool:
        """Whether the worker has waited longer than ``seconds`` for a response."""
        asked_at = self._asked_at
        return asked_at is not None and self._monotonic() - asked_at > seconds

    def extend(self, until: float) -> None:
        self._until = until

    def lose(self) -> None:
        self._until = 0.0

"""The lease of one location as its worker holds it, in memory: whether it is still valid, and when
the worker last showed a sign of life. The rows in the database are in ``leases``.
"""

import contextlib
from collections.abc import Callable, Iterator


class LeaseLostError(Exception):
    """The lease expired, so another run may be reading the location: stop."""


class Lease:
    """The right to read one location; used by its worker and by the queue's thread.

    Args:
        until: when it expires, by ``monotonic``.
    """

    def __init__(self, until: float, monotonic: Callable[[], float]) -> None:
        self._until = until
        self._monotonic = monotonic
        self._seen_at = monotonic()
        self._asked_at: float | None = None

    @contextlib.contextmanager
    def requesting(self) -> Iterator[None]:
        """Wraps each request.

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
        """Show a sign of life.

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

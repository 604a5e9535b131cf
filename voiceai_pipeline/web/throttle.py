"""Rate limit for failed logins, per address: an address can lock out only itself."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

LIMIT: Final = 5
WINDOW: Final = 60.0
"""After ``LIMIT`` failures of an address within this many seconds, no password of it is checked."""

_ADDRESSES: Final = 10_000
"""Maximum number of remembered addresses; with more, the one that failed longest ago is dropped."""


class Throttle:
    """Counts failures per address. Sessions that are already logged in are not affected.

    Args:
        now: seconds of a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: dict[str, deque[float]] = {}

    def wait(self, address: str) -> float:
        """Seconds until the next attempt of ``address`` is allowed; 0 if it is allowed now."""
        failures = self._failures.get(address)
        if failures is None or len(failures) < LIMIT:
            return 0.0
        return max(0.0, failures[0] + WINDOW - self._now())

    def count(self, address: str) -> int:
        """Record a failure; return how many the address had in the window, at most ``LIMIT``."""
        # Moved to the end: the order is that of the last failure.
        failures = self._failures.pop(address, None) or deque(maxlen=LIMIT)
        failures.append(self._now())
        self._failures[address] = failures
        while len(self._failures) > _ADDRESSES:
            del self._failures[next(iter(self._failures))]
        return sum(at > self._now() - WINDOW for at in failures)

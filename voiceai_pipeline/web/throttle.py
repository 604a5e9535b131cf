"""Rate limit for failed logins: in memory, for all visitors together."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

LIMIT: Final = 5
WINDOW: Final = 60.0
"""After so many failures within so many seconds, no password is checked."""


class Throttle:
    """Counts failures, for all visitors together: behind a proxy all share one address. Sessions
    that are already logged in are not affected.

    Args:
        now: seconds of a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: deque[float] = deque(maxlen=LIMIT)

    def wait(self) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        if len(self._failures) < LIMIT:
            return 0.0
        return max(0.0, self._failures[0] + WINDOW - self._now())

    def count(self) -> None:
        """Record a failure."""
        self._failures.append(self._now())

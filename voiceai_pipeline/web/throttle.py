"""How many wrong passwords are too many: counted in memory, for everybody together."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

LIMIT: Final = 5
WINDOW: Final = 60.0
"""So many wrong ones within so many seconds, and nobody's password is looked at any more."""


class Throttle:
    """Counts failures. For everybody together, because behind a proxy all come from one address;
    whoever is logged in already is not touched.

    Args:
        now: seconds of a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: deque[float] = deque(maxlen=LIMIT)

    def wait(self) -> float:
        """Seconds until the next attempt is looked at; 0 if it is now."""
        if len(self._failures) < LIMIT:
            return 0.0
        return max(0.0, self._failures[0] + WINDOW - self._now())

    def count(self) -> None:
        """Note a failure."""
        self._failures.append(self._now())

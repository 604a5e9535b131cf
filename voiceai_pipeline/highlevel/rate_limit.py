"""How fast one location may be asked, learnt from the headers of its own answers (CONTRACT 5).

The limit belongs to the app and the location, so the budget is kept per location: a busy tenant
never slows another one. Nothing is stored; another process is noticed by what the headers say.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

INTERVAL: Final = 10.0
"""Seconds of a burst (CONTRACT 5), for answers that do not name them."""

_LONGEST: Final = 60.0
"""Seconds; a header that asks for more is broken, and a day's limit answers 429 by itself."""


class RateLimits:
    """Waits before a request where the last answer said that the burst is spent.

    Args:
        sleep, monotonic: replaced by tests that simulate time.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._not_before: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, location_id: str) -> None:
        """Sleep until ``location_id`` may be asked again."""
        with self._lock:
            seconds = self._not_before.get(location_id, 0.0) - self._monotonic()
        if seconds > 0:
            self._sleep(seconds)

    def learn(self, location_id: str, headers: Mapping[str, str]) -> None:
        """Take note of ``X-RateLimit-Remaining`` and ``X-RateLimit-Interval-Milliseconds``.

        No header says when the interval began, so a spent burst waits a whole interval.
        """
        try:
            remaining = int(headers["X-RateLimit-Remaining"])
            interval = int(headers["X-RateLimit-Interval-Milliseconds"]) / 1000
        except (KeyError, ValueError):
            return
        if remaining <= 0:
            with self._lock:
                self._not_before[location_id] = self._monotonic() + min(interval, _LONGEST)

"""How fast one location may be asked, learnt from the headers of its own answers (CONTRACT 5).

The limit belongs to the app and the location, so the budget is kept per location: a busy tenant
never slows another one. Nothing is stored. Calls of a location are read by one run at a time
(``calls/location_queue.py``), so this process' count is nearly the whole of it; who else asks
(names, totals, a test of the connection) is noticed by what the headers say, and a small reserve is
left for them.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel.errors import HighLevelError

INTERVAL: Final = 10.0
"""Seconds of a burst (CONTRACT 5), for answers that do not name them."""

RESERVE: Final = 0.02
"""Share of a burst that is left to others who ask about the same location."""

DAILY_RESERVE: Final = 100
"""Requests of a day that are left: one burst, for a person who tests the connection elsewhere."""

PROBE_AFTER: Final = 900.0
"""Seconds after which a spent day is asked about anew: nothing says when it ends."""

_LONGEST: Final = 60.0
"""Seconds; a header that asks for more is broken, and a day's limit is another header."""


class DailyLimitError(HighLevelError):
    """A location's requests of the day are nearly spent: nothing was sent, and nothing is waited
    for, since the day's end may be hours away."""


@dataclass
class _Budget:
    """What is known of one location.

    Attributes:
        left: how many more requests may be sent at once; None before the first answer.
        in_flight: sent and not answered.
        answered: when the answers of the last interval came, oldest first.
        free_at: when the last place that was waited for is free.
        daily_left, daily_limit: as the last answer said, at ``daily_at``.
    """

    left: int | None = None
    interval: float = INTERVAL
    in_flight: int = 0
    answered: deque[float] = field(default_factory=deque)
    free_at: float = 0.0
    daily_left: int | None = None
    daily_limit: int | None = None
    daily_at: float = 0.0

    def pause(self, now: float) -> float:
        """Take a place in the burst: seconds until it is free.

        A request leaves the interval that long after it was counted, which was before its answer
        came; where the interval is a fixed one, it began before that and is over by then.
        """
        self.in_flight += 1
        if self.left is None:
            return 0.0
        self.left -= 1
        if self.left >= 0:
            return 0.0
        while self.left < 0:
            # With no answer left in the interval all of its places are free.
            if self.answered:
                self.free_at = self.answered.popleft() + self.interval
            self.left += 1
        return min(max(self.free_at - now, 0.0), _LONGEST)


class RateLimits:
    """Waits before a request until the location's burst has room for it.

    Args:
        sleep, monotonic: replaced by tests that simulate time.
        now: for people only, to say when a day is over; aware UTC.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._now = now
        self._budgets: defaultdict[str, _Budget] = defaultdict(_Budget)
        self._lock = threading.Lock()

    def wait(self, location_id: str, *, method: str = "GET", path: str = "") -> None:
        """Sleep until ``location_id`` may be asked again. ``learn`` or ``lost`` must follow.

        Args:
            method, path: of the request, for the error's text.

        Raises:
            DailyLimitError: the day's requests are nearly spent; the text says until when.
        """
        with self._lock:
            budget = self._budgets[location_id]
            now = self._monotonic()
            left = budget.daily_left
            if left is not None and left <= DAILY_RESERVE and now < budget.daily_at + PROBE_AFTER:
                raise self._day_is_spent(budget, method, path)
            seconds = budget.pause(now)
        if seconds > 0:
            self._sleep(seconds)

    def learn(self, location_id: str, headers: Mapping[str, str]) -> None:
        """Take note of what an answer says is left of the burst and of the day."""
        with self._lock:
            budget = self._budgets[location_id]
            budget.in_flight = max(budget.in_flight - 1, 0)
            now = self._monotonic()
            budget.daily_left = _number(headers, "X-RateLimit-Daily-Remaining")
            budget.daily_limit = _number(headers, "X-RateLimit-Limit-Daily")
            budget.daily_at = now
            remaining = _number(headers, "X-RateLimit-Remaining")
            interval = _number(headers, "X-RateLimit-Interval-Milliseconds")
            if remaining is None or interval is None:
                return
            budget.interval = interval / 1000
            reserve = int((_number(headers, "X-RateLimit-Max") or 0) * RESERVE)
            # Those in flight may be counted already; counting them twice only costs a moment.
            budget.left = remaining - reserve - budget.in_flight
            budget.answered.append(now)
            while budget.answered[0] <= now - budget.interval:
                budget.answered.popleft()

    def lost(self, location_id: str) -> None:
        """A request ended without an answer."""
        with self._lock:
            budget = self._budgets[location_id]
            budget.in_flight = max(budget.in_flight - 1, 0)

    def _day_is_spent(self, budget: _Budget, method: str, path: str) -> DailyLimitError:
        limit = f" {budget.daily_limit:,}" if budget.daily_limit else ""
        by = self._now() + timedelta(days=1)
        return DailyLimitError(
            FailureClass.RATE_LIMITED,
            method=method,
            path=path,
            reason=f"only {budget.daily_left} of the day's{limit} requests are left for this "
            "location; HighLevel does not say when its day ends, so they are back by "
            f"{by:%Y-%m-%d %H:%M} UTC at the latest",
            sent=False,
        )


def _number(headers: Mapping[str, str], name: str) -> int | None:
    try:
        return int(headers[name])
    except (KeyError, ValueError):
        return None

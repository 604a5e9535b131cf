"""Keeps requests within a location's rate limit, as its response headers announce it (CONTRACT 5).

Limits and budgets are per app and location: a busy location never slows down another one. Nothing
is stored. Only one run reads a location's calls at a time (``calls/location_queue.py``), so this
process makes nearly all of the requests. Requests of other processes (names, totals, connection
tests) show in the headers, and a small reserve is left for them.
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
"""Seconds of a burst interval (CONTRACT 5), for responses that do not state it."""

RESERVE: Final = 0.02
"""Share of a burst that is left to other processes for requests about the same location."""

DAILY_RESERVE: Final = 100
"""A day's requests that are left unused: one burst, for connection tests of other processes."""

PROBE_AFTER: Final = 900.0
"""Seconds until an exhausted daily limit is probed if HighLevel does not say when it resets."""

_ABSURD: Final = 10**12
"""A header with a number this large is wrong, and is ignored."""

DAY: Final = 86_400.0
"""Seconds; a daily limit that resets later than this is an error in the response."""

_LONGEST: Final = 60.0
"""The longest pause in seconds for a burst: a header that asks for more is wrong, since the daily
limit has its own."""


class DailyLimitError(HighLevelError):
    """A location's daily limit is nearly exhausted. The request was not sent, and waiting is
    pointless: the reset may be hours away."""


@dataclass
class _Budget:
    """The state of one location's limits.

    Attributes:
        left: requests that may still be sent at once; None before the first response.
        in_flight: requests without a response yet.
        answered: times of the last interval's responses, oldest first (monotonic clock).
        free_at: when the slot that was last waited for becomes free (monotonic clock).
        daily_left, daily_limit: according to the last response, at ``daily_at``.
        daily_reset: seconds from ``daily_at`` until the daily limit resets; None: unknown.
    """

    left: int | None = None
    interval: float = INTERVAL
    in_flight: int = 0
    answered: deque[float] = field(default_factory=deque)
    free_at: float = 0.0
    daily_left: int | None = None
    daily_limit: int | None = None
    daily_reset: float | None = None
    daily_at: float = 0.0

    def pause(self, now: float) -> float:
        """Take a slot in the burst; return the seconds until it is free.

        A slot is free one interval after its request was counted, which was before the response
        arrived. A fixed interval began even earlier, so it is over by then, too.
        """
        self.in_flight += 1
        if self.left is None:
            return 0.0
        self.left -= 1
        if self.left >= 0:
            return 0.0
        while self.left < 0:
            # Without a response in the interval, all of its slots are free.
            if self.answered:
                self.free_at = self.answered.popleft() + self.interval
            self.left += 1
        return min(max(self.free_at - now, 0.0), _LONGEST)


class RateLimits:
    """Waits before a request until the location's burst has a free slot.

    Args:
        sleep, monotonic: tests replace them to simulate time.
        now: returns the time (aware UTC) for messages about the daily limit's reset.
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
        """Sleep until a request for ``location_id`` may be sent. ``learn`` or ``lost`` must follow.

        Args:
            method, path: the request's, for the error's text.

        Raises:
            DailyLimitError: the daily limit is nearly exhausted; the text says when it resets.
        """
        with self._lock:
            budget = self._budgets[location_id]
            now = self._monotonic()
            left, reset = budget.daily_left, budget.daily_reset
            rest = PROBE_AFTER if reset is None else reset
            if left is not None and left <= DAILY_RESERVE and now < budget.daily_at + rest:
                raise self._day_is_spent(budget, method, path)
            seconds = budget.pause(now)
        if seconds > 0:
            self._sleep(seconds)

    def learn(self, location_id: str, headers: Mapping[str, str]) -> None:
        """Record how much of the burst and of the daily limit is left, according to a response."""
        with self._lock:
            budget = self._budgets[location_id]
            budget.in_flight = max(budget.in_flight - 1, 0)
            now = self._monotonic()
            budget.daily_left = _number(headers, "X-RateLimit-Daily-Remaining")
            budget.daily_limit = _number(headers, "X-RateLimit-Limit-Daily")
            reset = _number(headers, "X-RateLimit-Daily-Reset")
            if reset is not None and not 0 <= reset / 1000 <= DAY:
                reset = None
            budget.daily_reset = None if reset is None else reset / 1000
            budget.daily_at = now
            remaining = _number(headers, "X-RateLimit-Remaining")
            interval = _number(headers, "X-RateLimit-Interval-Milliseconds")
            if remaining is None or interval is None or interval <= 0:
                return
            budget.interval = interval / 1000
            reserve = int((_number(headers, "X-RateLimit-Max") or 0) * RESERVE)
            # Requests in flight may be counted already; counting them twice only delays a bit.
            budget.left = remaining - reserve - budget.in_flight
            budget.answered.append(now)
            while budget.answered[0] <= now - budget.interval:
                budget.answered.popleft()

    def forget_day(self, location_id: str) -> None:
        """Allow the next request, which shows whether the daily limit is still exhausted."""
        with self._lock:
            self._budgets[location_id].daily_left = None

    def lost(self, location_id: str) -> None:
        """Record that a request ended without a response."""
        with self._lock:
            budget = self._budgets[location_id]
            budget.in_flight = max(budget.in_flight - 1, 0)

    def _day_is_spent(self, budget: _Budget, method: str, path: str) -> DailyLimitError:
        limit = f" {budget.daily_limit:,}" if budget.daily_limit else ""
        wait = (
            budget.daily_at + budget.daily_reset - self._monotonic() if budget.daily_reset else DAY
        )
        by = self._now() + timedelta(seconds=wait)
        when = (
            f"they are back at {by:%Y-%m-%d %H:%M} UTC"
            if budget.daily_reset is not None
            else "HighLevel does not say when its day ends, so they are back by "
            f"{by:%Y-%m-%d %H:%M} UTC at the latest"
        )
        return DailyLimitError(
            FailureClass.RATE_LIMITED,
            method=method,
            path=path,
            reason=f"only {budget.daily_left} of the day's{limit} requests are left for this "
            f"location; {when}",
            sent=False,
        )


def _number(headers: Mapping[str, str], name: str) -> int | None:
    try:
        value = int(headers[name])
    except (KeyError, ValueError):
        return None
    return value if abs(value) < _ABSURD else None

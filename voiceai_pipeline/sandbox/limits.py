"""HighLevel's rate limits per location or company (CONTRACT 5): 100 per 10 s, 200,000 a day.

Counts requests and returns headers; `guard` refuses requests. The burst limit uses real time even
when the world's clock stands still, because clients sleep in real time.
"""

import collections
import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class RateLimits:
    """The limits and how much of them is used. Not thread-safe: callers hold `world`'s lock."""

    enabled: bool = True
    burst: int = 100
    interval_ms: int = 10_000
    daily: int = 200_000
    monotonic: Callable[[], float] = time.monotonic
    _recent: dict[str, collections.deque[float]] = field(default_factory=dict)
    _daily: dict[tuple[str, dt.date], int] = field(default_factory=dict)

    def spend(self, resource: str, today: dt.date) -> bool:
        """Count one request; False if it exceeds a limit (and then it is not counted)."""
        recent, used = self._state(resource, today)
        if self.enabled and (len(recent) >= self.burst or used >= self.daily):
            return False
        recent.append(self.monotonic())
        self._daily[resource, today] = used + 1
        return True

    def headers(self, resource: str, today: dt.date) -> dict[str, str]:
        """The five documented headers, as they stand after `spend`."""
        recent, used = self._state(resource, today)
        return {
            "X-RateLimit-Limit-Daily": str(self.daily),
            "X-RateLimit-Daily-Remaining": str(max(0, self.daily - used)),
            "X-RateLimit-Interval-Milliseconds": str(self.interval_ms),
            "X-RateLimit-Max": str(self.burst),
            "X-RateLimit-Remaining": str(max(0, self.burst - len(recent))),
        }

    def _state(self, resource: str, today: dt.date) -> tuple[collections.deque[float], int]:
        recent = self._recent.setdefault(resource, collections.deque())
        horizon = self.monotonic() - self.interval_ms / 1000
        while recent and recent[0] <= horizon:
            recent.popleft()
        return recent, self._daily.get((resource, today), 0)

"""The retry policy of requests to the API. POSTs to the token endpoint do not use it:
``connections/refresh.py`` retries those."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import tenacity

from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.rate_limit import INTERVAL, DailyLimitError

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """A retry policy.

    Attributes:
        attempts: the most requests.
        base: the first pause in seconds, without the jitter that is added.
        cap: the longest pause in seconds, unless HighLevel asks for a longer one.
        give_up_after: seconds after which no further attempt starts.
        failures: the failure classes that are retried.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 10.0
    give_up_after: float = 120.0
    failures: frozenset[FailureClass] = PROVIDER_FAILURES

    def of_rate_limits(self) -> "Retry":
        """This policy, but only rate limits are retried."""
        return replace(self, failures=self.failures & {FailureClass.RATE_LIMITED})

    def call(self, request: Callable[[], T], sleep: Callable[[float], None]) -> T:
        """Call ``request`` until it succeeds or may not be retried; ``sleep`` takes seconds.

        Raises:
            HighLevelError: the error of the last attempt.
        """
        started = time.monotonic()
        try:
            return request()  # nearly always enough; setting up tenacity takes longer
        except HighLevelError as error:
            first = [error]

        def attempt() -> T:
            if first:
                raise first.pop()
            return request()

        left = self.give_up_after - (time.monotonic() - started)
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts) | tenacity.stop_before_delay(left),
            wait=self._pause,
            retry=tenacity.retry_if_exception(self._is_retried),
            sleep=sleep,
            reraise=True,
        )(attempt)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Exponential backoff with jitter, in seconds, but at least the pause that HighLevel asks
        for, up to ``give_up_after``. A pause that long ends the attempts."""
        backoff = tenacity.wait_exponential(self.base) + tenacity.wait_random(0, self.base)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, HighLevelError) else None
        if asked is None and getattr(error, "failure", None) is FailureClass.RATE_LIMITED:
            asked = INTERVAL
        return max(min(backoff(state), self.cap), min(asked or 0.0, self.give_up_after))

    def _is_retried(self, error: BaseException) -> bool:
        return (
            isinstance(error, HighLevelError)
            and error.failure in self.failures
            and not isinstance(error, DailyLimitError)
        )

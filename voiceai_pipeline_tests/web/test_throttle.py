"""The rate limit for failed logins."""

from voiceai_pipeline.web.throttle import LIMIT, WINDOW, Throttle


def test_after_five_failures_the_next_attempt_waits_until_the_first_is_a_minute_old() -> None:
    now = 1000.0
    throttle = Throttle(lambda: now)
    for _ in range(LIMIT - 1):
        throttle.count()
    assert throttle.wait() == 0

    now += 10
    throttle.count()
    assert throttle.wait() == WINDOW - 10

    now += WINDOW - 10
    assert throttle.wait() == 0
    throttle.count()
    assert throttle.wait() == 0  # two within the last minute

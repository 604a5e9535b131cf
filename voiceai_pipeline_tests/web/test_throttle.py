"""The rate limit for failed logins."""

from voiceai_pipeline.web import throttle as throttles
from voiceai_pipeline.web.throttle import LIMIT, WINDOW, Throttle

MINE, OTHER = "192.0.2.1", "192.0.2.2"


def test_after_five_failures_the_next_attempt_waits_until_the_first_is_a_minute_old() -> None:
    now = 1000.0
    throttle = Throttle(lambda: now)
    assert [throttle.count(MINE) for _ in range(LIMIT - 1)] == [1, 2, 3, 4]
    assert throttle.wait(MINE) == 0

    now += 10
    assert throttle.count(MINE) == LIMIT
    assert throttle.wait(MINE) == WINDOW - 10

    now += WINDOW - 10
    assert throttle.wait(MINE) == 0
    throttle.count(MINE)
    assert throttle.wait(MINE) == 0  # two within the last minute


def test_one_address_cannot_lock_out_another() -> None:
    throttle = Throttle(lambda: 1000.0)
    for _ in range(3 * LIMIT):
        throttle.count(MINE)
    assert throttle.wait(MINE) == WINDOW
    assert throttle.wait(OTHER) == 0


def test_many_addresses_do_not_fill_the_memory_and_the_last_is_remembered() -> None:
    throttle = Throttle(lambda: 1000.0)
    for number in range(throttles._ADDRESSES + 10):
        throttle.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    for _ in range(LIMIT):
        throttle.count(MINE)
    assert len(throttle._failures) == throttles._ADDRESSES
    assert throttle.wait(MINE) == WINDOW

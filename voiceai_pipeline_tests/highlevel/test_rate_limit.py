"""Requests keep within the burst and the daily limit that the answers announce."""

import re
import time
from collections import deque
from typing import Any

import pytest

from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.rate_limit import PROBE_AFTER, RESERVE, DailyLimitError, RateLimits
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.highlevel import Pauses, open_client, read_page
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted

# Rate limits ----------------------------------------------------------------------------------


def limit(remaining: str, interval: str = "10000") -> dict[str, str]:
    return {"X-RateLimit-Remaining": remaining, "X-RateLimit-Interval-Milliseconds": interval}


def test_a_spent_burst_waits_for_the_next_interval(clock: Clock) -> None:
    empty: dict[str, Any] = {"callLogs": []}
    with (
        Scripted(
            Reply(empty, headers=limit("1")),
            Reply(empty, headers=limit("0")),
            Reply(empty, headers=limit("99")),
        ) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"), "LocOne")
        read_page(client, Secret("A"), "LocOne")
        assert clock.now == NOON
        read_page(client, Secret("A"), "LocTwo")
        assert clock.now == NOON, "another location has a budget of its own"
        read_page(client, Secret("A"), "LocOne")
    waited = (clock.now - NOON).total_seconds()
    assert 9 < waited <= 10


def test_a_burst_is_over_when_its_interval_is() -> None:
    now, pauses = [100.0], Pauses()
    limits = RateLimits(pauses, lambda: now[0])
    limits.learn("Loc", limit("0"))
    now[0] += 4
    limits.wait("Loc")
    now[0] += 6
    limits.wait("Loc")
    assert pauses.seconds == [6.0]


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        (limit("0", "99999999999"), [60.0]),
        (limit("none"), []),
        (limit("5"), []),
        (limit("5", "0"), []),
        (limit("5", "-1"), []),
        (limit("5", "9" * 400), []),
        ({"X-RateLimit-Remaining": "0"}, []),
        ({}, []),
    ],
)
def test_odd_rate_limit_headers_cause_no_wait(headers: dict[str, str], pauses: list[float]) -> None:
    slept = Pauses()
    limits = RateLimits(slept, lambda: 0.0)
    limits.learn("Loc", headers)
    limits.wait("Loc")
    assert slept.seconds == pauses


def test_a_client_within_the_sandboxs_limits_is_never_refused(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, clock: Clock
) -> None:
    sandbox.world.limits.enabled = True
    sandbox.world.limits.burst = 3
    simulated = clock.now
    sandbox.world.limits.monotonic = lambda: (
        time.monotonic() + (clock.now - simulated).total_seconds()
    )
    for _ in range(5):
        read_page(client, grant.access_token)
    assert {request.status for request in sandbox.requests} == {200}


@pytest.mark.parametrize(("burst", "seconds"), [(100, 10), (300, 10), (20, 10), (30, 3)])
def test_a_burst_goes_on_as_its_requests_leave_the_interval_whatever_limit_is_announced(
    burst: int, seconds: int
) -> None:
    """100 per 10 seconds are ten a second: a burst that took 2 seconds rests for 8, not for 10."""
    now = [0.0]

    def sleep(pause: float) -> None:
        now[0] += pause

    limits, counted, refused = RateLimits(sleep, lambda: now[0]), deque[float](), 0
    for _ in range(1_000):
        limits.wait("Loc")
        now[0] += 0.01  # on the way
        while counted and counted[0] <= now[0] - seconds:
            counted.popleft()
        refused += len(counted) >= burst
        counted.append(now[0])
        now[0] += 0.01  # and back
        left = limit(str(burst - len(counted)), str(1_000 * seconds))
        limits.learn("Loc", {**left, "X-RateLimit-Max": str(burst)})
    assert refused == 0
    allowed = 1_000 / (burst * (1 - RESERVE)) * seconds
    assert now[0] < 1.05 * allowed


def test_what_is_in_flight_counts_as_sent() -> None:
    now, pauses = [0.0], Pauses()
    limits = RateLimits(pauses, lambda: now[0])
    limits.learn("Loc", limit("2"))
    for _ in range(3):
        limits.wait("Loc")
    assert pauses.seconds == [10.0]
    limits.lost("Loc")
    limits.learn("Loc", limit("2"))  # one is still on its way
    for _ in range(2):
        limits.wait("Loc")
    assert pauses.seconds == [10.0, 10.0]


def test_a_nearly_exhausted_daily_limit_stops_requests_and_says_until_when(
    clock: Clock,
) -> None:
    spent = {"X-RateLimit-Daily-Remaining": "100", "X-RateLimit-Limit-Daily": "200000"}
    with (
        Scripted(Reply({"callLogs": []}, headers=spent)) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"), "LocOne")
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"), "LocOne")
        assert len(server.asked) == 1
        read_page(client, Secret("A"), "LocTwo")
    assert caught.value.failure is FailureClass.RATE_LIMITED
    assert "only 100 of the day's 200,000 requests are left" in caught.value.message
    assert re.search(r"back by \d{4}-\d\d-\d\d \d\d:\d\d UTC at the latest", caught.value.message)
    assert clock.now == NOON, "nothing was waited for"


def test_an_exhausted_daily_limit_is_probed_after_a_while() -> None:
    now = [0.0]
    limits = RateLimits(Pauses(), lambda: now[0])
    limits.learn("Loc", {"X-RateLimit-Daily-Remaining": "0"})
    now[0] = PROBE_AFTER - 1
    with pytest.raises(DailyLimitError):
        limits.wait("Loc")
    now[0] = PROBE_AFTER
    limits.wait("Loc")


@pytest.mark.parametrize(
    ("reset", "seconds"), [("3600000", 3600.0), ("-1", PROBE_AFTER), ("864000000", PROBE_AFTER)]
)
def test_an_exhausted_daily_limit_rests_until_the_reset_that_the_answer_names(
    reset: str, seconds: float
) -> None:
    now = [100.0]
    limits = RateLimits(Pauses(), lambda: now[0], lambda: NOON)
    spent = {"X-RateLimit-Daily-Remaining": "0", "X-RateLimit-Daily-Reset": reset}
    limits.learn("Loc", spent)
    now[0] += seconds - 1
    with pytest.raises(DailyLimitError) as refused:
        limits.wait("Loc")
    by = "they are back at 2026-" if reset == "3600000" else "at the latest"
    assert by in str(refused.value)
    now[0] += 1
    limits.wait("Loc")


def test_an_operators_test_finds_out_whether_the_daily_limit_is_still_exhausted() -> None:
    limits = RateLimits(Pauses())
    limits.learn("Loc", {"X-RateLimit-Daily-Remaining": "0"})
    limits.forget_day("Loc")
    limits.wait("Loc")

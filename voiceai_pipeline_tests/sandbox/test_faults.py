"""Injected faults: what each does to an answer, and which requests it spares."""

import datetime as dt
import time

import pytest
import requests

from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import (
    A_DAY,
    CALL_LOGS,
    HARBOR,
    MAPLE,
    SECOND,
    Client,
    Clock,
    ms,
)


def test_latency_delays_as_many_answers_as_asked(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "latency", seconds=0.15, times=1)
    delayed = harbor.calls(HARBOR.id)
    assert delayed.status_code == 200
    assert delayed.elapsed.total_seconds() > 0.15
    assert not harbor.sandbox.world.faults


def test_rate_limit_server_error_and_html_are_answered(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "rate_limit", retry_after=3, times=1)
    limited = harbor.calls(HARBOR.id)
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "3")
    harbor.fault(HARBOR.id, "server_error", status=500, times=2)
    assert [harbor.calls(HARBOR.id).status_code for _ in range(3)] == [500, 500, 200]
    harbor.fault(HARBOR.id, "html_502", times=1)
    html = harbor.calls(HARBOR.id)
    assert html.status_code == 502
    assert html.headers["Content-Type"].startswith("text/html")
    harbor.fault(HARBOR.id, "error_in_200", times=1)
    odd = harbor.calls(HARBOR.id)
    assert (odd.status_code, odd.json()["statusCode"]) == (200, 500)


def test_truncated_json_is_a_complete_answer_with_half_a_body(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "truncated_json", times=1)
    answer = harbor.calls(HARBOR.id)
    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()


def test_reset_breaks_the_connection_in_the_middle_of_the_body(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "reset", times=1)
    with pytest.raises(
        (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)
    ):
        harbor.calls(HARBOR.id)
    assert harbor.calls(HARBOR.id).status_code == 200
    assert [one.status for one in harbor.sandbox.requests[-2:]] == [0, 200]


def test_stall_keeps_the_client_waiting(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "stall", times=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        harbor.request("GET", CALL_LOGS, params={"locationId": HARBOR.id}, timeout=0.3)
    assert harbor.calls(HARBOR.id).status_code == 200


def test_a_stalled_answer_does_not_keep_the_sandbox_from_stopping() -> None:
    with running(World(clock=Clock())) as sandbox:
        client = Client(sandbox).connect(HARBOR.id)
        client.fault(HARBOR.id, "stall")
        answer = client.request("GET", CALL_LOGS, params={"locationId": HARBOR.id}, stream=True)
        started = time.monotonic()
    answer.close()
    assert time.monotonic() - started < 20, "it waited for the stalled answer"


def test_a_lost_token_answer_has_still_spent_the_refresh_token(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "lost_token_response", times=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        harbor.refresh()
    rescued = harbor.refresh()
    assert rescued.status_code == 200
    harbor.control("settings", grace_seconds=0)
    assert harbor.refresh().status_code == 400
    assert harbor.refresh(rescued.json()["refresh_token"]).status_code == 200


def test_bad_client_answers_at_the_token_endpoint_only(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "bad_client", times=1)
    assert harbor.calls(HARBOR.id).status_code == 200
    assert harbor.refresh().status_code == 401
    assert harbor.refresh().status_code == 200


def test_a_fault_spares_the_token_endpoint_unless_it_names_it(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "server_error", path="/voice-ai", times=1)
    assert harbor.refresh().status_code == 200
    assert harbor.get(f"/locations/{HARBOR.id}").status_code == 200
    assert harbor.calls(HARBOR.id).status_code == 503
    harbor.fault(HARBOR.id, "server_error", path="/oauth/token", times=1)
    assert harbor.refresh().status_code == 503


def test_a_fault_of_one_location_leaves_the_others_alone(harbor: Client) -> None:
    maple = Client(harbor.sandbox).connect(MAPLE.id)
    harbor.fault(HARBOR.id, "unauthorized", variant="scope")
    assert harbor.calls(HARBOR.id).status_code == 401
    assert maple.calls(MAPLE.id).status_code == 200
    harbor.control("heal", location_id=HARBOR.id)
    assert harbor.calls(HARBOR.id).status_code == 200


@pytest.mark.parametrize(
    ("start", "end", "status"),
    [
        (dt.timedelta(0), dt.timedelta(days=1), 503),
        (dt.timedelta(days=-1), SECOND, 200),
        (dt.timedelta(days=-1), 2 * SECOND, 503),
        (dt.timedelta(days=1) - SECOND, dt.timedelta(days=2), 200),
        (dt.timedelta(days=1) - 2 * SECOND, dt.timedelta(days=2), 503),
        (dt.timedelta(days=-9), dt.timedelta(days=9), 503),
    ],
    ids=["the day", "1 s after", "2 s after", "1 s before", "2 s before", "all around"],
)
def test_a_bad_day_is_bad_beyond_a_second_of_margin(
    harbor: Client, start: dt.timedelta, end: dt.timedelta, status: int
) -> None:
    midnight = dt.datetime(A_DAY.year, A_DAY.month, A_DAY.day, tzinfo=dt.UTC)
    harbor.fault(HARBOR.id, "server_error", day=A_DAY.isoformat())
    asked = {"startDate": ms(midnight + start), "endDate": ms(midnight + end)}
    assert harbor.calls(HARBOR.id, **asked).status_code == status
    assert harbor.get("/voice-ai/agents", locationId=HARBOR.id).status_code == 200


@pytest.mark.parametrize(("hours", "status"), [(0, 200), (8, 503), (31, 503), (32, 200)])
def test_a_bad_day_is_a_day_of_its_zone(harbor: Client, hours: int, status: int) -> None:
    midnight = dt.datetime(A_DAY.year, A_DAY.month, A_DAY.day, tzinfo=dt.UTC)
    harbor.fault(HARBOR.id, "server_error", day=A_DAY.isoformat(), zone="Etc/GMT+8")
    start = midnight + dt.timedelta(hours=hours)
    asked = {"startDate": ms(start), "endDate": ms(start + dt.timedelta(hours=1))}
    assert harbor.calls(HARBOR.id, **asked).status_code == status


def test_a_fault_can_wait_for_its_turn(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "gateway_timeout_401", after=2, times=1)
    assert [harbor.calls(HARBOR.id).status_code for _ in range(4)] == [200, 200, 401, 200]


def test_an_unknown_fault_is_refused(sandbox: RunningSandbox) -> None:
    url = f"{sandbox.url}/sandbox/faults"
    wrong = requests.post(url, json={"kind": "earthquake"}, timeout=60)
    assert (wrong.status_code, "kind must be one of" in wrong.json()["error"]) == (400, True)
    nowhere = {"kind": "reset", "location_id": "Nowhere"}
    assert requests.post(url, json=nowhere, timeout=60).status_code == 404

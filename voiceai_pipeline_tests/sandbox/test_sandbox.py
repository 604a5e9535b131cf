"""What the sandbox promises beyond the contract's shapes: time, rotation, faults, memory.

Over real sockets; only drawing calls and the command line are tested without a client.
"""

import datetime as dt
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from voiceai_pipeline.sandbox.calls import (
    ACTION_TYPES,
    THIRD_PARTY_SECRET,
    calls_of_day,
    iso,
    outline_of_day,
)
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, DEMO_USERS, make_location
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import (
    ASCENDING,
    CALL_LOGS,
    NOON,
    REDIRECT,
    Client,
    Clock,
    ms,
    window,
)

HARBOR, MAPLE, QUIET = DEMO_LOCATIONS[:3]
COPPER = "LocCopperKettleCatering000007"
CEDAR = "LocCedarVets000011"
A_DAY = dt.date(2026, 11, 17)
SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def harbor(sandbox: RunningSandbox) -> Client:
    return Client(sandbox).connect(HARBOR.id)


def ids(answer: requests.Response) -> list[str]:
    return [call["id"] for call in answer.json()["callLogs"]]


# --- calls ------------------------------------------------------------------------------------


def test_the_same_seed_tells_the_same_calls_and_another_seed_others() -> None:
    first = calls_of_day(1, HARBOR, A_DAY)
    outline_of_day.cache_clear()
    assert calls_of_day(1, HARBOR, A_DAY) == first
    assert calls_of_day(2, HARBOR, A_DAY) != first
    assert calls_of_day(1, QUIET, A_DAY) == []


def test_a_few_weeks_hold_every_kind_of_call() -> None:
    days = [A_DAY - dt.timedelta(days=back) for back in range(40)]
    calls = [call for day in days for call in calls_of_day(1, HARBOR, day)]
    assert len({call["id"] for call in calls}) == len(calls)
    actions = [action for call in calls for action in call["executedCallActions"]]
    assert {action["actionType"] for action in actions} == set(ACTION_TYPES)
    custom = [one for one in actions if one["actionType"] == "CUSTOM_ACTION"]
    details = custom[0]["actionParameters"]["apiDetails"]
    assert THIRD_PARTY_SECRET in details["authenticationValue"]
    assert THIRD_PARTY_SECRET in details["headers"][0]["value"]
    trials = [call for call in calls if call["trialCall"]]
    assert trials
    assert not any("fromNumber" in call or "contactId" in call for call in trials)
    assert any(call["isAgentDeleted"] for call in calls)
    assert any(call["duration"] == 0 and call["transcript"] == "" for call in calls)
    assert any(call["duration"] != int(call["duration"]) for call in calls)
    for optional in ("fromNumber", "messageId", "extractedData", "translation"):
        assert {optional in call for call in calls} == {True, False}
    for unknown in ("agentTransferOccurred", "transcriptWithToolCalls"):
        assert {unknown in call for call in calls} == {True, False}
    ends = {call["createdAt"][11:] for call in calls}
    assert {"00:00:00.000Z", "23:59:59.999Z"} <= ends
    moments = [call["createdAt"] for call in calls]
    assert len(set(moments)) < len(moments)


@pytest.mark.parametrize("day", [dt.date(2026, 3, 8), dt.date(2026, 11, 1)], ids=str)
def test_calls_happen_on_both_sides_of_a_clock_change(day: dt.date) -> None:
    jump = {"03": "07:00", "11": "06:00"}[f"{day:%m}"]
    before = dt.datetime.fromisoformat(f"{day}T{jump}:00+00:00") - dt.timedelta(milliseconds=1)
    moments = {call["createdAt"] for call in calls_of_day(1, HARBOR, day)}
    assert {iso(ms(before)), f"{day}T{jump}:00.000Z"} <= moments


def test_no_booking_is_told_of_before_september_2025() -> None:
    days = [dt.date(2025, 9, 8) - dt.timedelta(days=back) for back in range(20)]
    kinds = {kind for day in days for call in outline_of_day(1, HARBOR, day) for kind in call[-1]}
    assert kinds == set(ACTION_TYPES) - {"APPOINTMENT_BOOKING"}


def test_a_hundred_thousand_calls_are_drawn_in_seconds() -> None:
    busy = make_location("Busy Bakery", 99, "catering", "Europe/Berlin", 1000)
    began, day = time.perf_counter(), A_DAY
    count = sum(len(calls_of_day(1, busy, day + dt.timedelta(days=n))) for n in range(14))
    assert count > 10_000
    # A tenth of the promise, with room for a busy machine.
    assert time.perf_counter() - began < 5


def test_a_call_is_listed_from_the_moment_it_was_created(harbor: Client, clock: Clock) -> None:
    world = harbor.sandbox.world
    coming = world.calls.outlines(HARBOR, 0, 2**53)[-1]
    tomorrow = outline_of_day(world.seed, HARBOR, A_DAY + dt.timedelta(days=7))[0]
    assert coming.created_ms <= ms(clock.now)
    moment = dt.datetime.fromtimestamp(tomorrow.created_ms / 1000, dt.UTC)
    clock.now = moment - SECOND
    harbor.tokens = harbor.refresh().json()
    newest = harbor.calls(HARBOR.id, pageSize=1).json()
    assert newest["callLogs"][0]["id"] != tomorrow.id
    clock.now = moment + SECOND
    later = harbor.calls(HARBOR.id, pageSize=5).json()
    assert tomorrow.id in [call["id"] for call in later["callLogs"]]
    assert later["total"] > newest["total"]


def test_late_fields_arrive_and_nothing_else_changes(harbor: Client, clock: Clock) -> None:
    outlines = outline_of_day(harbor.sandbox.world.seed, HARBOR, A_DAY)
    late = next(c for c in outlines if c.ready_ms > c.created_ms and c.action_types)
    clock.now = dt.datetime.fromtimestamp(late.ready_ms / 1000, dt.UTC) - SECOND
    harbor.connect(HARBOR.id)
    path = f"{CALL_LOGS}/{late.id}"
    early = harbor.get(path, locationId=HARBOR.id).json()
    assert (early["summary"], early["transcript"], early["executedCallActions"]) == ("", "", [])
    clock.advance(seconds=2)
    full = harbor.get(path, locationId=HARBOR.id).json()
    assert full["summary"]
    assert full["transcript"]
    assert full["executedCallActions"]
    arrived = {"summary", "transcript", "executedCallActions", "extractedData"}
    assert {k: v for k, v in early.items() if k not in arrived} == {
        k: v for k, v in full.items() if k not in arrived
    }


# --- the list ---------------------------------------------------------------------------------


def test_pages_are_one_based_ten_long_and_newest_first(harbor: Client) -> None:
    first = harbor.calls(HARBOR.id).json()
    second = harbor.calls(HARBOR.id, page=2).json()
    assert (first["page"], first["pageSize"], len(first["callLogs"])) == (1, 10, 10)
    moments = [call["createdAt"] for call in first["callLogs"] + second["callLogs"]]
    assert moments == sorted(moments, reverse=True)
    assert first["total"] == second["total"]
    beyond = harbor.calls(HARBOR.id, page=100_000).json()
    assert beyond["callLogs"] == []


def test_a_walk_over_a_day_finds_exactly_what_the_oracle_knows(harbor: Client) -> None:
    seed, days = harbor.sandbox.world.seed, (A_DAY - dt.timedelta(days=n) for n in range(30))
    # A day of more than one page.
    day = next(day for day in days if len(outline_of_day(seed, HARBOR, day)) > 50)
    walked = harbor.day(HARBOR.id, day)
    oracle = harbor.session.get(
        f"{harbor.sandbox.url}/sandbox/calls",
        params={
            "location_id": HARBOR.id,
            "start": day.isoformat(),
            "end": (day + dt.timedelta(days=1)).isoformat(),
        },
        timeout=10,
    ).json()
    assert walked == oracle


def test_date_ends_are_inclusive_or_exclusive_as_switched(harbor: Client) -> None:
    calls = outline_of_day(harbor.sandbox.world.seed, HARBOR, A_DAY)
    asked = {"startDate": calls[0].created_ms, "endDate": calls[-1].created_ms, "pageSize": 50}
    inside = [c for c in calls if calls[0].created_ms < c.created_ms < calls[-1].created_ms]
    assert harbor.calls(HARBOR.id, **asked).json()["total"] == len(calls)
    harbor.control("settings", date_ends="exclusive")
    assert harbor.calls(HARBOR.id, **asked).json()["total"] == len(inside)


def test_filters_find_what_they_say(harbor: Client) -> None:
    calls = harbor.day(HARBOR.id, A_DAY)

    def found(**asked: Any) -> set[str]:
        answer = harbor.calls(HARBOR.id, **window(A_DAY), pageSize=50, **asked)
        return set(ids(answer))

    agent = calls[0]["agentId"]
    assert found(agentId=agent) <= {c["id"] for c in calls if c["agentId"] == agent}
    some = [c["contactId"] for c in calls if "contactId" in c][:3]
    assert found(contactId=",".join(some)) == {c["id"] for c in calls if c.get("contactId") in some}
    kinds = {"SMS", "CUSTOM_ACTION"}
    assert found(actionType=",".join(sorted(kinds))) == {
        c["id"] for c in calls if kinds & {a["actionType"] for a in c["executedCallActions"]}
    }
    assert found(callType="TRIAL") == {c["id"] for c in calls if c["trialCall"]}
    longest = harbor.calls(
        HARBOR.id, **window(A_DAY), sortBy="duration", sort="descend", pageSize=1
    )
    assert longest.json()["callLogs"][0]["duration"] == max(c["duration"] for c in calls)


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"limit": 5}, 422, ["property limit should not exist"]),
        ({"timezone": "America/New_York"}, 422, ["property timezone should not exist"]),
        (
            {"startDate": "2026-11-17T00:00:00Z", "endDate": 2},
            422,
            ["startDate must be a number conforming to the specified constraints"],
        ),
        ({"pageSize": 51}, 422, ["pageSize must not be greater than 50"]),
        ({"page": 0}, 422, ["page must not be less than 1"]),
        ({"callType": "live"}, 422, ["callType must be one of the following values: LIVE, TRIAL"]),
        ({"startDate": 1}, 400, "Both startDate and endDate must be provided together"),
        ({"startDate": 2, "endDate": 2}, 400, "startDate must be less than endDate"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_refused(
    harbor: Client, asked: dict[str, Any], status: int, message: object
) -> None:
    answer = harbor.calls(HARBOR.id, **asked)
    assert (answer.status_code, answer.json()["message"]) == (status, message)


def test_churn_makes_a_gap_between_two_pages(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "churn", after=1, remove=2, add=1, add_at=f"{A_DAY}T23:00:00+00:00")
    asked = {**window(A_DAY), **ASCENDING, "pageSize": 50}
    before = harbor.calls(HARBOR.id, **asked).json()
    second = harbor.calls(HARBOR.id, **asked, page=2).json()
    assert second["total"] == before["total"] - 1
    again = harbor.calls(HARBOR.id, **asked).json()["callLogs"]
    assert [call["id"] for call in again][:3] == [c["id"] for c in before["callLogs"]][2:5]
    added = [c for c in harbor.day(HARBOR.id, A_DAY) if c["summary"] == "A call added by hand."]
    assert len(added) == 1


def test_calls_can_be_added_changed_and_removed_by_hand(harbor: Client) -> None:
    added = harbor.control(
        "calls", location_id=HARBOR.id, add={"createdAt": f"{A_DAY}T10:00:00Z", "duration": 7}
    ).json()
    path = f"{CALL_LOGS}/{added['id']}"
    harbor.control("calls", location_id=HARBOR.id, change={"id": added["id"], "summary": "new"})
    found = harbor.get(path, locationId=HARBOR.id).json()
    assert (found["duration"], found["summary"]) == (7, "new")
    harbor.control("calls", location_id=HARBOR.id, remove=added["id"])
    assert harbor.get(path, locationId=HARBOR.id).status_code == 400


# --- tokens -----------------------------------------------------------------------------------


def test_a_code_is_good_once_and_for_its_redirect_uri(sandbox: RunningSandbox) -> None:
    client = Client(sandbox)
    exchange = {"grant_type": "authorization_code", "code": client.code(HARBOR.id)}
    assert client.token(**exchange, redirect_uri=REDIRECT).status_code == 200
    assert client.token(**exchange, redirect_uri=REDIRECT).status_code == 400
    exchange["code"] = client.code(HARBOR.id)
    assert client.token(**exchange, redirect_uri=REDIRECT + "/other").status_code == 400


def test_a_refresh_token_is_good_once_with_thirty_seconds_of_grace(
    harbor: Client, clock: Clock
) -> None:
    first = harbor.refresh().json()
    clock.advance(seconds=29)
    again = harbor.refresh().json()
    assert again["refresh_token"] == first["refresh_token"] != harbor.refresh_token
    assert again["access_token"] == first["access_token"]
    clock.advance(seconds=1)
    refused = harbor.refresh()
    assert refused.status_code == 400
    assert refused.json()["message"] == "Invalid grant: refresh token is invalid"
    assert harbor.refresh(first["refresh_token"]).status_code == 200


def test_without_grace_a_spent_refresh_token_is_dead_at_once(harbor: Client) -> None:
    harbor.control("settings", grace_seconds=0)
    assert harbor.refresh().status_code == 200
    assert harbor.refresh().status_code == 400


def test_the_dialects_are_not_mixed(sandbox: RunningSandbox) -> None:
    fields = {"clientId": "x", "clientSecret": "y", "grantType": "refresh_token"}
    camel = sandbox.url + "/oauth/token"
    assert requests.post(camel, data=fields, timeout=10).json() == {
        "statusCode": 400,
        "message": "Missing parameter: clientId",
    }
    as_json = requests.post(camel, json=fields, headers={"Version": "v3"}, timeout=10)
    assert as_json.status_code == 401


def test_an_access_token_expires_when_it_says(harbor: Client, clock: Clock) -> None:
    harbor.control("settings", location_id=HARBOR.id, expires_in=60)
    try:
        harbor.tokens = harbor.refresh().json()
    finally:
        harbor.control("settings", location_id=HARBOR.id, expires_in=86399)
    assert harbor.tokens["expires_in"] == 60
    clock.advance(seconds=59)
    assert harbor.calls(HARBOR.id).status_code == 200
    clock.advance(seconds=1)
    assert harbor.calls(HARBOR.id).json()["message"] == "Invalid JWT"
    assert harbor.refresh().status_code == 200


def test_expire_access_leaves_the_refresh_token_good(harbor: Client) -> None:
    harbor.control("expire-access", location_id=HARBOR.id)
    assert harbor.calls(HARBOR.id).status_code == 401
    harbor.tokens = harbor.refresh().json()
    assert harbor.calls(HARBOR.id).status_code == 200


def test_a_revoked_location_comes_back_with_a_new_authorization(sandbox: RunningSandbox) -> None:
    client = Client(sandbox).connect("LocLarchAutoCare000009")
    old = client.refresh_token
    client.control("revoke", location_id="LocLarchAutoCare000009")
    assert client.calls("LocLarchAutoCare000009").json()["message"] == "Invalid JWT"
    assert client.refresh().json()["message"] == "Invalid grant: refresh token is invalid"
    assert sandbox.world.is_revoked("LocLarchAutoCare000009")
    client.connect("LocLarchAutoCare000009")
    assert not sandbox.world.is_revoked("LocLarchAutoCare000009")
    assert client.calls("LocLarchAutoCare000009").status_code == 200
    assert client.refresh(old).status_code == 400


def test_a_paused_location_keeps_its_tokens_for_later(harbor: Client) -> None:
    harbor.control("pause", location_id=HARBOR.id)
    for answer in (harbor.refresh(), harbor.calls(HARBOR.id)):
        assert (answer.status_code, answer.json()["message"]) == (400, "Location is not active")
    harbor.control("resume", location_id=HARBOR.id)
    assert harbor.refresh().status_code == 200


def test_the_missing_scope_arrives_with_the_authorization_after_its_grant(
    sandbox: RunningSandbox,
) -> None:
    client = Client(sandbox).connect(CEDAR)
    assert "voice-ai-dashboard.readonly" not in client.tokens["scope"]
    client.control("grant-scopes", location_id=CEDAR)
    assert client.calls(CEDAR).status_code == 401
    client.connect(CEDAR)
    assert client.calls(CEDAR).status_code == 200


def test_two_users_of_one_location_hold_their_own_tokens(sandbox: RunningSandbox) -> None:
    dana, eli = (user for user in DEMO_USERS if user.business_name.startswith("Sunrise"))
    first = Client(sandbox).connect(dana.installs_on, user=dana.id)
    second = Client(sandbox).connect(eli.installs_on, user=eli.id)
    assert first.tokens["userId"] != second.tokens["userId"]
    assert first.refresh().status_code == second.refresh().status_code == 200


def test_cancel_and_a_wrong_link_lead_nowhere(sandbox: RunningSandbox) -> None:
    client = Client(sandbox)
    url = client.authorize_url()
    cancelled = client.session.post(
        url, data={"action": "cancel"}, timeout=10, allow_redirects=False
    )
    assert cancelled.headers["Location"] == f"{REDIRECT}?error=access_denied&state=st4te"
    assert client.session.get(url.replace("-sandbox", "-other"), timeout=10).status_code == 400
    nothing = client.session.post(url, data={"action": "allow"}, timeout=10)
    assert nothing.status_code == 422


def test_every_token_and_trouble_survives_a_restart(tmp_path: Path) -> None:
    clock, state = Clock(), tmp_path / "sandbox.json"
    with running(World(clock=clock, state_file=state)) as sandbox:
        client = Client(sandbox).connect(HARBOR.id)
        spent = client.refresh_token
        client.tokens = client.refresh().json()
        client.control("pause", location_id=MAPLE.id)
        client.fault(HARBOR.id, "rate_limit", times=5, retry_after=2)
    assert state.stat().st_mode & 0o777 == 0o600
    clock.advance(days=2)
    with running(World(clock=clock, state_file=state)) as sandbox:
        client.sandbox = sandbox
        assert sandbox.world.bad_day == (NOON - dt.timedelta(days=3)).date()
        assert sandbox.world.is_paused(MAPLE.id)
        assert [one.times for one in sandbox.world.faults if one.kind == "rate_limit"] == [5]
        sandbox.world.heal(HARBOR.id)
        assert client.refresh(spent).status_code == 400
        client.tokens = client.refresh().json()
        assert client.calls(HARBOR.id).status_code == 200
        sandbox.world.heal(COPPER)
    assert World(clock=clock, state_file=state).bad_day is None


# --- faults -----------------------------------------------------------------------------------


def test_latency_delays_and_then_answers(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "latency", seconds=0.15, times=1)
    assert harbor.calls(HARBOR.id).elapsed.total_seconds() > 0.15
    assert harbor.calls(HARBOR.id).elapsed.total_seconds() < 0.15


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
        began = time.monotonic()
    answer.close()
    assert time.monotonic() - began < 1.5


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


def test_a_fault_can_wait_for_its_turn(harbor: Client) -> None:
    harbor.fault(HARBOR.id, "gateway_timeout_401", after=2, times=1)
    assert [harbor.calls(HARBOR.id).status_code for _ in range(4)] == [200, 200, 401, 200]


def test_a_fault_nobody_knows_is_refused(sandbox: RunningSandbox) -> None:
    url = f"{sandbox.url}/sandbox/faults"
    wrong = requests.post(url, json={"kind": "earthquake"}, timeout=10)
    assert (wrong.status_code, "kind must be one of" in wrong.json()["error"]) == (400, True)
    nowhere = {"kind": "reset", "location_id": "Nowhere"}
    assert requests.post(url, json=nowhere, timeout=10).status_code == 404


# --- limits, record, control ------------------------------------------------------------------


def test_the_burst_limit_answers_429_and_counts_down_in_the_headers() -> None:
    world = World(clock=Clock())
    world.limits.burst, world.limits.interval_ms = 3, 300
    with running(world) as sandbox:
        client = Client(sandbox).connect(QUIET.id)
        found = [client.calls(QUIET.id) for _ in range(4)]
        assert [one.status_code for one in found] == [200, 200, 200, 429]
        assert [one.headers["X-RateLimit-Remaining"] for one in found] == ["2", "1", "0", "0"]
        assert found[0].headers["X-RateLimit-Max"] == "3"
        assert found[0].headers["X-RateLimit-Interval-Milliseconds"] == "300"
        assert found[0].headers["X-RateLimit-Limit-Daily"] == "200000"
        assert found[0].headers["X-RateLimit-Daily-Remaining"] == "199999"
        time.sleep(0.35)
        assert client.calls(QUIET.id).status_code == 200
        world.limits.daily = 4
        assert client.calls(QUIET.id).status_code == 429


def test_requests_are_recorded_without_their_secrets(harbor: Client) -> None:
    refreshed = harbor.refresh().json()
    harbor.calls(HARBOR.id, page=2, access_token=harbor.access)
    harbor.session.get(
        f"{harbor.sandbox.url}{CALL_LOGS}", params={"code": "SANDBOX-CODE.x"}, timeout=10
    )
    answer = harbor.session.get(f"{harbor.sandbox.url}/sandbox/requests", timeout=10)
    assert "SANDBOX-" not in answer.text
    assert refreshed["refresh_token"] not in answer.text
    recorded = answer.json()
    refresh = next(one for one in recorded if one["grant_type"] == "refresh_token")
    assert (refresh["path"], refresh["location_id"]) == ("/oauth/token", HARBOR.id)
    listed = next(one for one in recorded if one["query"].get("page") == "2")
    assert (listed["status"], listed["query"]["access_token"]) == (422, "(not kept)")
    since = harbor.session.get(
        f"{harbor.sandbox.url}/sandbox/requests", params={"since": recorded[-2]["n"]}, timeout=10
    )
    assert [one["n"] for one in since.json()] == [recorded[-1]["n"]]
    harbor.session.delete(f"{harbor.sandbox.url}/sandbox/requests", timeout=10)
    assert harbor.sandbox.requests == []


def test_the_state_tells_roles_and_no_tokens(harbor: Client) -> None:
    answer = harbor.session.get(f"{harbor.sandbox.url}/sandbox/state", timeout=10)
    assert harbor.access not in answer.text
    state = answer.json()
    roles = [user["role"] for user in state["users"]]
    assert len(roles) == 12
    assert roles.count("healthy") == 7
    assert state["users"][0]["connected"] is True
    assert len(state["locations"]) == 11


def test_a_page_of_another_site_cannot_control_the_sandbox(sandbox: RunningSandbox) -> None:
    foreign = {"Origin": "https://elsewhere.test"}
    for path in ("/sandbox/revoke", "/sandbox/pause"):
        answer = requests.post(
            sandbox.url + path, data={"location_id": HARBOR.id}, headers=foreign, timeout=10
        )
        assert answer.status_code == 403
    own = {"Origin": sandbox.url}
    form = {"location_id": HARBOR.id, "kind": "server_error", "day": A_DAY.isoformat()}
    answer = requests.post(
        sandbox.url + "/sandbox/faults", data=form, headers=own, timeout=10, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    front = requests.get(sandbox.url, timeout=10).text
    assert f"503 on {A_DAY}" in front
    assert "Heal: Harbor Dental" in front


def test_pythons_default_agent_is_banned(harbor: Client) -> None:
    agent = {"User-Agent": "Python-urllib/3.11"}
    answer = harbor.request("GET", CALL_LOGS, params={"locationId": HARBOR.id}, headers=agent)
    assert answer.status_code == 403
    assert "1010" in answer.text


def test_v3_paths_do_not_exist_for_older_versions(sandbox: RunningSandbox) -> None:
    client = Client(sandbox).connect("CoNorthwindAgency000005")
    assert client.get("/oauth/installed-locations", companyId="x", appId="y").status_code == 404
    assert client.request("POST", "/oauth/location-token", data={}).status_code == 404
    assert client.request("POST", "/oauth/locationToken", data={}).status_code == 422


# --- the process ------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "voiceai_pipeline.sandbox", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_says_where_it_listens_and_stops_cleanly(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start("--port", "0", "--state-file", str(tmp_path / "state.json")) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split()[-1]
        assert requests.get(f"{url}/sandbox/state", timeout=10).json()["bad_day"]
        process.send_signal(number)
        assert process.wait(5) == 0
        assert process.stderr.read() == ""


def test_a_taken_port_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with start("--port", port) as process:
            assert process.stderr is not None
            assert process.wait(10) == 1
            said = process.stderr.read()
    assert said == f"The sandbox cannot use 127.0.0.1:{port}: Address already in use.\n"


def test_a_foreign_state_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text("[]")
    with start("--port", "0", "--state-file", str(state)) as process:
        assert process.stderr is not None
        assert process.wait(10) == 1
        said = process.stderr.read()
    assert said == f"{state}: not a state file of this sandbox\n"


def test_demo_users_are_twelve_different_people() -> None:
    assert len({user.id for user in DEMO_USERS}) == len(DEMO_USERS) == 12
    shared = [a for a, b in itertools.combinations(DEMO_USERS, 2) if a.location_id == b.location_id]
    assert len(shared) == 1

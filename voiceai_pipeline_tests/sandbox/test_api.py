"""The call list and single calls over HTTP: pages, filters, and refusals of wrong parameters."""

import datetime as dt
from typing import Any

import pytest
import requests

from voiceai_pipeline.sandbox.calls import (
    outline_of_day,
)
from voiceai_pipeline_tests.support.sandbox_client import (
    A_DAY,
    ASCENDING,
    CALL_LOGS,
    HARBOR,
    Client,
    window,
)


def ids(answer: requests.Response) -> list[str]:
    return [call["id"] for call in answer.json()["callLogs"]]


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
        timeout=60,
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

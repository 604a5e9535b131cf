"""Waiting for the end of a sync that was asked for over the API."""

from datetime import UTC, date, datetime, timedelta

import requests

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline_tests.support.api_caller import Caller
from voiceai_pipeline_tests.support.installation import HARBOR

COMPLETE = DayState.COMPLETE


def record(caller: Caller, state: DayState, message: str = "", ago: int = 0) -> None:
    """A result of each of the last four days, `ago` hours old; and another sync's `sync_status`."""
    user = caller.installation.connection(HARBOR).user
    at = datetime.now(UTC) - timedelta(hours=ago)
    failure = None if state is COMPLETE else FailureClass.UNREACHABLE
    rows = [
        DayResult(
            user=user,
            location_id="LocHarborDental000001",
            day=day,
            state=state,
            failure=failure,
            message=message,
            stored=2 if state is COMPLETE else None,
            started_at=at,
            finished_at=at,
        )
        for day in last_days()
    ]
    with caller.installation.pipeline.engine.begin() as db:
        ledger.record(db, rows, None)
        ledger.record_statuses(db, {HARBOR: UserStatus(at, "success", "another sync", 99)})


def last_days() -> list[date]:
    today = datetime.now(UTC).date()
    return [today - timedelta(days=ago) for ago in range(4)]


def ending(connected: Caller, state: DayState, message: str = "", run: str = "SUCCESS") -> None:
    """Let the next run end when it is asked for, with these results."""

    def end() -> str:
        record(connected, state, message)
        return run

    connected.installation.dagster.asked_for_a_run = end


def wait(caller: Caller, seconds: object) -> requests.Response:
    return caller.call(f"sync-highlevel-calls?wait={seconds}", {"userId": str(HARBOR)})


def test_who_waits_for_the_end_gets_what_the_sync_wrote_into_sync_status(
    connected: Caller,
) -> None:
    ending(connected, COMPLETE)
    done = wait(connected, 30)
    ending(connected, DayState.FAILED, "HighLevel API error: 502", run="FAILURE")
    failed = wait(connected, 30)

    assert done.status_code == 200
    body = done.json()
    assert (body["success"], body["records_synced"]) == (True, 8)
    assert (
        body["message"] == body["last_sync_message"] == "Synced 4 days: 8 calls, 0 new, 0 changed"
    )
    assert body["runIds"] == connected.installation.dagster.run_ids[:1]
    assert failed.status_code == 503
    assert failed.json()["success"] is False
    assert (failed.json()["error"], failed.json()["message"]) == (
        "sync_failed",
        "HighLevel API error: 502",
    )


def test_a_run_that_ends_without_a_result_is_no_success(connected: Caller) -> None:
    record(connected, COMPLETE, ago=1)
    connected.installation.dagster.asked_for_a_run = lambda: "CANCELED"
    answer = wait(connected, 30)

    assert (answer.status_code, answer.json()["success"]) == (503, False)
    assert "before all days had a result" in answer.json()["message"]


def test_a_connection_lost_during_the_sync_is_named_with_its_fix(connected: Caller) -> None:
    def end() -> str:
        connected.installation.sandbox.world.revoke("LocHarborDental000001")
        connected.call("oauth-refresh", {"userId": str(HARBOR)})
        record(connected, DayState.FAILED, "Failed to refresh token")
        return "FAILURE"

    connected.installation.dagster.asked_for_a_run = end
    answer = wait(connected, 30)

    assert answer.status_code == 409
    assert answer.json()["message"] == "Failed to refresh token"
    assert answer.json()["error"] == "refresh_rejected"
    assert answer.json()["fix"]


def test_a_sync_that_outlasts_the_wait_continues_and_odd_waits_are_refused(
    connected: Caller,
) -> None:
    answer = wait(connected, 1)

    assert answer.status_code == 202
    assert "still running after 1 seconds" in answer.json()["message"]
    assert answer.json()["statusUrl"]
    for odd in ("301", "-1", "soon", "1.5", "\u0663"):
        assert wait(connected, odd).json()["error"] == "invalid_wait"
    assert len(connected.installation.dagster.launched) == 1

"""Waiting for the end of a sync that was asked for over the API."""

from datetime import UTC, datetime, timedelta

import requests

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline_tests.support.api_caller import Caller
from voiceai_pipeline_tests.support.installation import HARBOR


def ending(connected: Caller, status: str, message: str, run: str = "SUCCESS") -> None:
    """Let the next run end when it is asked for, with this row of ``sync_status``."""

    def end() -> str:
        row = UserStatus(datetime.now(UTC), status, message, 7)
        with connected.installation.pipeline.engine.begin() as db:
            ledger.record_statuses(db, {HARBOR: row})
        return run

    connected.installation.dagster.asked_for_a_run = end


def wait(caller: Caller, seconds: object) -> requests.Response:
    return caller.call(f"sync-highlevel-calls?wait={seconds}", {"userId": str(HARBOR)})


def test_who_waits_for_the_end_gets_what_the_sync_wrote_into_sync_status(
    connected: Caller,
) -> None:
    ending(connected, "success", "Synced 4 days: 7 calls, 7 new, 0 changed")
    done = wait(connected, 30)
    ending(connected, "failure", "HighLevel API error: 502", run="FAILURE")
    failed = wait(connected, 30)

    assert done.status_code == 200
    body = done.json()
    assert (body["success"], body["records_synced"]) == (True, 7)
    assert (
        body["message"] == body["last_sync_message"] == "Synced 4 days: 7 calls, 7 new, 0 changed"
    )
    assert body["runIds"] == connected.installation.dagster.run_ids[:1]
    assert failed.status_code == 503
    assert failed.json()["success"] is False
    assert (failed.json()["error"], failed.json()["message"]) == (
        "sync_failed",
        "HighLevel API error: 502",
    )


def test_a_run_that_ends_without_a_result_is_no_success(connected: Caller) -> None:
    with connected.installation.pipeline.engine.begin() as db:
        old = UserStatus(datetime.now(UTC) - timedelta(hours=1), "success", "before", 3)
        ledger.record_statuses(db, {HARBOR: old})
    connected.installation.dagster.asked_for_a_run = lambda: "CANCELED"
    answer = wait(connected, 30)

    assert (answer.status_code, answer.json()["success"]) == (503, False)
    assert "without a result" in answer.json()["message"]


def test_a_connection_lost_during_the_sync_is_named_with_its_fix(connected: Caller) -> None:
    def end() -> str:
        connected.installation.sandbox.world.revoke("LocHarborDental000001")
        connected.call("oauth-refresh", {"userId": str(HARBOR)})
        row = UserStatus(datetime.now(UTC), "failure", "Failed to refresh token", 0)
        with connected.installation.pipeline.engine.begin() as db:
            ledger.record_statuses(db, {HARBOR: row})
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
    assert "still runs after 1 seconds" in answer.json()["message"]
    assert answer.json()["statusUrl"]
    for odd in ("301", "-1", "soon", "1.5", "\u0663"):
        assert wait(connected, odd).json()["error"] == "invalid_wait"
    assert len(connected.installation.dagster.launched) == 1

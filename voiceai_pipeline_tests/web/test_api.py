"""The source system's endpoints: authorization, parameters and responses."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import requests

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.web.api import PREFIX
from voiceai_pipeline_tests.support.api_caller import Caller
from voiceai_pipeline_tests.support.installation import API_KEY, HARBOR, Open

DASHBOARD = "https://dashboard.example.test"


def ranges(caller: Caller) -> list[tuple[str, ...]]:
    """First and last day of every launched run."""
    configs = [
        launched["runConfigData"]["ops"]["read_user_days"]["config"]
        for launched in caller.installation.dagster.launched
    ]
    return [(config["first"], config["last"]) for config in configs]


def today() -> date:
    return datetime.now(UTC).date()


# Authorization -----------------------------------------------------------------------------------


def test_without_the_key_every_endpoint_answers_401(caller: Caller) -> None:
    endpoints = (
        ("POST", "sync-highlevel-calls"),
        ("POST", "oauth-refresh"),
        ("POST", "oauth-test"),
        ("GET", f"sync-status/{HARBOR}"),
    )
    wrong = ("", "Bearer", "Bearer wrong", f"Basic {API_KEY}", f"Bearer {API_KEY}x", API_KEY, "é")
    for method, path in endpoints:
        for authorization in wrong:
            answer = requests.request(
                method,
                f"{caller.installation.url}{PREFIX}/{path}",
                json={"userId": str(HARBOR)},
                headers={"Authorization": authorization.encode()},
                timeout=60,
            )
            assert answer.status_code == 401
            assert answer.json()["error"] == "unauthorized"
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_without_a_configured_key_they_are_off_and_name_the_variable(
    open_page: Open,
) -> None:
    with open_page(VOICEAI_API_KEY="") as installation:
        answer = Caller(installation).sync()

    assert answer.status_code == 503
    assert "VOICEAI_API_KEY" in answer.json()["message"]


def test_only_allowed_origins_may_call_from_a_browser(open_page: Open) -> None:
    with open_page(VOICEAI_ALLOWED_ORIGINS=DASHBOARD) as installation:

        def preflight(origin: str, path: str) -> requests.Response:
            return requests.options(
                installation.url + path,
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,x-client-info,apikey,"
                    "content-type,x-region,x-retry-count",
                },
                timeout=60,
            )

        path = f"{PREFIX}/oauth-test"
        allowed, refused = preflight(DASHBOARD, path), preflight("https://evil.test", path)
        elsewhere = preflight(DASHBOARD, "/")
        called = Caller(installation).call("oauth-test", {}, Origin=DASHBOARD)

    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == DASHBOARD
    assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert "Access-Control-Allow-Origin" not in elsewhere.headers
    assert called.headers["Access-Control-Allow-Origin"] == DASHBOARD


# Sync --------------------------------------------------------------------------------------------


def test_a_sync_launches_the_same_run_as_the_page_and_returns_its_addresses(
    connected: Caller,
) -> None:
    answer = connected.sync()
    connected.installation.end_runs()
    with connected.installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync")

    assert answer.status_code == 202
    body = answer.json()
    dagster = connected.installation.dagster
    assert body["success"] is True
    assert body["runIds"] == dagster.run_ids[:1]
    assert body["runUrl"] == f"{dagster.url}/runs/{dagster.run_ids[0]}"
    from_program, from_page = dagster.launched
    assert from_program["runConfigData"] == from_page["runConfigData"]
    assert ranges(connected) == [(str(today() - timedelta(days=3)), str(today()))] * 2
    status = connected.call(body["statusUrl"]).json()
    assert status["runs"] == [
        {"runId": body["runIds"][0], "runUrl": body["runUrl"], "status": "QUEUED"}
    ]


def test_dates_are_days_or_times_with_or_without_an_offset(connected: Caller) -> None:
    for start, end in (
        ("2026-03-01", "2026-03-02"),
        ("2026-03-01T23:30:00-05:00", "2026-03-02T04:59:59.999Z"),
        ("2026-03-01T00:00:00", "2026-03-01T23:59:59"),
    ):
        assert connected.sync(startDate=start, endDate=end).status_code == 202
        connected.installation.end_runs()

    assert ranges(connected) == [
        ("2026-03-01", "2026-03-02"),
        ("2026-03-02", "2026-03-02"),
        ("2026-03-01", "2026-03-01"),
    ]


def test_a_start_without_an_end_means_until_today_in_runs_of_31_days(connected: Caller) -> None:
    start = today() - timedelta(days=40)
    answer = connected.sync(startDate=str(start))

    assert ranges(connected) == [
        (str(start), str(start + timedelta(days=30))),
        (str(start + timedelta(days=31)), str(today())),
    ]
    assert len(answer.json()["runIds"]) == 2
    assert answer.json()["statusUrl"].count("runId=") == 2


def test_the_end_of_today_in_the_callers_time_zone_is_today(connected: Caller) -> None:
    end = datetime.now(UTC) + timedelta(hours=23)

    assert connected.sync(startDate=str(today()), endDate=end.isoformat()).status_code == 202
    assert ranges(connected) == [(str(today()), str(today()))]


MISTAKES: list[tuple[dict[str, Any], int, str]] = [
    ({"startDate": "2026-03-02", "endDate": "2026-03-01"}, 422, "invalid_dates"),
    ({"startDate": "2099-01-01"}, 422, "invalid_dates"),
    ({"startDate": "2026-03-01", "endDate": "2099-01-01T00:00:00Z"}, 422, "invalid_dates"),
    ({"endDate": "2026-03-01"}, 422, "invalid_dates"),
    ({"startDate": "yesterday"}, 422, "invalid_dates"),
    ({"startDate": "2026-02-30"}, 422, "invalid_dates"),
    ({"startDate": "0001-01-01T00:00:00+14:00"}, 422, "invalid_dates"),
    ({"startDate": 1767225600000}, 422, "invalid_dates"),
    ({"startDate": ["2026-03-01"]}, 422, "invalid_dates"),
    ({"startDate": "2024-12-31"}, 422, "days_out_of_range"),
    ({"userId": str(UUID(int=99))}, 404, "unknown_user"),
    ({"userId": "Harbor Dental"}, 422, "invalid_user_id"),
    ({"userId": 7}, 422, "invalid_user_id"),
    ({"userId": None}, 422, "invalid_user_id"),
]


def test_invalid_fields_are_refused_with_a_message(connected: Caller) -> None:
    for fields, status, error in MISTAKES:
        answer = connected.sync(**fields)

        body = answer.json()
        assert (answer.status_code, body["success"], body["error"]) == (status, False, error)
        assert body["message"].endswith(".")
    assert connected.installation.dagster.launched == []


def test_a_body_that_is_not_a_json_object_is_refused(caller: Caller) -> None:
    for body in (b"", b"not json", b"[]", b'"x"', b"\xff"):
        answer = caller.call("sync-highlevel-calls", body)

        assert answer.status_code == 400
        assert answer.json()["error"] == "not_json"


def test_a_body_that_is_too_long_is_refused(caller: Caller) -> None:
    answer = caller.sync(padding="x" * 70_000)

    assert answer.status_code == 413
    assert answer.json()["success"] is False


def test_a_user_without_connection_is_refused_with_the_source_systems_message(
    caller: Caller,
) -> None:
    answer = caller.sync()

    assert answer.status_code == 409
    assert answer.json() == {
        "success": False,
        "error": "no_connection",
        "message": "No valid OAuth connection found",
        "fix": "Reconnect the user: voiceai-pipeline connect USER",
    }


def test_an_unavailable_dagster_is_an_error_that_lists_the_runs_launched_before_it(
    connected: Caller,
) -> None:
    connected.installation.dagster.is_down = True
    down = connected.sync()
    connected.installation.dagster.is_down = False
    connected.installation.dagster.refuse_after = 1
    partly = connected.sync(startDate=str(today() - timedelta(days=40)))

    assert down.status_code == partly.status_code == 503
    assert down.json()["error"] == "dagster_unavailable"
    assert down.json()["runIds"] == []
    assert partly.json()["runIds"] == connected.installation.dagster.run_ids
    assert "Before that, 1 run had been launched; they continue." in partly.json()["message"]


# Refresh and test --------------------------------------------------------------------------------


def test_a_refresh_spends_the_refresh_token_and_returns_the_new_expiry(
    connected: Caller,
) -> None:
    before = connected.installation.connection(HARBOR)
    answer = connected.call("oauth-refresh", {"userId": str(HARBOR)})
    after = connected.installation.connection(HARBOR)

    assert answer.status_code == 200
    assert after.token_version == before.token_version + 1
    assert after.token_expires_at is not None
    assert answer.json() == {
        "success": True,
        "userId": str(HARBOR),
        "state": "connected",
        "locationId": "LocHarborDental000001",
        "tokenExpiresAt": after.token_expires_at.isoformat(),
    }


def test_a_refresh_that_highlevel_rejects_says_what_to_do(connected: Caller) -> None:
    connected.installation.sandbox.world.revoke("LocHarborDental000001")
    answer = connected.call("oauth-refresh", {"userId": str(HARBOR)})

    assert answer.status_code == 409
    assert answer.json()["error"] == "refresh_rejected"
    assert answer.json()["message"].startswith("Failed to refresh token")
    assert connected.installation.connection(HARBOR).label == "needs reconnection: revoked"


def test_a_test_says_whether_calls_can_be_read(connected: Caller) -> None:
    good = connected.call("oauth-test", {"userId": str(HARBOR)})
    connected.installation.sandbox.world.pause("LocHarborDental000001")
    bad = connected.call("oauth-test", {"userId": str(HARBOR)})

    assert good.status_code == bad.status_code == 200
    assert good.json()["success"] is True
    assert good.json()["missingScopes"] == []
    assert bad.json()["success"] is False
    assert bad.json()["error"] == "location_paused"
    assert bad.json()["state"] == "paused"
    assert "activate the location" in bad.json()["fix"]


# Status ------------------------------------------------------------------------------------------


def test_the_status_is_the_users_sync_status_row_and_the_given_runs(caller: Caller) -> None:
    at = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    with caller.installation.pipeline.engine.begin() as db:
        ledger.record_statuses(db, {HARBOR: UserStatus(at, "failure", "why", 3)})
    unknown_run = str(UUID(int=5))
    answer = caller.call(f"sync-status/{HARBOR}?runId={unknown_run}")
    never = caller.call("sync-status/00000000-0000-4000-8000-000000000002")
    caller.installation.dagster.is_down = True
    down = caller.call(f"sync-status/{HARBOR}?runId={unknown_run}")

    url = f"{caller.installation.dagster.url}/runs/{unknown_run}"
    assert answer.json() == {
        "success": True,
        "userId": str(HARBOR),
        "last_sync_at": at.isoformat(),
        "last_sync_status": "failure",
        "last_sync_message": "why",
        "records_synced": 3,
        "runs": [{"runId": unknown_run, "runUrl": url, "status": "NOT_FOUND"}],
    }
    assert never.json()["last_sync_at"] is None
    assert down.json()["last_sync_status"] == "failure"
    assert down.json()["runs"][0]["status"] is None


def test_unknown_addresses_methods_and_ids_are_answered_as_json(caller: Caller) -> None:
    nowhere = caller.call("nothing")
    wrong = caller.call("oauth-test")
    no_uuid = caller.call("sync-status/harbor")
    no_user = caller.call(f"sync-status/{UUID(int=99)}")
    no_run = caller.call(f"sync-status/{HARBOR}?runId=../../x")

    assert (nowhere.status_code, nowhere.json()["error"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "not_allowed")
    assert (no_uuid.status_code, no_uuid.json()["error"]) == (422, "invalid_user_id")
    assert (no_user.status_code, no_user.json()["error"]) == (404, "unknown_user")
    assert (no_run.status_code, no_run.json()["error"]) == (422, "invalid_run_id")


def test_days_that_are_being_synced_are_not_launched_again_and_others_are(
    connected: Caller,
) -> None:
    first = connected.sync(startDate="2026-03-01", endDate="2026-03-09").json()
    within = connected.sync(startDate="2026-03-02", endDate="2026-03-03").json()
    beyond = connected.sync(startDate="2026-03-09", endDate="2026-03-10").json()

    assert within["runIds"] == first["runIds"]
    assert "being synced already: 2026-03-01 to 2026-03-09" in within["message"]
    assert beyond["runIds"] != first["runIds"]

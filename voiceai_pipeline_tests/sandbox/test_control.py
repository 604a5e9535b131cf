"""Rate limits, the record of requests, and the endpoints that control the sandbox."""

import requests

from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import (
    A_DAY,
    CALL_LOGS,
    HARBOR,
    QUIET,
    Client,
    Clock,
)


def test_the_burst_limit_answers_429_and_counts_down_in_the_headers() -> None:
    world = World(clock=Clock())
    world.limits.burst, world.limits.interval_ms = 3, 300
    elapsed = 0.0
    world.limits.monotonic = lambda: elapsed
    with running(world) as sandbox:
        client = Client(sandbox).connect(QUIET.id)
        found = [client.calls(QUIET.id) for _ in range(4)]
        assert [one.status_code for one in found] == [200, 200, 200, 429]
        assert [one.headers["X-RateLimit-Remaining"] for one in found] == ["2", "1", "0", "0"]
        assert found[0].headers["X-RateLimit-Max"] == "3"
        assert found[0].headers["X-RateLimit-Interval-Milliseconds"] == "300"
        assert found[0].headers["X-RateLimit-Limit-Daily"] == "200000"
        assert found[0].headers["X-RateLimit-Daily-Remaining"] == "199999"
        elapsed = 0.35
        assert client.calls(QUIET.id).status_code == 200
        world.limits.daily = 4
        assert client.calls(QUIET.id).status_code == 429


def test_requests_are_recorded_without_their_secrets(harbor: Client) -> None:
    refreshed = harbor.refresh().json()
    harbor.calls(HARBOR.id, page=2, access_token=harbor.access)
    harbor.session.get(
        f"{harbor.sandbox.url}{CALL_LOGS}", params={"code": "SANDBOX-CODE.x"}, timeout=60
    )
    answer = harbor.session.get(f"{harbor.sandbox.url}/sandbox/requests", timeout=60)
    assert "SANDBOX-" not in answer.text
    assert refreshed["refresh_token"] not in answer.text
    recorded = answer.json()
    refresh = next(one for one in recorded if one["grant_type"] == "refresh_token")
    assert (refresh["path"], refresh["location_id"]) == ("/oauth/token", HARBOR.id)
    listed = next(one for one in recorded if one["query"].get("page") == "2")
    assert (listed["status"], listed["query"]["access_token"]) == (422, "(not kept)")
    since = harbor.session.get(
        f"{harbor.sandbox.url}/sandbox/requests", params={"since": recorded[-2]["n"]}, timeout=60
    )
    assert [one["n"] for one in since.json()] == [recorded[-1]["n"]]
    harbor.session.delete(f"{harbor.sandbox.url}/sandbox/requests", timeout=60)
    assert harbor.sandbox.requests == []


def test_the_state_tells_roles_and_no_tokens(harbor: Client) -> None:
    answer = harbor.session.get(f"{harbor.sandbox.url}/sandbox/state", timeout=60)
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
            sandbox.url + path, data={"location_id": HARBOR.id}, headers=foreign, timeout=60
        )
        assert answer.status_code == 403
    own = {"Origin": sandbox.url}
    form = {"location_id": HARBOR.id, "kind": "server_error", "day": A_DAY.isoformat()}
    answer = requests.post(
        sandbox.url + "/sandbox/faults", data=form, headers=own, timeout=60, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    front = requests.get(sandbox.url, timeout=60).text
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

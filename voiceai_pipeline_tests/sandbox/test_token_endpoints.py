"""Authorization codes, refresh tokens and access tokens: rotation, grace, expiry, and restarts."""

import datetime as dt
from pathlib import Path

import pytest
import requests

from voiceai_pipeline.sandbox.cast import DEMO_USERS, SANDBOX_DRAFT_VERSION_ID
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import (
    HARBOR,
    MAPLE,
    NOON,
    REDIRECT,
    Client,
    Clock,
)

CEDAR = "LocCedarVets000011"
COPPER = "LocCopperKettleCatering000007"


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
    assert requests.post(camel, data=fields, timeout=60).json() == {
        "statusCode": 400,
        "message": "Missing parameter: clientId",
    }
    as_json = requests.post(camel, json=fields, headers={"Version": "v3"}, timeout=60)
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
        url, data={"action": "cancel"}, timeout=60, allow_redirects=False
    )
    assert cancelled.headers["Location"] == f"{REDIRECT}?error=access_denied&state=st4te"
    assert client.session.get(url.replace("-sandbox", "-other"), timeout=60).status_code == 400
    nothing = client.session.post(url, data={"action": "allow"}, timeout=60)
    assert nothing.status_code == 422


@pytest.mark.parametrize("version", ["", SANDBOX_DRAFT_VERSION_ID], ids=["missing", "draft"])
def test_without_a_live_version_of_the_app_the_page_names_both_causes(
    version: str, sandbox: RunningSandbox
) -> None:
    client = Client(sandbox)
    refused = client.session.get(client.authorize_url(version_id=version), timeout=60)
    assert refused.status_code == 400
    assert "noAppVersionIdFound" in refused.text
    assert "no version_id of this app" in refused.text
    assert "still a draft" in refused.text
    assert "HIGHLEVEL_APP_VERSION_ID" in refused.text


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

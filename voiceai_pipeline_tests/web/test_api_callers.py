"""Who may call the endpoints; and the replaced dashboard's own client library, calling them from
Node and from a page in Chromium."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import requests
from playwright.sync_api import Browser

from voiceai_pipeline.web.api import PREFIX
from voiceai_pipeline_tests.support.installation import API_KEY, HARBOR, MAPLE, Installation, Open
from voiceai_pipeline_tests.support.login_service import LoginService
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted
from voiceai_pipeline_tests.support.supabase_js import SupabaseJs

ANON_KEY = "sb_publishable_of_the_dashboard"


@dataclass
class Dashboard:
    """The old dashboard's parts: its login service, and a page of another origin than ours."""

    installation: Installation
    logins: LoginService
    page: str


@pytest.fixture
def dashboard(open_page: Open) -> Iterator[Dashboard]:
    """Logins are verified."""
    html = Reply(b"<!doctype html><title>Dashboard</title>", headers={"Content-Type": "text/html"})
    with ExitStack() as stack:
        logins = stack.enter_context(LoginService())
        page = stack.enter_context(Scripted(html)).url
        installation = stack.enter_context(
            open_page(VOICEAI_JWKS_URL=logins.jwks_url, VOICEAI_ALLOWED_ORIGINS=page)
        )
        installation.add("Harbor Dental", "Maple Plumbing")
        yield Dashboard(installation, logins, page)


def status_of(installation: Installation, user_id: UUID, **headers: str) -> int:
    """The status of asking for a user's sync status."""
    url = f"{installation.url}{PREFIX}/sync-status/{user_id}"
    return requests.get(url, headers=headers, timeout=60).status_code


def test_a_verified_login_is_good_for_its_own_user_alone(dashboard: Dashboard) -> None:
    ours, token = dashboard.installation, dashboard.logins.token(HARBOR)
    login, key = {"Authorization": f"Bearer {token}"}, {"Authorization": f"Bearer {API_KEY}"}

    for apikey in ({}, {"apikey": ANON_KEY}, {"apikey": API_KEY}):
        assert status_of(ours, HARBOR, **login, **apikey) == 200
        assert status_of(ours, MAPLE, **login, **apikey) == 403
        assert status_of(ours, UUID(int=9), **login, **apikey) == 403
    assert [status_of(ours, user_id, **key) for user_id in (HARBOR, MAPLE)] == [200, 200]
    assert status_of(ours, HARBOR, apikey=API_KEY) == 200


def test_where_logins_are_verified_the_key_beside_a_bad_one_opens_nothing(
    dashboard: Dashboard,
) -> None:
    expired = dashboard.logins.token(HARBOR, exp=1)
    for bearer in (expired, "a.b.c", ANON_KEY, f"{API_KEY}x"):
        headers = {"Authorization": f"Bearer {bearer}", "apikey": API_KEY}
        assert status_of(dashboard.installation, HARBOR, **headers) == 401


def test_where_they_cannot_be_verified_now_the_answer_says_so(dashboard: Dashboard) -> None:
    dashboard.logins.is_down = True
    bearer = f"Bearer {dashboard.logins.token(HARBOR)}"

    assert status_of(dashboard.installation, HARBOR, Authorization=bearer) == 503


def test_elsewhere_the_key_decides_and_no_login(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with LoginService() as logins:
        login = {"Authorization": f"Bearer {logins.token(MAPLE)}"}

    assert status_of(installation, HARBOR, **login, apikey=API_KEY) == 200
    assert status_of(installation, HARBOR, **login, apikey="wrong") == 401
    assert status_of(installation, HARBOR, **login) == 401


# supabase-js -------------------------------------------------------------------------------------


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("oauth-test", {"body": {"userId": str(HARBOR)}}),
    ("sync-highlevel-calls", {"body": {"userId": str(HARBOR)}, "region": "us-east-1"}),
    (f"sync-status/{HARBOR}", {"method": "GET"}),
    ("oauth-test", {"body": {"userId": str(MAPLE)}}),
    ("no-such-function", {"body": {}}),
]


def test_supabase_js_calls_from_node_with_a_login_and_with_the_key(
    dashboard: Dashboard, supabase_js: SupabaseJs
) -> None:
    ours = dashboard.installation
    ours.connect(HARBOR)
    login = dashboard.logins.token(HARBOR)
    signed_in = supabase_js.invoke(ours.url, ANON_KEY, *CALLS, login=login)
    by_key = supabase_js.invoke(ours.url, API_KEY, *CALLS)

    assert [answer["status"] for answer in signed_in] == [200, 200, 200, 403, 404]
    assert [answer["status"] for answer in by_key] == [200, 200, 200, 200, 404]
    assert signed_in[0]["body"]["message"] == "Calls can be read."
    assert signed_in[1]["body"]["runIds"] == ours.dagster.run_ids[:1]
    assert signed_in[4]["body"]["error"] == "not_found"
    assert signed_in[4]["kind"] == "FunctionsHttpError"


def test_supabase_js_calls_from_a_page_of_the_dashboard(
    dashboard: Dashboard, supabase_js: SupabaseJs, chromium: Browser
) -> None:
    """The preflight passes, and errors can be read: without the headers of CORS they could not."""
    ours = dashboard.installation
    ours.connect(HARBOR)
    window = chromium.new_page()
    try:
        window.goto(dashboard.page)
        window.add_script_tag(content=supabase_js.for_browsers)
        answers = window.evaluate(
            """async ([url, key, login, calls]) => {
              const client = supabase.createClient(url, key, {accessToken: async () => login});
              const answers = [];
              for (const [name, given] of JSON.parse(calls)) {
                const {data, error} = await client.functions.invoke(name, given);
                const body = error ? await error.context.json() : data;
                answers.push([error?.name ?? null, body.error ?? null]);
              }
              return answers;
            }""",
            [ours.url, ANON_KEY, dashboard.logins.token(HARBOR), json.dumps(CALLS)],
        )
    finally:
        window.close()

    assert answers == [
        [None, None],
        [None, None],
        [None, None],
        ["FunctionsHttpError", "forbidden"],
        ["FunctionsHttpError", "not_found"],
    ]

"""HighLevel's endpoints over real HTTP, in both dialects: what is requested, and what is read from
the answers.
"""

import dataclasses
import datetime as dt
import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, OAuthToken
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.calls import call_of, call_or_set_aside, head_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.sandbox.cast import SANDBOX_APP_VERSION_ID, SANDBOX_CLIENT_ID
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.highlevel import (
    AGENCY,
    HARBOR,
    REDIRECT_URI,
    grant_for,
    highlevel_settings,
    open_client,
    read_page,
)
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted

# Both dialects against the sandbox ------------------------------------------------------------


def test_a_browsers_consent_becomes_a_token_in_either_dialect(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    with open_client(sandbox.url, clock, both_dialects) as client, requests.Session() as browser:
        callback = authorize(browser, client.authorize_url("the-state"), HARBOR)
        sent_back = parse_qs(urlsplit(callback).query)
        assert sent_back["state"] == ["the-state"]
        token = client.exchange_code(Secret(sent_back["code"][0]))
    assert token.user_type == "Location"
    assert token.location_id == HARBOR
    assert token.company_id == DEMO["Harbor Dental"].company_id
    assert token.expires_in == 86_399
    assert token.access_token.reveal().startswith("SANDBOX-ACCESS")
    assert token.refresh_token
    assert token.scope == " ".join(REQUESTED_SCOPES)


@pytest.mark.parametrize(
    "page",
    [
        "https://marketplace.gohighlevel.com/v2/oauth/chooselocation",
        "https://marketplace.leadconnectorhq.com/v2/oauth/chooselocation",
        "https://marketplace.gohighlevel.com/oauth/chooselocation",
    ],
    ids=["v2", "white label", "older"],
)
def test_the_authorize_url_names_the_apps_version_and_keeps_what_the_link_says(page: str) -> None:
    link = f"{page}?loginWindowOpenMode=self&scope=contacts.write&client_id=of-the-link"
    settings = dataclasses.replace(highlevel_settings("http://127.0.0.1:9"), auth_url=link)
    with HighLevelClient(settings) as client:
        url = client.authorize_url("the-state")
    assert url.partition("?")[0] == page
    assert parse_qs(urlsplit(url).query, strict_parsing=True) == {
        "loginWindowOpenMode": ["self"],
        "response_type": ["code"],
        "client_id": [SANDBOX_CLIENT_ID],
        "version_id": [SANDBOX_APP_VERSION_ID],
        "redirect_uri": [REDIRECT_URI],
        "scope": [" ".join(REQUESTED_SCOPES)],
        "state": ["the-state"],
    }


def test_a_refresh_rotates_the_pair_in_either_dialect(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    sandbox.world.grace_seconds = 0
    with open_client(sandbox.url, clock, both_dialects) as client:
        first = grant_for(sandbox, client, HARBOR)
        assert first.refresh_token is not None
        second = client.refresh(first.refresh_token, "Location")
        assert second.access_token != first.access_token
        assert second.refresh_token not in (None, first.refresh_token)
        assert read_page(client, second.access_token) > 0
        with pytest.raises(HighLevelError) as caught:
            client.refresh(first.refresh_token, "Location")
    assert caught.value.failure is FailureClass.REFRESH_REJECTED


def test_an_agencys_token_lists_its_locations_and_mints_a_token_for_one(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    with open_client(sandbox.url, clock, both_dialects) as client:
        agency = grant_for(sandbox, client, AGENCY.company_id)
        assert (agency.user_type, agency.location_id) == ("Company", None)
        (found,) = client.installed_locations(agency.access_token, AGENCY.company_id)
        assert (found.location_id, found.name) == (AGENCY.location_id, "Northwind Motors")
        minted = client.location_token(agency.access_token, AGENCY.company_id, found.location_id)
        assert minted.location_id == found.location_id
        assert read_page(client, minted.access_token, found.location_id) > 0
        # REQUIREMENTS H2: the agency's own token opens no call log, and says why.
        with pytest.raises(HighLevelError) as caught:
            read_page(client, agency.access_token, found.location_id)
    assert caught.value.failure is FailureClass.SCOPE_MISSING
    assert "voice-ai-dashboard.readonly" in str(caught.value)


def test_names_and_time_zones_are_read_in_either_dialect(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    maple = DEMO["Maple Plumbing"].installs_on  # has a draft agent without required fields
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, maple).access_token
        found = client.location(token, maple)
        agents = list(client.agents(token, maple))
    assert (found.name, found.timezone) == ("Maple Plumbing", "America/Chicago")
    names = {agent.name: agent.timezone for agent in agents}
    assert names == {
        "Front desk": "America/Chicago",
        "After hours": "America/Chicago",
        "Draft agent": None,
    }


@pytest.mark.parametrize("envelope", ["spec", "wild", "no_total"])
def test_a_total_is_asked_for_alone_and_may_be_absent(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str, envelope: Any
) -> None:
    location_id = DEMO["Harbor Dental"].installs_on
    sandbox.world.set_envelope(location_id, envelope)
    start = NOON - dt.timedelta(days=1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, location_id).access_token
        total = client.call_total(token, location_id, start, NOON)
    there = sandbox.world.calls.between(location_id, start, NOON + dt.timedelta(milliseconds=1))
    assert total == (None if envelope == "no_total" else len(there))
    assert len(there) > 1
    assert sandbox.requests[-1].query["pageSize"] == "1"


@pytest.mark.parametrize("location", ["Harbor Dental", "Maple Plumbing"])
def test_a_page_of_calls_has_a_total_in_either_envelope(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str, location: str
) -> None:
    location_id = DEMO[location].installs_on
    start = NOON - dt.timedelta(days=1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, location_id).access_token
        page = client.call_logs_page(token, location_id, start, NOON, 1)
    there = sandbox.world.calls.between(location_id, start, NOON + dt.timedelta(milliseconds=1))
    assert page.total == len(there)
    assert [json.loads(bytes(item)) for item in page.items] == there[:50]


@pytest.mark.parametrize(
    ("call", "summary"),
    [
        (b'{"id":"x","summary":"a"}', "a"),
        (b'{"id":"x","summary":"\\ud800"}', "?"),
        (b'{"id":"x","summary":"\xff"}', "\ufffd"),
        (b'{"id":"x","summary":"a","duration":1e400}', "a"),
        (b'{"id":"x","summary":"a","executedCallActions":{"odd":7}}', "a"),
    ],
)
def test_a_page_that_strict_libraries_refuse_is_read_all_the_same(
    clock: Clock, call: bytes, summary: str
) -> None:
    call = call[:-1] + b',"createdAt":"2026-11-22T17:03:11.482Z"}'
    other = b'{"id":"y","createdAt":"2026-11-22T17:03:11.482Z"}'
    for said, total in ((b"2", 2), (b"1e400", None)):
        body = b'{"total":%b,"callLogs":[%b, %b]}' % (said, call, other)
        with Scripted(Reply(body)) as server, open_client(server.url, clock) as client:
            page = client.call_logs_page(Secret("access"), HARBOR, NOON, NOON, 1)
        found = [call_or_set_aside(head_of(item)) for item in page.items]
        assert page.total == total
        assert [one.call_id for one in found] == ["x", "y"]
        first = found[0]
        assert isinstance(first, ListedCall)
        assert call_of(first).summary == summary


VERSIONS = {
    "dated": {"/voice-ai/": "2021-04-15", "/locations/": "2021-07-28", "/oauth/": "2021-07-28"},
    "v3": {"/": "v3"},
}


def test_every_path_gets_its_version(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    with open_client(sandbox.url, clock, both_dialects) as client:
        agency = grant_for(sandbox, client, AGENCY.company_id)
        location_id = str(AGENCY.location_id)
        client.installed_locations(agency.access_token, AGENCY.company_id)
        token = client.location_token(
            agency.access_token, AGENCY.company_id, location_id
        ).access_token
        client.location(token, location_id)
        list(client.agents(token, location_id))
        read_page(client, token, location_id)
    assert len({request.path for request in sandbox.requests}) == 6
    for request in sandbox.requests:
        versions = VERSIONS[both_dialects].items()
        expected = next(version for path, version in versions if request.path.startswith(path))
        if request.path == "/oauth/token" and both_dialects == "dated":
            assert request.version is None
        else:
            assert request.version == expected, request.path


def test_the_call_log_query_is_exactly_the_documented_one(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken
) -> None:
    read_page(client, grant.access_token)
    (request,) = sandbox.requests
    assert dict(request.query) == {
        "locationId": HARBOR,
        "startDate": str(int((NOON.timestamp() - 86_400) * 1000)),
        "endDate": str(int(NOON.timestamp() * 1000)),
        "sortBy": "createdAt",
        "sort": "ascend",
        "page": "1",
        "pageSize": "50",
    }


def test_the_token_request_speaks_the_configured_dialect(clock: Clock, both_dialects: str) -> None:
    with (
        Scripted(Reply({"access_token": "A", "expires_in": 1})) as server,
        open_client(server.url, clock, both_dialects) as client,
    ):
        client.refresh(Secret("R"), "Company")
        client.exchange_code(Secret("C"))
    refresh, exchange = (parse_qs(asked.body) for asked in server.asked)
    if both_dialects == "v3":
        assert set(refresh) == {"clientId", "clientSecret", "grantType", "refreshToken", "userType"}
        assert set(exchange) == {
            "clientId", "clientSecret", "grantType", "code", "userType", "redirectUri",
        }  # fmt: skip
        assert exchange["userType"] == ["Location"]
    else:
        assert set(refresh) == {
            "client_id", "client_secret", "grant_type", "refresh_token", "user_type",
        }  # fmt: skip
        assert set(exchange) == {
            "client_id", "client_secret", "grant_type", "code", "user_type", "redirect_uri",
        }  # fmt: skip
        assert refresh["user_type"] == ["Company"]
    assert all("Authorization" not in asked.headers for asked in server.asked)


# Lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "total"),
    [
        ({"total": 3}, 3),
        ({"totalRecords": 3}, 3),
        ({"total": None, "totalRecords": 3}, 3),
        ({"total": 3.0}, 3),
        ({"total": "3"}, 3),
        ({}, None),
        ({"total": None}, None),
        ({"total": True}, None),
        ({"total": "many"}, None),
    ],
)
def test_the_total_is_read_wherever_it_stands(
    clock: Clock, envelope: dict[str, object], total: int | None
) -> None:
    with (
        Scripted(Reply({"callLogs": []} | envelope)) as server,
        open_client(server.url, clock) as client,
    ):
        page = client.call_logs_page(Secret("A"), "Loc", NOON, NOON + dt.timedelta(days=1), 1)
    assert page.total == total


def test_an_answer_without_its_list_is_not_an_empty_list(clock: Clock) -> None:
    with Scripted(Reply({"traceId": "x"})) as server, open_client(server.url, clock) as client:
        for read in (
            lambda: read_page(client, Secret("A")),
            lambda: list(client.agents(Secret("A"), "Loc")),
            lambda: client.installed_locations(Secret("A"), "Co"),
        ):
            with pytest.raises(HighLevelError) as caught:
                read()
            assert caught.value.failure is FailureClass.MALFORMED


def agent_page(asked: Asked) -> Reply:
    first = (int(asked.query["page"][0]) - 1) * 50
    agents = [
        {"id": f"agent{n}", "agentName": f"A\x00{n}"} for n in range(first, min(first + 50, 120))
    ]
    return Reply({"agents": agents})


def test_every_page_of_agents_is_read(clock: Clock) -> None:
    with Scripted(agent_page) as server, open_client(server.url, clock) as client:
        agents = list(client.agents(Secret("A"), "Loc"))
        assert len(server.asked) == 3
    assert len({agent.agent_id for agent in agents}) == len(agents) == 120
    assert agents[7].name == "A\ufffd7", "PostgreSQL stores no NUL"


def test_a_list_of_agents_that_ignores_page_numbers_ends(clock: Clock) -> None:
    page = {"agents": [{"id": f"agent{n}"} for n in range(50)] + [{"id": None}, "odd", {}]}
    with Scripted(Reply(page)) as server, open_client(server.url, clock) as client:
        assert len(list(client.agents(Secret("A"), "Loc"))) == 50
        assert len(server.asked) == 2


@pytest.mark.parametrize("most", [20, 100], ids=["the server gives 20 a page", "100 a page"])
def test_every_page_of_installed_locations_is_read(
    clock: Clock, both_dialects: str, most: int
) -> None:
    names = [{"_id": f"Loc{n}", "name": f"Place {n}"} for n in range(130)]

    def page(asked: Asked) -> Reply:
        if both_dialects == "dated":
            skip = int(asked.query["skip"][0])
            return Reply({"locations": names[skip : skip + most]})
        skip = int(asked.query.get("pageToken", ["0"])[0])
        following = str(skip + most) if skip + most < len(names) else None
        return Reply(
            {"items": names[skip : skip + most], "pagination": {"nextPageToken": following}}
        )

    with Scripted(page) as server, open_client(server.url, clock, both_dialects) as client:
        found = client.installed_locations(Secret("A"), "Co")
    assert [one.location_id for one in found] == [one["_id"] for one in names]


def test_installed_locations_that_ignore_paging_end(clock: Clock, both_dialects: str) -> None:
    items = [{"_id": f"Loc{n}"} for n in range(100)] + [{"name": "no id"}, None]
    answer = {"items": items, "pagination": {"nextPageToken": "again"}}
    with (
        Scripted(Reply(answer)) as server,
        open_client(server.url, clock, both_dialects) as client,
    ):
        assert len(client.installed_locations(Secret("A"), "Co")) == 100
        assert len(server.asked) == 2


# Threads ------------------------------------------------------------------------------------------


def test_threads_share_a_client(client: HighLevelClient, grant: OAuthToken) -> None:
    counts: list[int] = []

    def read() -> None:
        counts.extend(read_page(client, grant.access_token) for _ in range(3))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50] * 12

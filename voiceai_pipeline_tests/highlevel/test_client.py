"""The client over real HTTP: against the sandbox, and against a small server that misbehaves on
purpose. What is sent, what is tried again, what is never sent or told to anybody.
"""

import dataclasses
import datetime as dt
import json
import logging
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
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
from voiceai_pipeline.highlevel.rate_limit import PROBE_AFTER, RESERVE, DayIsSpentError, RateLimits
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.highlevel.transport import USER_AGENT
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.faults import Fault, Kind
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import (
    DEMO,
    NOON,
    REDIRECT_URI,
    Clock,
    highlevel_settings,
    open_client,
)

HARBOR = DEMO["Harbor Dental"].installs_on
AGENCY = DEMO["Northwind Agency"]
CANARIES = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", "SANDBOX-CLIENT-SECRET")
CALL_LOGS = "/voice-ai/dashboard/call-logs"


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Answer:
    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Scripted:
    """A server on loopback that gives the prepared answers in turn, the last one for ever.

    A function among them is called with the request and returns the answer.
    """

    def __init__(self, *answers: Answer | Callable[[Asked], Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                url = urlsplit(self.path)
                asked = Asked(
                    self.command,
                    url.path,
                    parse_qs(url.query),
                    dict(self.headers.items()),
                    self.rfile.read(length).decode(),
                )
                script.asked.append(asked)
                answer = script.answers[min(len(script.asked), len(script.answers)) - 1]
                if not isinstance(answer, Answer):
                    answer = answer(asked)
                body = answer.body
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
                for name, value in (headers | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = reply  # noqa: N815 - the names that http.server looks for

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def code_for(sandbox: RunningSandbox, resource: str) -> Secret:
    scopes = list(REQUESTED_SCOPES)
    return Secret(sandbox.world.authorize(resource, None, scopes, REDIRECT_URI))


def grant_for(sandbox: RunningSandbox, client: HighLevelClient, resource: str) -> OAuthToken:
    return client.exchange_code(code_for(sandbox, resource))


@pytest.fixture
def grant(sandbox: RunningSandbox, client: HighLevelClient) -> OAuthToken:
    """A location's tokens; the sandbox has forgotten the requests it took."""
    grant = grant_for(sandbox, client, HARBOR)
    sandbox.world.clear_requests()
    return grant


def read_page(client: HighLevelClient, token: Secret, location_id: str = HARBOR) -> int:
    page = client.call_logs_page(token, location_id, NOON - dt.timedelta(days=1), NOON, 1)
    return len(page.items)


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
        (place,) = client.installed_locations(agency.access_token, AGENCY.company_id)
        assert (place.location_id, place.name) == (AGENCY.location_id, "Northwind Motors")
        minted = client.location_token(agency.access_token, AGENCY.company_id, place.location_id)
        assert minted.location_id == place.location_id
        assert read_page(client, minted.access_token, place.location_id) > 0
        # REQUIREMENTS H2: the agency's own token opens no call log, and says why.
        with pytest.raises(HighLevelError) as caught:
            read_page(client, agency.access_token, place.location_id)
    assert caught.value.failure is FailureClass.SCOPE_MISSING
    assert "voice-ai-dashboard.readonly" in str(caught.value)


def test_names_and_time_zones_are_read_in_either_dialect(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str
) -> None:
    maple = DEMO["Maple Plumbing"].installs_on  # has a draft agent without required fields
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, maple).access_token
        place = client.location(token, maple)
        agents = list(client.agents(token, maple))
    assert (place.name, place.timezone) == ("Maple Plumbing", "America/Chicago")
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
    place = DEMO["Harbor Dental"].installs_on
    sandbox.world.set_envelope(place, envelope)
    start = NOON - dt.timedelta(days=1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, place).access_token
        total = client.call_total(token, place, start, NOON)
    there = sandbox.world.calls.between(place, start, NOON + dt.timedelta(milliseconds=1))
    assert total == (None if envelope == "no_total" else len(there))
    assert len(there) > 1
    assert sandbox.requests[-1].query["pageSize"] == "1"


@pytest.mark.parametrize("location", ["Harbor Dental", "Maple Plumbing"])
def test_a_page_of_calls_has_a_total_in_either_envelope(
    sandbox: RunningSandbox, clock: Clock, both_dialects: str, location: str
) -> None:
    place = DEMO[location].installs_on
    start = NOON - dt.timedelta(days=1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        token = grant_for(sandbox, client, place).access_token
        page = client.call_logs_page(token, place, start, NOON, 1)
    there = sandbox.world.calls.between(place, start, NOON + dt.timedelta(milliseconds=1))
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
        with Scripted(Answer(body)) as server, open_client(server.url, clock) as client:
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
        place = str(AGENCY.location_id)
        client.installed_locations(agency.access_token, AGENCY.company_id)
        token = client.location_token(agency.access_token, AGENCY.company_id, place).access_token
        client.location(token, place)
        list(client.agents(token, place))
        read_page(client, token, place)
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
        Scripted(Answer({"access_token": "A", "expires_in": 1})) as server,
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


# What is sent, and where -----------------------------------------------------------------------


def test_every_request_names_its_agent(clock: Clock) -> None:
    with (
        Scripted(Answer({"callLogs": [], "access_token": "A", "expires_in": 9})) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"))
        client.refresh(Secret("R"), "Location")
    assert [asked.headers["User-Agent"] for asked in server.asked] == [USER_AGENT] * 2
    assert server.asked[0].headers["Authorization"] == "Bearer A"
    assert server.asked[0].headers["Accept"] == "application/json"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(clock: Clock, status: int) -> None:
    with Scripted(Answer({"callLogs": []})) as elsewhere:
        away = Answer({}, status, {"Location": f"{elsewhere.url}/stolen"})
        with Scripted(away) as server, open_client(server.url, clock) as client:
            for request in (
                lambda: read_page(client, Secret("A")),
                lambda: client.refresh(Secret("R"), "Location"),
                lambda: client.location_token(Secret("A"), "Co", "Loc"),
            ):
                with pytest.raises(HighLevelError) as caught:
                    request()
                assert caught.value.failure is FailureClass.UNKNOWN_ANSWER
        assert elsewhere.asked == []
        assert len(server.asked) == 3


def test_the_netrc_file_is_not_consulted(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password example-only\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with (
        Scripted(Answer({"callLogs": [], "access_token": "A", "expires_in": 9})) as server,
        open_client(server.url, clock) as client,
    ):
        # The file works: requests itself would send it.
        requests.get(server.url, timeout=5).close()
        read_page(client, Secret("A"))
        client.refresh(Secret("R"), "Location")
    sent = [asked.headers.get("Authorization") for asked in server.asked]
    assert sent[0] is not None
    assert sent[0].startswith("Basic ")
    assert sent[1:] == ["Bearer A", None]


@pytest.mark.parametrize("token", ["with\nnewline-CANARY", "cän-CANARY", "two words-CANARY", ""])
def test_a_token_that_no_header_can_carry_is_rejected_without_being_quoted(
    clock: Clock, token: str
) -> None:
    with Scripted(Answer()) as server, open_client(server.url, clock) as client:
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret(token))
        assert caught.value.failure is FailureClass.ACCESS_REJECTED
        assert "CANARY" not in "".join(traceback.format_exception(caught.value))
        assert server.asked == []


def test_a_location_id_cannot_leave_its_place_in_the_path(clock: Clock) -> None:
    with Scripted(Answer({"location": {}})) as server, open_client(server.url, clock) as client:
        client.location(Secret("A"), "a/b?c=d")
    assert server.asked[0].path == "/locations/a%2Fb%3Fc%3Dd"


# Trying again -------------------------------------------------------------------------------------


PASSING: list[Kind] = [
    "rate_limit",
    "server_error",
    "html_502",
    "truncated_json",
    "reset",
    "gateway_timeout_401",
    "error_in_200",
]


@pytest.mark.parametrize("kind", PASSING)
def test_a_read_is_tried_again_until_the_trouble_has_passed(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, kind: Kind
) -> None:
    sandbox.world.add_fault(Fault(kind, HARBOR, times=2))
    assert read_page(client, grant.access_token) == 50
    assert len(sandbox.requests) == 3
    assert {request.path for request in sandbox.requests} == {CALL_LOGS}


@pytest.mark.parametrize("kind", PASSING)
def test_a_read_is_given_up_after_its_attempts(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, kind: Kind
) -> None:
    sandbox.world.add_fault(Fault(kind, HARBOR))
    with pytest.raises(HighLevelError) as caught:
        read_page(client, grant.access_token)
    assert len(sandbox.requests) == 3
    assert not caught.value.failure.needs_action


def test_a_gateway_timeout_dressed_as_401_is_not_a_rejected_token(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken
) -> None:
    sandbox.world.add_fault(Fault("gateway_timeout_401", HARBOR))
    with pytest.raises(HighLevelError) as caught:
        read_page(client, grant.access_token)
    assert caught.value.failure is FailureClass.PROVIDER_ERROR


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Fault("unauthorized", HARBOR), FailureClass.ACCESS_REJECTED),
        (Fault("unauthorized", HARBOR, variant="documented"), FailureClass.ACCESS_REJECTED),
        (Fault("unauthorized", HARBOR, variant="scope"), FailureClass.SCOPE_MISSING),
        (Fault("unauthorized", HARBOR, variant="authclass"), FailureClass.SCOPE_MISSING),
        (Fault("unauthorized", HARBOR, variant="version"), FailureClass.OUR_REQUEST),
        (Fault("unauthorized", HARBOR, variant="no_authorization"), FailureClass.OUR_REQUEST),
        (Fault("forbidden_location", HARBOR), FailureClass.WRONG_LOCATION),
    ],
)
def test_a_clear_refusal_is_not_tried_again(
    sandbox: RunningSandbox,
    client: HighLevelClient,
    grant: OAuthToken,
    fault: Fault,
    failure: FailureClass,
) -> None:
    sandbox.world.add_fault(fault)
    with pytest.raises(HighLevelError) as caught:
        read_page(client, grant.access_token)
    assert caught.value.failure is failure
    assert len(sandbox.requests) == 1


def test_a_body_that_is_not_what_its_encoding_says_is_malformed(clock: Clock) -> None:
    lie = Answer(b"{}", headers={"Content-Encoding": "gzip"})
    with Scripted(lie) as server, open_client(server.url, clock) as client:
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"))
        assert caught.value.failure is FailureClass.MALFORMED
        assert len(server.asked) == 3


@dataclass
class Pauses:
    """Remembers how long was slept, and does not sleep."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def patient(url: str, pauses: Pauses, retry: Retry) -> HighLevelClient:
    return HighLevelClient(highlevel_settings(url), retry=retry, sleep=pauses)


def test_the_pauses_grow_up_to_their_cap() -> None:
    pauses = Pauses()
    with (
        Scripted(Answer({}, 503)) as server,
        patient(server.url, pauses, Retry(attempts=7, base=0.5, cap=4)) as client,
    ):
        with pytest.raises(HighLevelError):
            read_page(client, Secret("A"))
        assert len(server.asked) == 7
    assert pauses.seconds == sorted(pauses.seconds)
    assert 0.5 <= pauses.seconds[0] <= 1
    assert pauses.seconds[-1] == 4


def test_retry_after_is_honoured(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, clock: Clock
) -> None:
    sandbox.world.add_fault(Fault("rate_limit", HARBOR, times=1, retry_after=42))
    before = clock.now
    assert read_page(client, grant.access_token) == 50
    assert clock.now - before == dt.timedelta(seconds=42)


def test_a_429_that_names_no_time_waits_a_burst(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, clock: Clock
) -> None:
    sandbox.world.add_fault(Fault("rate_limit", HARBOR, times=1))
    before = clock.now
    assert read_page(client, grant.access_token) == 50
    assert clock.now - before == dt.timedelta(seconds=10)


def test_an_endless_retry_after_is_not_waited_for() -> None:
    pauses = Pauses()
    with (
        Scripted(Answer({}, 429, {"Retry-After": "86400"})) as server,
        patient(server.url, pauses, Retry(attempts=5, give_up_after=120)) as client,
    ):
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"))
        assert len(server.asked) == 1
    assert caught.value.failure is FailureClass.RATE_LIMITED
    assert pauses.seconds == []


def test_minting_a_location_token_spends_nothing_and_is_tried_again(
    sandbox: RunningSandbox, client: HighLevelClient
) -> None:
    agency = grant_for(sandbox, client, AGENCY.company_id)
    sandbox.world.clear_requests()
    sandbox.world.add_fault(Fault("server_error", AGENCY.company_id, times=2))
    place = str(AGENCY.location_id)
    minted = client.location_token(agency.access_token, AGENCY.company_id, place)
    assert minted.location_id == place
    assert len(sandbox.requests) == 3


# The token endpoint is asked once ---------------------------------------------------------------


@pytest.fixture
def hasty(sandbox: RunningSandbox) -> Iterator[HighLevelClient]:
    """A client with little time for the token endpoint."""
    with HighLevelClient(
        highlevel_settings(sandbox.url), sleep=Pauses(), token_timeout=0.3, read_timeout=0.3
    ) as client:
        yield client


@pytest.mark.parametrize("purpose", ["exchange", "refresh"])
@pytest.mark.parametrize(
    ("fault", "failure", "timed_out"),
    [
        (Fault("server_error", status=500), FailureClass.PROVIDER_ERROR, False),
        (Fault("server_error", status=503), FailureClass.PROVIDER_ERROR, False),
        (Fault("html_502"), FailureClass.PROVIDER_ERROR, False),
        (Fault("gateway_timeout_401"), FailureClass.PROVIDER_ERROR, False),
        (Fault("rate_limit", retry_after=1), FailureClass.RATE_LIMITED, False),
        (Fault("gzip_lie"), FailureClass.MALFORMED, False),
        (Fault("reset"), FailureClass.UNREACHABLE, False),
        (Fault("lost_token_response"), FailureClass.UNREACHABLE, False),
        (Fault("latency", seconds=1), FailureClass.UNREACHABLE, True),
        (Fault("stall", seconds=1), FailureClass.UNREACHABLE, True),
        (Fault("bad_client"), FailureClass.CLIENT_REFUSED, False),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
def test_a_token_post_is_never_repeated(
    sandbox: RunningSandbox,
    grant: OAuthToken,
    hasty: HighLevelClient,
    purpose: str,
    fault: Fault,
    failure: FailureClass,
    timed_out: bool,
) -> None:
    code = code_for(sandbox, HARBOR)
    assert grant.refresh_token is not None
    sandbox.world.add_fault(dataclasses.replace(fault, path="/oauth/token"))
    before = sandbox.world.next_request_number()
    spent = grant.refresh_token
    posts: dict[str, Callable[[], OAuthToken]] = {
        "exchange": lambda: hasty.exchange_code(code),
        "refresh": lambda: hasty.refresh(spent, "Location"),
    }
    with pytest.raises(HighLevelError) as caught:
        posts[purpose]()
    assert caught.value.failure is failure
    assert caught.value.sent
    assert caught.value.timed_out is timed_out
    assert sandbox.world.next_request_number() == before + 2, "one request between the numbers"


# Rate limits ----------------------------------------------------------------------------------


def limit(remaining: str, interval: str = "10000") -> dict[str, str]:
    return {"X-RateLimit-Remaining": remaining, "X-RateLimit-Interval-Milliseconds": interval}


def test_a_spent_burst_waits_for_the_next_interval(clock: Clock) -> None:
    empty: dict[str, Any] = {"callLogs": []}
    with (
        Scripted(
            Answer(empty, headers=limit("1")),
            Answer(empty, headers=limit("0")),
            Answer(empty, headers=limit("99")),
        ) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"), "LocOne")
        read_page(client, Secret("A"), "LocOne")
        assert clock.now == NOON
        read_page(client, Secret("A"), "LocTwo")
        assert clock.now == NOON, "another location has a budget of its own"
        read_page(client, Secret("A"), "LocOne")
    waited = (clock.now - NOON).total_seconds()
    assert 9 < waited <= 10


def test_a_burst_is_over_when_its_interval_is() -> None:
    now, pauses = [100.0], Pauses()
    limits = RateLimits(pauses, lambda: now[0])
    limits.learn("Loc", limit("0"))
    now[0] += 4
    limits.wait("Loc")
    now[0] += 6
    limits.wait("Loc")
    assert pauses.seconds == [6.0]


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        (limit("0", "99999999999"), [60.0]),
        (limit("none"), []),
        (limit("5"), []),
        ({"X-RateLimit-Remaining": "0"}, []),
        ({}, []),
    ],
)
def test_odd_rate_limit_headers_stall_nobody(headers: dict[str, str], pauses: list[float]) -> None:
    slept = Pauses()
    limits = RateLimits(slept, lambda: 0.0)
    limits.learn("Loc", headers)
    limits.wait("Loc")
    assert slept.seconds == pauses


def test_a_client_within_the_sandboxs_limits_is_never_refused(
    sandbox: RunningSandbox, client: HighLevelClient, grant: OAuthToken, clock: Clock
) -> None:
    sandbox.world.limits.enabled = True
    sandbox.world.limits.burst = 3
    simulated = clock.now
    sandbox.world.limits.monotonic = lambda: (
        time.monotonic() + (clock.now - simulated).total_seconds()
    )
    for _ in range(5):
        read_page(client, grant.access_token)
    assert {request.status for request in sandbox.requests} == {200}


@pytest.mark.parametrize(("burst", "seconds"), [(100, 10), (300, 10), (20, 10), (30, 3)])
def test_a_burst_goes_on_as_its_requests_leave_the_interval_whatever_limit_is_announced(
    burst: int, seconds: int
) -> None:
    """100 per 10 seconds are ten a second: a burst that took 2 seconds rests for 8, not for 10."""
    now = [0.0]

    def sleep(pause: float) -> None:
        now[0] += pause

    limits, counted, refused = RateLimits(sleep, lambda: now[0]), deque[float](), 0
    for _ in range(1_000):
        limits.wait("Loc")
        now[0] += 0.01  # on the way
        while counted and counted[0] <= now[0] - seconds:
            counted.popleft()
        refused += len(counted) >= burst
        counted.append(now[0])
        now[0] += 0.01  # and back
        left = limit(str(burst - len(counted)), str(1_000 * seconds))
        limits.learn("Loc", {**left, "X-RateLimit-Max": str(burst)})
    assert refused == 0
    allowed = 1_000 / (burst * (1 - RESERVE)) * seconds
    assert now[0] < 1.05 * allowed


def test_what_is_in_flight_counts_as_sent() -> None:
    now, pauses = [0.0], Pauses()
    limits = RateLimits(pauses, lambda: now[0])
    limits.learn("Loc", limit("2"))
    for _ in range(3):
        limits.wait("Loc")
    assert pauses.seconds == [10.0]
    limits.lost("Loc")
    limits.learn("Loc", limit("2"))  # one is still on its way
    for _ in range(2):
        limits.wait("Loc")
    assert pauses.seconds == [10.0, 10.0]


def test_a_day_that_is_nearly_spent_stops_with_when_it_is_over_and_asks_no_more(
    clock: Clock,
) -> None:
    spent = {"X-RateLimit-Daily-Remaining": "100", "X-RateLimit-Limit-Daily": "200000"}
    with (
        Scripted(Answer({"callLogs": []}, headers=spent)) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"), "LocOne")
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"), "LocOne")
        assert len(server.asked) == 1
        read_page(client, Secret("A"), "LocTwo")
    assert caught.value.failure is FailureClass.RATE_LIMITED
    assert "only 100 of the day's 200,000 requests are left" in caught.value.message
    assert re.search(r"back by \d{4}-\d\d-\d\d \d\d:\d\d UTC at the latest", caught.value.message)
    assert clock.now == NOON, "nothing was waited for"


def test_a_spent_day_is_asked_about_anew_after_a_while() -> None:
    now = [0.0]
    limits = RateLimits(Pauses(), lambda: now[0])
    limits.learn("Loc", {"X-RateLimit-Daily-Remaining": "0"})
    now[0] = PROBE_AFTER - 1
    with pytest.raises(DayIsSpentError):
        limits.wait("Loc")
    now[0] = PROBE_AFTER
    limits.wait("Loc")


# Nothing leaks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("server_error"),
        Fault("html_502"),
        Fault("truncated_json"),
        Fault("reset"),
        Fault("stall", seconds=2),
        Fault("lost_token_response"),
        Fault("unauthorized"),
        Fault("unauthorized", variant="scope"),
        Fault("rate_limit"),
        Fault("bad_client"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.variant}",
)
def test_no_error_and_no_log_tells_a_secret(
    sandbox: RunningSandbox, grant: OAuthToken, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    caplog.set_level(logging.DEBUG)
    agency = sandbox.world.exchange(code_for(sandbox, AGENCY.company_id).reveal(), REDIRECT_URI)
    company, code = Secret(agency.access_token), code_for(sandbox, HARBOR)
    sandbox.world.add_fault(dataclasses.replace(fault, path="/"))
    place, refresh_token = str(AGENCY.location_id), grant.refresh_token
    assert refresh_token is not None
    told = []
    with HighLevelClient(
        highlevel_settings(sandbox.url),
        retry=Retry(attempts=2),
        sleep=Pauses(),
        token_timeout=0.2,
        read_timeout=0.2,
    ) as client:
        requests_to_make: list[Callable[[], object]] = [
            lambda: read_page(client, grant.access_token),
            lambda: client.location(grant.access_token, HARBOR),
            lambda: list(client.agents(grant.access_token, HARBOR)),
            lambda: client.installed_locations(company, AGENCY.company_id),
            lambda: client.location_token(company, AGENCY.company_id, place),
            lambda: client.refresh(refresh_token, "Location"),
            lambda: client.exchange_code(code),
        ]
        for make in requests_to_make:
            try:
                make()
            except HighLevelError as caught:
                error = caught
            else:
                continue  # half a grant may hold a whole pair
            told += [*traceback.format_exception(error), repr(error), str(error), str(error.args)]
    assert "startDate=" not in "".join(told)
    assert "HighLevelError" in "".join(told)
    logs = caplog.text
    assert "urllib3.connectionpool" in logs
    for canary in CANARIES:
        assert canary not in "".join(told)
        assert canary not in logs


def test_a_connection_that_is_not_made_tells_no_query(clock: Clock) -> None:
    """urllib3's own words would be "Max retries exceeded with url: ..." and the whole URL."""
    with Scripted(Answer()) as server:
        url = server.url
    with open_client(url, clock) as client, pytest.raises(HighLevelError) as caught:
        read_page(client, Secret("A"))
    told = "".join(traceback.format_exception(caught.value))
    assert caught.value.failure is FailureClass.UNREACHABLE
    assert HARBOR not in told
    assert "startDate=" not in told


def test_an_echoing_server_is_not_quoted(clock: Clock) -> None:
    """A proxy's error page may repeat the request; none of it reaches a person or a log."""

    def echo(asked: Asked) -> Answer:
        text = f"{asked.headers} {asked.query} {asked.body}"
        return Answer({"statusCode": 400, "message": text, "traceId": text}, 400)

    # A traceback quotes the lines below; the secrets are not written in them.
    access, refresh, code = (Secret(f"{canary}.example") for canary in CANARIES[:3])
    with Scripted(echo) as server, open_client(server.url, clock) as client:
        for make in (
            lambda: read_page(client, access),
            lambda: client.refresh(refresh, "Location"),
            lambda: client.exchange_code(code),
        ):
            with pytest.raises(HighLevelError) as caught:
                make()
            text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert not [canary for canary in CANARIES if canary in text]
            assert HARBOR not in text


# T7: what a grant may look like ---------------------------------------------------------------

GRANT = {"access_token": "ACCESS", "expires_in": 86399, "refresh_token": "REFRESH"}


def granted(clock: Clock, body: object) -> OAuthToken:
    with Scripted(Answer(body)) as server, open_client(server.url, clock) as client:
        return client.refresh(Secret("R"), "Location")


@pytest.mark.parametrize(
    "body",
    [
        GRANT,
        {"accessToken": "ACCESS", "expiresIn": 86399, "refreshToken": "REFRESH"},
        {"access_token": "ACCESS", "expiresIn": "86399", "refreshToken": "REFRESH"},
        GRANT | {"expires_in": 86399.0},
        GRANT | {"access_token": None, "accessToken": "ACCESS"},
    ],
)
def test_a_grant_is_read_in_every_spelling(clock: Clock, body: object) -> None:
    token = granted(clock, body)
    assert token.access_token.reveal() == "ACCESS"
    assert token.expires_in == 86399
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == "REFRESH"


def test_what_a_grant_leaves_out_is_none(clock: Clock) -> None:
    token = granted(clock, {"access_token": "ACCESS", "expires_in": 1})
    assert token == OAuthToken(Secret("ACCESS"), 1)


@pytest.mark.parametrize("refresh_token", [None, "", 5, []])
def test_an_unusable_refresh_token_counts_as_left_out(clock: Clock, refresh_token: object) -> None:
    assert granted(clock, GRANT | {"refresh_token": refresh_token}).refresh_token is None


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
        Scripted(Answer({"callLogs": []} | envelope)) as server,
        open_client(server.url, clock) as client,
    ):
        page = client.call_logs_page(Secret("A"), "Loc", NOON, NOON + dt.timedelta(days=1), 1)
    assert page.total == total


def test_an_answer_without_its_list_is_not_an_empty_list(clock: Clock) -> None:
    with Scripted(Answer({"traceId": "x"})) as server, open_client(server.url, clock) as client:
        for read in (
            lambda: read_page(client, Secret("A")),
            lambda: list(client.agents(Secret("A"), "Loc")),
            lambda: client.installed_locations(Secret("A"), "Co"),
        ):
            with pytest.raises(HighLevelError) as caught:
                read()
            assert caught.value.failure is FailureClass.MALFORMED


def agent_page(asked: Asked) -> Answer:
    first = (int(asked.query["page"][0]) - 1) * 50
    agents = [
        {"id": f"agent{n}", "agentName": f"A\x00{n}"} for n in range(first, min(first + 50, 120))
    ]
    return Answer({"agents": agents})


def test_every_page_of_agents_is_read(clock: Clock) -> None:
    with Scripted(agent_page) as server, open_client(server.url, clock) as client:
        agents = list(client.agents(Secret("A"), "Loc"))
        assert len(server.asked) == 3
    assert len({agent.agent_id for agent in agents}) == len(agents) == 120
    assert agents[7].name == "A\ufffd7", "PostgreSQL stores no NUL"


def test_a_list_of_agents_that_ignores_page_numbers_ends(clock: Clock) -> None:
    page = {"agents": [{"id": f"agent{n}"} for n in range(50)] + [{"id": None}, "odd", {}]}
    with Scripted(Answer(page)) as server, open_client(server.url, clock) as client:
        assert len(list(client.agents(Secret("A"), "Loc"))) == 50
        assert len(server.asked) == 2


@pytest.mark.parametrize("most", [20, 100], ids=["the server gives 20 a page", "100 a page"])
def test_every_page_of_installed_locations_is_read(
    clock: Clock, both_dialects: str, most: int
) -> None:
    names = [{"_id": f"Loc{n}", "name": f"Place {n}"} for n in range(130)]

    def page(asked: Asked) -> Answer:
        if both_dialects == "dated":
            skip = int(asked.query["skip"][0])
            return Answer({"locations": names[skip : skip + most]})
        skip = int(asked.query.get("pageToken", ["0"])[0])
        following = str(skip + most) if skip + most < len(names) else None
        return Answer(
            {"items": names[skip : skip + most], "pagination": {"nextPageToken": following}}
        )

    with Scripted(page) as server, open_client(server.url, clock, both_dialects) as client:
        places = client.installed_locations(Secret("A"), "Co")
    assert [place.location_id for place in places] == [one["_id"] for one in names]


def test_installed_locations_that_ignore_paging_end(clock: Clock, both_dialects: str) -> None:
    items = [{"_id": f"Loc{n}"} for n in range(100)] + [{"name": "no id"}, None]
    answer = {"items": items, "pagination": {"nextPageToken": "again"}}
    with (
        Scripted(Answer(answer)) as server,
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

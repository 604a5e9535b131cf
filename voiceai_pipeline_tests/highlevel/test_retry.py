"""What is retried, how long the pauses are, and what is never sent twice."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.faults import Fault, Kind
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.highlevel import (
    AGENCY,
    CALL_LOGS,
    HARBOR,
    Pauses,
    code_for,
    grant_for,
    highlevel_settings,
    open_client,
    read_page,
)
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted

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
def test_a_read_is_retried_until_it_succeeds(
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
def test_a_clear_refusal_is_not_retried(
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
    lie = Reply(b"{}", headers={"Content-Encoding": "gzip"})
    with Scripted(lie) as server, open_client(server.url, clock) as client:
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"))
        assert caught.value.failure is FailureClass.MALFORMED
        assert len(server.asked) == 3


def patient(url: str, pauses: Pauses, retry: Retry) -> HighLevelClient:
    return HighLevelClient(highlevel_settings(url), retry=retry, sleep=pauses)


def test_the_pauses_grow_up_to_their_cap() -> None:
    pauses = Pauses()
    with (
        Scripted(Reply({}, 503)) as server,
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
        Scripted(Reply({}, 429, {"Retry-After": "86400"})) as server,
        patient(server.url, pauses, Retry(attempts=5, give_up_after=120)) as client,
    ):
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret("A"))
        assert len(server.asked) == 1
    assert caught.value.failure is FailureClass.RATE_LIMITED
    assert pauses.seconds == []


def test_minting_a_location_token_spends_nothing_and_is_retried(
    sandbox: RunningSandbox, client: HighLevelClient
) -> None:
    agency = grant_for(sandbox, client, AGENCY.company_id)
    sandbox.world.clear_requests()
    sandbox.world.add_fault(Fault("server_error", AGENCY.company_id, times=2))
    location_id = str(AGENCY.location_id)
    minted = client.location_token(agency.access_token, AGENCY.company_id, location_id)
    assert minted.location_id == location_id
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

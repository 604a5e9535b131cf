"""No error and no log quotes a token, a code, a location or a query."""

import dataclasses
import logging
import traceback
from collections.abc import Callable

import pytest

from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.highlevel import (
    AGENCY,
    CANARIES,
    HARBOR,
    REDIRECT_URI,
    Pauses,
    code_for,
    highlevel_settings,
    open_client,
    read_page,
)
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted

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
    location_id, refresh_token = str(AGENCY.location_id), grant.refresh_token
    assert refresh_token is not None
    texts = []
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
            lambda: client.location_token(company, AGENCY.company_id, location_id),
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
            texts += [
                *traceback.format_exception(error),
                repr(error),
                str(error),
                str(error.args),
            ]
    assert "startDate=" not in "".join(texts)
    assert "HighLevelError" in "".join(texts)
    logs = caplog.text
    assert "urllib3.connectionpool" in logs
    for canary in CANARIES:
        assert canary not in "".join(texts)
        assert canary not in logs


def test_a_connection_that_is_not_made_tells_no_query(clock: Clock) -> None:
    """urllib3's own words would be "Max retries exceeded with url: ..." and the whole URL."""
    with Scripted(Reply()) as server:
        url = server.url
    with open_client(url, clock) as client, pytest.raises(HighLevelError) as caught:
        read_page(client, Secret("A"))
    texts = "".join(traceback.format_exception(caught.value))
    assert caught.value.failure is FailureClass.UNREACHABLE
    assert HARBOR not in texts
    assert "startDate=" not in texts


def test_an_echoing_server_is_not_quoted(clock: Clock) -> None:
    """A proxy's error page may repeat the request; none of it reaches a message or a log."""

    def echo(asked: Asked) -> Reply:
        text = f"{asked.headers} {asked.query} {asked.body}"
        return Reply({"statusCode": 400, "message": text, "traceId": text}, 400)

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

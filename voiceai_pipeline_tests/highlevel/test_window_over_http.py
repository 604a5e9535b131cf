"""A window read from the sandbox over HTTP, while calls come and go and requests fail."""

import datetime as dt
import math
from typing import Any

import pytest

from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.window import FetchPage
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.call_lists import (
    MS,
    read_whole,
)
from voiceai_pipeline_tests.support.clock import NOON
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.highlevel import REDIRECT_URI

# Over real HTTP -----------------------------------------------------------------------------------

HARBOR = DEMO["Harbor Dental"].installs_on
WEEK = Window(NOON - dt.timedelta(days=7), NOON - dt.timedelta(days=1))


@pytest.fixture
def fetch(sandbox: RunningSandbox, client: HighLevelClient) -> FetchPage:
    code = sandbox.world.authorize(HARBOR, None, list(REQUESTED_SCOPES), REDIRECT_URI)
    token = client.exchange_code(Secret(code)).access_token
    sandbox.world.clear_requests()
    return lambda start, end, page: client.call_logs_page(token, HARBOR, start, end, page)


def ids_there(sandbox: RunningSandbox) -> set[str]:
    return {str(c["id"]) for c in sandbox.world.calls.between(HARBOR, WEEK.start, WEEK.end)}


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("envelope", ["spec", "wild"])
def test_the_sandboxs_week_is_read_whole(
    sandbox: RunningSandbox, fetch: FetchPage, ends: Any, envelope: Any
) -> None:
    sandbox.world.date_ends = ends
    sandbox.world.set_envelope(HARBOR, envelope)
    read = read_whole(fetch, WEEK)
    assert {call.call_id for call in read.calls} == ids_there(sandbox)
    assert len(read.calls) > 200
    assert read.pages == len(sandbox.requests) <= math.ceil(len(read.calls) / 49) + 1


@pytest.mark.parametrize(
    "churn",
    [
        Fault("churn", HARBOR, after=1, remove=3),
        Fault("churn", HARBOR, after=2, remove=1, add=1, add_at=WEEK.start + MS),
        Fault("churn", HARBOR, after=1, add=4, add_at=WEEK.end - MS),
        Fault("churn", HARBOR, times=4, remove=1, add=1, add_at=WEEK.end - MS),
        Fault("churn", HARBOR, after=1, times=2, remove=2, add=60, add_at=WEEK.end - MS),
    ],
    ids=["vanish", "vanish and arrive behind", "arrive ahead", "both, four times", "sixty at once"],
)
def test_the_sandboxs_churn_costs_no_call(
    sandbox: RunningSandbox, fetch: FetchPage, churn: Fault
) -> None:
    before = ids_there(sandbox)
    sandbox.world.add_fault(churn)
    read = read_whole(fetch, WEEK)
    found = [call.call_id for call in read.calls]
    assert len(found) == len(set(found))
    assert before & ids_there(sandbox) <= set(found) <= before | ids_there(sandbox)
    assert ids_there(sandbox) != before


def test_churn_that_never_ends_is_never_stored_as_complete(
    sandbox: RunningSandbox, fetch: FetchPage
) -> None:
    sandbox.world.add_fault(Fault("churn", HARBOR, times=1000, add=1, add_at=WEEK.end - MS))
    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, WEEK)
    assert caught.value.failure is FailureClass.INCOMPLETE


@pytest.mark.parametrize("kind", ["reset", "truncated_json", "html_502", "gateway_timeout_401"])
def test_a_fault_between_two_pages_costs_no_call(
    sandbox: RunningSandbox, fetch: FetchPage, kind: Any
) -> None:
    sandbox.world.add_fault(Fault(kind, HARBOR, after=1, times=2))
    read = read_whole(fetch, WEEK)
    assert {call.call_id for call in read.calls} == ids_there(sandbox)

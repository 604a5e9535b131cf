"""Testing a connection reads calls and records the result."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.token_endpoint import location_of


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        (
            Fault("unauthorized", variant="scope"),
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.SCOPE_MISSING,
        ),
        (
            Fault("forbidden_location"),
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.WRONG_LOCATION,
        ),
        (Fault("server_error"), ConnectionState.CONNECTED, None),
    ],
    ids=["scope", "location", "503"],
)
def test_a_check_returns_what_the_api_says_and_records_it(
    fault: Fault,
    state: ConnectionState,
    reason: FailureClass | None,
    harbor: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    sandbox: RunningSandbox,
) -> None:
    assert tokens.check(harbor.user.id).failure is None
    sandbox.world.add_fault(fault)
    checked = tokens.check(harbor.user.id)
    assert checked.failure is not None
    assert (checked.connection.state, checked.connection.reason) == (state, reason)


def test_a_check_reads_the_day_before_now_by_the_same_clock(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    sandbox.world.clear_requests()
    tokens.check(harbor.user.id)
    (request,) = sandbox.requests
    end = datetime.fromtimestamp(int(request.query["endDate"]) / 1000, UTC)
    assert end == clock.now


def test_a_check_of_a_reactivated_location_ends_its_pause(
    expired: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(location_of(expired))
    paused = tokens.check(expired.user.id)
    assert paused.connection.state is ConnectionState.PAUSED
    sandbox.world.resume(location_of(expired))
    assert tokens.check(expired.user.id).connection.state is ConnectionState.CONNECTED

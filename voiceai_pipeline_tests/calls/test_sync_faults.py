"""The fault matrix (REQUIREMENTS S11), row by row: whatever breaks on the way, what was stored
stays as it was, the failure has its class, its message and its notice, and it heals as promised.
Then a storm of 429 that loses nothing (S10).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.sync_faults import (
    NAME,
    WINDOW,
    Faulty,
    Stage,
    address,
    calls_that_keep_coming,
    deadlocked,
    end_backend,
    full_disk,
    highlevel,
    paused,
    restarted_between_pages,
    stop_server,
    while_writing,
)
from voiceai_pipeline_tests.support.synced_calls import (
    DAYS,
    HARBOR,
    HEALTHY,
    holds_exactly,
    listed_calls,
    location_of,
    retry_at,
    stored_calls,
    table,
)
from voiceai_pipeline_tests.support.token_fleet import delivered

AUTOMATIC, ACTION, NOTHING = "recovers automatically", "needs action", "no failure"


@dataclass(frozen=True)
class Row:
    """A row of the matrix.

    Attributes:
        failure: the class expected; None: the sync succeeds in spite of it.
        state: of the ledger's rows; None: the ledger cannot be written, and the sync says so.
        says: how the message of ``sync_status`` begins.
        alerts: users for whom an alert is delivered.
    """

    fault: str
    faulty: Faulty
    failure: FailureClass | None
    state: DayState | None
    says: str
    alerts: tuple[str, ...] = ()
    ends: str = AUTOMATIC
    own_server: bool = False


ASKED = "GET /voice-ai/dashboard/call-logs"

LOST = f"HighLevel could not be reached ({ASKED}"

BROKEN = f"HighLevel's response did not match its API ({ASKED}"

SERVER = f"HighLevel answered with a server error ({ASKED}"

DATABASE = "The database refused or lost the connection"
DISK_FULL = "The disk of the database is full"

FAILED, WAITING = DayState.FAILED, DayState.WAITING

# fmt: off
MATRIX = [
    Row("connect refused", address(lambda: f"http://127.0.0.1:{free_port()}"),
        FailureClass.UNREACHABLE, FAILED, f"{LOST}, connection failed). Fix: Check the network"),
    Row("no DNS entry", address(lambda: "http://highlevel.invalid"),
        FailureClass.UNREACHABLE, FAILED, f"{LOST}, its host name could not be resolved)"),
    Row("reset in the middle of a body", highlevel("reset"),
        FailureClass.UNREACHABLE, FAILED, f"{LOST}, connection failed)"),
    Row("stall beyond the read time-out", highlevel("stall", seconds=30),
        FailureClass.UNREACHABLE, FAILED, f"{LOST}, no answer in time)"),
    Row("truncated JSON", highlevel("truncated_json"),
        FailureClass.MALFORMED, FAILED, f"{BROKEN}, HTTP 200, not a JSON object but application/"),
    Row("a body that is not gzip and says so", highlevel("gzip_lie"),
        FailureClass.MALFORMED, FAILED, f"{BROKEN}, undecodable body)"),
    Row("HTML 502", highlevel("html_502"),
        FailureClass.PROVIDER_ERROR, FAILED, f"{SERVER}, HTTP 502). Fix: No action needed"),
    Row("503", highlevel("server_error"),
        FailureClass.PROVIDER_ERROR, FAILED, f"{SERVER}, HTTP 503)"),
    Row("200 with an error body", highlevel("error_in_200"),
        FailureClass.PROVIDER_ERROR, FAILED, f"{SERVER}, HTTP 500)"),
    Row("their gateway's time-out, dressed as 401", highlevel("gateway_timeout_401"),
        FailureClass.PROVIDER_ERROR, FAILED, f"{SERVER}, HTTP 401)"),
    Row("a storm of 429", highlevel("rate_limit", retry_after=5),
        FailureClass.RATE_LIMITED, FAILED, "HighLevel's rate limit did not clear in time"),
    Row("a storm of 401", highlevel("unauthorized"),
        FailureClass.ACCESS_REJECTED, FAILED, "HighLevel API error: 401 Unauthorized"),
    Row("401 for a missing scope", highlevel("unauthorized", variant="scope"),
        FailureClass.SCOPE_MISSING, WAITING, "The connection lacks a scope", (NAME,), ACTION),
    Row("403 for another location", highlevel("forbidden_location"),
        FailureClass.WRONG_LOCATION, WAITING, "The token does not have access", (NAME,), ACTION),
    Row("an unpaid location", paused,
        FailureClass.LOCATION_PAUSED, WAITING, "HighLevel has paused the location"),
    Row("a total that never adds up", calls_that_keep_coming,
        FailureClass.INCOMPLETE, FAILED, "The calls received do not add up to HighLevel's total"),
    Row("PostgreSQL restarted between two pages", restarted_between_pages,
        None, DayState.COMPLETE, "Synced 3 days: ", (), NOTHING, own_server=True),
    Row("PostgreSQL stopped in the middle of the write", while_writing(stop_server),
        FailureClass.DATABASE, None, "", own_server=True),
    Row("PostgreSQL ends our backend in the write", while_writing(end_backend),
        None, DayState.COMPLETE, "Synced 3 days: ", (), NOTHING),
    Row("PostgreSQL finds a deadlock", deadlocked,
        None, DayState.COMPLETE, "Synced 3 days: ", (), NOTHING),
    Row("disk full", full_disk,
        FailureClass.DISK_FULL, FAILED, f"{DISK_FULL} (DiskFull, SQLSTATE 53100)"),
]
# fmt: on


@pytest.fixture
def world(clock: Clock) -> Moving:
    return Moving(clock=clock)


@pytest.fixture(params=MATRIX, ids=[row.fault for row in MATRIX])
def row(request: pytest.FixtureRequest) -> Row:
    assert isinstance(request.param, Row)
    return request.param


@pytest.fixture
def stage(
    row: Row,
    request: pytest.FixtureRequest,
    vault: TokenVault,
    sandbox: RunningSandbox,
    clock: Clock,
    tmp_path: Path,
) -> Iterator[Stage]:
    assert isinstance(sandbox.world, Moving)
    with contextlib.ExitStack() as stack:
        home = None
        if row.own_server:
            home = tmp_path
            server = stack.enter_context(EmbeddedPostgres.hold(home, durable=False))
            server.create_database("voiceai")
            engine = open_engine(Secret(server.url("voiceai")))
            stack.callback(engine.dispose)
            migrate.upgrade(engine)
        else:
            engine = request.getfixturevalue("engine")
        stage = Stage(engine, vault, sandbox, sandbox.world, clock, home)
        stage.consent()
        stage.sync()
        clock.now += timedelta(minutes=5)
        there = sorted(listed_calls(stage.world, HARBOR, WINDOW))
        stage.world.calls.remove(HARBOR, there[0])
        stage.world.calls.change(HARBOR, there[1], summary="It came later.")
        stage.world.calls.add(HARBOR, WINDOW.start + timedelta(hours=1))
        yield stage
        for holder in stage.holders:
            holder.release()


def test_a_fault_has_a_class_a_message_and_an_alert_and_leaves_stored_calls_unchanged(
    row: Row, stage: Stage
) -> None:
    before = table(stage.engine)
    ledger_before = stage.ledger()
    assert len(before) > 150
    results: list[DayResult] = []
    said: PipelineError | None = None
    with row.faulty(stage):
        try:
            results = stage.sync()
        except PipelineError as error:
            said = error

    if row.failure is None:
        assert {result.state for result in results} == {DayState.COMPLETE}
    elif row.state is None:
        assert said is not None
        assert said.failure is row.failure
        assert stage.ledger() == ledger_before
        assert table(stage.engine) == before
    else:
        assert {(result.state, result.failure) for result in results} == {(row.state, row.failure)}
        assert table(stage.engine) == before  # nothing new, changed, missing or written again
        rows, status = stage.ledger()
        assert {(r.state, r.failure) for r in rows} == {(row.state, row.failure)}
        assert {r.stored for r in rows} == {None}
        assert (status.status, status.records_synced) == ("failure", 0)
        assert (status.message or "").startswith(row.says), status.message
        assert "Fix: " in (status.message or "")
        assert "+1555" not in str(rows) + str(status)
        if row.ends == AUTOMATIC and row.state is FAILED:
            assert stage.colours() == {False}
            due = {retry_at(r) for r in rows}
            assert None not in due
            stage.clock.now = max(filter(None, due))
    assert delivered(stage.engine) == [(name, "opened") for name in row.alerts]

    if row.ends == ACTION:
        assert stage.colours() == {True}  # and a warning with the fix
        assert {r.state for r in stage.sync(Mode.ONLY_FAILED)} == {DayState.WAITING}
        stage.consent()
        assert delivered(stage.engine) == [(name, "closed") for name in row.alerts]
    if row.failure is not None:
        mode = Mode.REREAD if row.state is None else Mode.ONLY_FAILED
        again = stage.sync(mode)
        assert {result.state for result in again} == {DayState.COMPLETE}
    _, status = stage.ledger()
    assert status.status == "success"
    assert stage.colours() == {True}
    there = listed_calls(stage.world, HARBOR, WINDOW)
    after = stored_calls(stage.engine, HARBOR, WINDOW)
    holds_exactly(after, there)
    gone = {i for i, call in after.items() if call["missing_since"] is not None}
    assert gone == {call["call_id"] for call in before} - set(there)


def test_a_storm_of_429_over_every_location_loses_nothing(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    for name in HEALTHY:
        connect(name)
    locations = sorted({location_of(name) for name in HEALTHY})
    for nth, location_id in enumerate(locations):
        storm = Fault("rate_limit", location_id, after=nth % 2, times=2, path=CALL_LOGS)
        sandbox.world.add_fault(storm)
    began = clock.now
    results = sync.sync_days(DAYS)
    assert {result.state for result in results} == {DayState.COMPLETE}
    for location_id in locations:
        rows = stored_calls(engine, location_id, WINDOW)
        holds_exactly(rows, listed_calls(sandbox.world, location_id, WINDOW))
    refused = [r for r in sandbox.requests if r.status == 429]
    assert len(refused) >= len(locations)
    # No answer named a time, so each refusal waited for a burst to be over.
    assert clock.now - began >= timedelta(seconds=10) * len(refused)

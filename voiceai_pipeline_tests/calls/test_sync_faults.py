"""The fault matrix (REQUIREMENTS S11), row by row: whatever breaks on the way, what was stored
stays as it was, the failure has its class, its message and its notice, and it heals as promised.

Then what HighLevel may do to the shape of a call (S7), and a storm of 429 that loses nothing (S10).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.calls.location_queue import Terms
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres, stop
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.redaction import redact
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault, Kind
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline_tests.calls.test_sync import HEALTHY, midnight, place, retry_at, table
from voiceai_pipeline_tests.calls.test_sync_properties import Moving, holds_exactly, listed, stored
from voiceai_pipeline_tests.conftest import Clock, Connector, free_port, highlevel_settings
from voiceai_pipeline_tests.support.token_fleet import told

NAME = "Harbor Dental"
HARBOR = place(NAME)
DAY = date(2026, 11, 18)
DAYS = [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)]
WINDOW = Window(midnight(DAYS[0]), midnight(DAYS[-1] + timedelta(days=1)))
ZONE = ZoneInfo("UTC")
MILLISECOND = timedelta(milliseconds=1)


@dataclass
class Stage:
    """A user whose three days are stored, and of whom HighLevel has something new to tell.

    Attributes:
        home: of the database server, where it is this test's own.
        api: another address of the API than the sandbox's.
    """

    engine: sa.Engine
    vault: TokenVault
    sandbox: RunningSandbox
    world: Moving
    clock: Clock
    home: Path | None = None
    api: str = ""
    holders: list[EmbeddedPostgres] = field(default_factory=list)

    @contextmanager
    def client(self) -> Iterator[HighLevelClient]:
        settings = highlevel_settings(self.sandbox.url)
        with HighLevelClient(
            replace(settings, api_url=self.api) if self.api else settings,
            retry=Retry(attempts=2),
            sleep=self.clock.sleep,
            token_timeout=1,
            read_timeout=0.3,
        ) as client:
            yield client

    def sync(self, mode: Mode = Mode.REREAD) -> list[DayResult]:
        with self.client() as client:
            tokens = Tokens(self.engine, self.vault, client, now=self.clock)
            second = timedelta(seconds=1)
            terms = Terms(lease=3 * second, outage=second, poll=0.1)
            sync = Sync(self.engine, tokens, client, ZONE, now=self.clock, terms=terms)
            return sync.sync_days(DAYS, mode=mode)

    def consent(self) -> None:
        with self.client() as client:
            consent = Consent(self.engine, self.vault, client, now=self.clock)
            connector = Connector(self.engine, client, consent)
            connector(NAME)
            connector.browser.close()

    def colours(self) -> set[bool]:
        with self.client() as client:
            tokens = Tokens(self.engine, self.vault, client, now=self.clock)
            sync = Sync(self.engine, tokens, client, ZONE, now=self.clock)
            return {report.is_green for report in sync.report(DAYS)}

    def ledger(self) -> tuple[list[DayResult], UserStatus]:
        with self.engine.connect() as db:
            (status,) = ledger.statuses(db).values()
            return ledger.results(db, days=DAYS), status

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as db:
            for statement in statements:
                db.execute(sa.text(statement))

    def restart_server(self) -> None:
        assert self.home is not None
        stop(self.home)
        self.holders.append(EmbeddedPostgres.hold(self.home, durable=False))


# Troubles -----------------------------------------------------------------------------------------

Trouble = Callable[[Stage], contextlib.AbstractContextManager[None]]


def highlevel(kind: Kind, **details: Any) -> Trouble:
    """From the second page on HighLevel answers like that, for ever."""

    @contextmanager
    def trouble(stage: Stage) -> Iterator[None]:
        stage.world.add_fault(Fault(kind, HARBOR, after=1, path=CALL_LOGS, **details))
        yield
        stage.world.clear_faults()

    return trouble


def address(url: Callable[[], str]) -> Trouble:
    """The API is looked for elsewhere."""

    @contextmanager
    def trouble(stage: Stage) -> Iterator[None]:
        stage.api = url()
        yield
        stage.api = ""

    return trouble


@contextmanager
def paused(stage: Stage) -> Iterator[None]:
    stage.world.pause(HARBOR)
    yield
    stage.world.resume(HARBOR)
    stage.clock.now += timedelta(hours=6)
    with stage.client() as client:
        tokens = Tokens(stage.engine, stage.vault, client, now=stage.clock)
        (row, *_), _ = stage.ledger()
        tokens.refresh_due([row.user.id])


@contextmanager
def calls_that_keep_coming(stage: Stage) -> Iterator[None]:
    """Each page brings a call that was not counted with the first; no day is read with one."""

    def one_more() -> None:
        for day in DAYS:
            stage.world.calls.add(HARBOR, midnight(day + timedelta(days=1)) - MILLISECOND)

    with stage.world.while_asked(one_more):
        yield


def while_writing(strike: Callable[[Stage, int], None]) -> Trouble:
    """Something happens to the database while it writes calls for the backend of that number."""

    @contextmanager
    def trouble(stage: Stage) -> Iterator[None]:
        stage.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$",
            "CREATE TRIGGER slow AFTER INSERT OR UPDATE ON call_logs "
            "FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )

        def wait_and_strike() -> None:
            query = (
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
                "AND datname = current_database()"
            )
            strike(stage, seen(stage.engine, query))

        with in_a_thread(wait_and_strike):
            yield
        if stage.home is not None:
            stage.restart_server()
        stage.execute("DROP FUNCTION IF EXISTS slow CASCADE")

    return trouble


def stop_server(stage: Stage, _backend: int) -> None:
    assert stage.home is not None
    stop(stage.home)


def end_backend(stage: Stage, backend: int) -> None:
    """Once: who writes again is not held up."""
    stage.execute(f"SELECT pg_terminate_backend({backend})", "DROP FUNCTION slow CASCADE")


@contextmanager
def restarted_between_pages(stage: Stage) -> Iterator[None]:
    asked: list[None] = []

    def at_the_second() -> None:
        asked.append(None)
        if len(asked) == 2:
            stage.restart_server()

    with stage.world.while_asked(at_the_second):
        yield
    assert len(asked) > 2


@contextmanager
def deadlocked(stage: Stage) -> Iterator[None]:
    """Somebody holds the user, whom the sync locks last, and then wants a call that it holds."""
    name = stage.engine.url.database
    # Whose patience ends first is the one that PostgreSQL ends: the sync.
    stage.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
    stage.engine.dispose()
    held = threading.Event()

    def somebody() -> None:
        with stage.engine.connect() as db:
            db.execute(sa.text("SET LOCAL deadlock_timeout = '10min'"))
            db.execute(sa.text("SELECT id FROM users FOR NO KEY UPDATE"))
            held.set()
            seen(stage.engine, "SELECT pid FROM pg_locks WHERE NOT granted")
            db.execute(sa.text("SELECT call_id FROM call_logs FOR UPDATE"))

    with in_a_thread(somebody):
        assert held.wait(10)
        yield


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """PostgreSQL's own error (53100, "could not extend file"), raised by a trigger: a small
    file system of its own for one table takes root, and not every machine lets its root mount."""
    stage.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER full_disk AFTER INSERT OR UPDATE ON call_logs "
        "FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
    )
    yield
    stage.execute("DROP FUNCTION full_disk CASCADE")


def seen(engine: sa.Engine, query: str) -> int:
    """The first number that the query finds, once it finds one."""
    deadline = time.monotonic() + 20
    with engine.connect() as db:
        watcher = db.execution_options(isolation_level="AUTOCOMMIT")
        while (found := watcher.execute(sa.text(query)).scalar()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return int(found)


@contextmanager
def in_a_thread(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


# The matrix ---------------------------------------------------------------------------------------

ITSELF, PERSON, NOTHING = "heals by itself", "needs a person", "was no trouble"


@dataclass(frozen=True)
class Row:
    """A row of the matrix.

    Attributes:
        failure: the class expected; None: the sync succeeds in spite of it.
        state: of the ledger's rows; None: the ledger cannot be written, and the sync says so.
        says: how the message of ``sync_status`` begins.
        notices: whom people are told of.
    """

    fault: str
    trouble: Trouble
    failure: FailureClass | None
    state: DayState | None
    says: str
    notices: tuple[str, ...] = ()
    ends: str = ITSELF
    own_server: bool = False


ASKED = "GET /voice-ai/dashboard/call-logs"
LOST = f"HighLevel could not be reached ({ASKED}"
BROKEN = f"HighLevel's response did not match its API ({ASKED}"
SERVER = f"HighLevel answered with a server error ({ASKED}"
DATABASE = "The database refused or lost the connection"
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
        FailureClass.SCOPE_MISSING, WAITING, "The connection lacks a scope", (NAME,), PERSON),
    Row("403 for another location", highlevel("forbidden_location"),
        FailureClass.WRONG_LOCATION, WAITING, "The token does not have access", (NAME,), PERSON),
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
        FailureClass.DATABASE, FAILED, f"{DATABASE} (DiskFull, SQLSTATE 53100)"),
]
# fmt: on


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[RunningSandbox]:
    with running(Moving(clock=clock), limits=False) as sandbox:
        yield sandbox


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
        there = sorted(listed(stage.world, HARBOR, WINDOW))
        stage.world.calls.remove(HARBOR, there[0])
        stage.world.calls.change(HARBOR, there[1], summary="It came later.")
        stage.world.calls.add(HARBOR, WINDOW.start + timedelta(hours=1))
        yield stage
        for holder in stage.holders:
            holder.release()


def test_what_breaks_on_the_way_has_a_class_a_message_and_a_notice_and_costs_nothing_stored(
    row: Row, stage: Stage
) -> None:
    before = table(stage.engine)
    ledger_before = stage.ledger()
    assert len(before) > 150
    results: list[DayResult] = []
    said: PipelineError | None = None
    with row.trouble(stage):
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
        if row.ends == ITSELF and row.state is FAILED:
            assert stage.colours() == {False}
            due = {retry_at(r) for r in rows}
            assert None not in due
            stage.clock.now = max(filter(None, due))
    assert told(stage.engine) == [(name, "opened") for name in row.notices]

    if row.ends == PERSON:
        assert stage.colours() == {True}  # and a warning with the fix
        assert {r.state for r in stage.sync(Mode.ONLY_FAILED)} == {DayState.WAITING}
        stage.consent()
        assert told(stage.engine) == [(name, "closed") for name in row.notices]
    if row.failure is not None:
        mode = Mode.REREAD if row.state is None else Mode.ONLY_FAILED
        again = stage.sync(mode)
        assert {result.state for result in again} == {DayState.COMPLETE}
    _, status = stage.ledger()
    assert status.status == "success"
    assert stage.colours() == {True}
    there = listed(stage.world, HARBOR, WINDOW)
    after = stored(stage.engine, HARBOR, WINDOW)
    holds_exactly(after, there)
    gone = {i for i, call in after.items() if call["missing_since"] is not None}
    assert gone == {call["call_id"] for call in before} - set(there)


# A storm that passes (S10) ------------------------------------------------------------------------


def test_a_storm_of_429_over_every_location_loses_nothing(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    for name in HEALTHY:
        connect(name)
    places = sorted({place(name) for name in HEALTHY})
    for nth, location_id in enumerate(places):
        storm = Fault("rate_limit", location_id, after=nth % 2, times=2, path=CALL_LOGS)
        sandbox.world.add_fault(storm)
    began = clock.now
    results = sync.sync_days(DAYS)
    assert {result.state for result in results} == {DayState.COMPLETE}
    for location_id in places:
        rows = stored(engine, location_id, WINDOW)
        holds_exactly(rows, listed(sandbox.world, location_id, WINDOW))
    refused = [r for r in sandbox.requests if r.status == 429]
    assert len(refused) >= len(places)
    # No answer named a time, so each refusal waited for a burst to be over.
    assert clock.now - began >= timedelta(seconds=10) * len(refused)


# The shape of a call drifts (S7) ------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Fields that HighLevel sends otherwise than documented, and what becomes of the call.

    Attributes:
        column, value: what the table then holds.
        reason: why it is set aside instead; empty where it is stored.
    """

    what: str
    fields: dict[str, Any]
    column: str = "call_id"
    value: Any = None
    reason: str = ""
    unknown_actions: int = 0


WEBHOOK_ACTION = {"_id": "65f0c0ffee0000000000f00a", "actionType": "SMS", "actionName": "Text"}
ODD_ACTION = {"actionType": "TELEPATHY", "actionName": "Guess", "actionParameters": {"deep": [1]}}

SHAPES = [
    Shape("an unknown field", {"sentiment": {"score": 1}}, "summary", "A call added by hand."),
    Shape(
        "an unknown type of action",
        {"executedCallActions": [ODD_ACTION]},
        "executed_call_actions",
        [ODD_ACTION],
        unknown_actions=1,
    ),
    Shape(
        "the webhook's spelling of an action's id",
        {"executedCallActions": [WEBHOOK_ACTION]},
        "executed_call_actions",
        [WEBHOOK_ACTION],
    ),
    Shape("a number that is text", {"duration": "42"}, "duration_seconds", None),
    Shape("a text that is a list", {"transcript": ["bot:Hello"]}, "transcript", None),
    Shape("a flag that is text", {"trialCall": "no"}, "is_trial", None),
    Shape("actions that are an object", {"executedCallActions": {}}, "executed_call_actions", []),
    Shape("null instead of an object", {"translation": None}, "translation", None),
    Shape("a missing text", {"summary": None}, "summary", None),
    Shape("a missing agent", {"agentId": None}, "agent_id", None),
    Shape("no id", {"id": ""}, reason="the call has no id"),
    Shape("no time", {"createdAt": "soon"}, reason="the call has no readable createdAt"),
]


class Drifting(Moving):
    """Sends some calls otherwise: the sandbox itself needs them whole to filter and sort."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.otherwise: dict[str, dict[str, Any]] = {}
        body = self.calls.body

        def bent(location: Any, call: Any) -> dict[str, Any]:
            return {**body(location, call), **self.otherwise.get(call.id, {})}

        self.calls.body = bent  # type: ignore[method-assign]


@pytest.fixture
def drifting(clock: Clock) -> Iterator[RunningSandbox]:
    with running(Drifting(clock=clock), limits=False) as sandbox:
        yield sandbox


def test_a_call_of_another_shape_is_stored_or_set_aside_with_its_reason_and_the_day_is_complete(
    drifting: RunningSandbox, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    assert isinstance(drifting.world, Drifting)
    quiet = place("Quiet Law")
    ids = {}
    for nth, shape in enumerate(SHAPES):
        item = drifting.world.calls.add(quiet, midnight(DAY) + timedelta(minutes=nth))
        drifting.world.otherwise[item["id"]] = shape.fields
        ids[shape.what] = item["id"]
    with HighLevelClient(highlevel_settings(drifting.url), sleep=clock.sleep) as client:
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        connector("Quiet Law")
        connector.browser.close()
        tokens = Tokens(engine, vault, client, now=clock)
        sync = Sync(engine, tokens, client, ZONE, now=clock)
        (result,) = sync.sync_days([DAY])
        aside = {shape.what: shape.reason for shape in SHAPES if shape.reason}
        assert result.state is DayState.COMPLETE
        assert (result.api_total, result.set_aside) == (len(SHAPES), len(aside))
        assert result.unknown_actions == sum(shape.unknown_actions for shape in SHAPES)
        rows = stored(engine, quiet, Window.of_day(DAY, ZONE))
        for shape in SHAPES:
            row = rows.get(ids[shape.what])
            if shape.reason:
                assert row is None, shape.what
            else:
                assert row is not None, shape.what
                assert row[shape.column] == shape.value, shape.what
                kept = {name: row["raw"][name] for name in shape.fields}
                assert kept == redact(shape.fields), shape.what
        with engine.connect() as db:
            reasons = db.execute(sa.text("SELECT reason FROM set_aside_calls")).scalars()
            assert sorted(reasons) == sorted(aside.values())

        # Many are no accident: the format has changed, and nothing of it is believed.
        before = table(engine)
        for call_id in ids.values():
            drifting.world.otherwise[call_id] = {"createdAt": "soon"}
        clock.now += timedelta(minutes=1)
        (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
        assert (result.state, result.failure) == (FAILED, FailureClass.MALFORMED)
        assert table(engine) == before

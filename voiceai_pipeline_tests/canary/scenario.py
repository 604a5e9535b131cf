"""What the canaries live through: a happy path, every failure, kills, a browser, and a run that the
daemon starts.
"""

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from voiceai_pipeline.calls import stored_redaction
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections import alerts
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline_tests.canary.canaries import CANARIES
from voiceai_pipeline_tests.canary.highlevel import Echo
from voiceai_pipeline_tests.canary.installed import KEY, Canaries, installed, logged
from voiceai_pipeline_tests.canary.surfaces import Machine
from voiceai_pipeline_tests.support.dagster_runs import EXPIRE
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.planted_secrets import action
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import answers
from voiceai_pipeline_tests.support.visitor import Visitor
from voiceai_pipeline_tests.support.webhook_posts import call_ended, post

_DEBUGGED: Final = [sys.executable, "-m", "voiceai_pipeline_tests.canary.debugged"]

_API_ERRORS: Final = (
    {
        "Harbor Dental": Echo(503, "down"),
        "Maple Plumbing": Echo(429, "Too many requests"),
        "Quiet Law": Echo(401, "Invalid JWT"),
        "Sunrise Clinic": Echo(401, "The token is not authorized for this scope"),
        "Northwind Agency": Echo(403, "The token does not have access to this location"),
        "Pine Realty": Echo(422, "startDate must be a number"),
        "Copper Kettle Catering": Echo(404, "not available in API version v3"),
    },
    {
        "Harbor Dental": Echo(418, "a teapot"),
        "Maple Plumbing": Echo(200, "no calls"),
        "Quiet Law": Echo(408, "late"),
        "Pine Realty": Echo(400, "Location is not active"),
    },
)
"""What HighLevel's API answers each location in two syncs."""

_TOKEN_ERRORS: Final = {
    "Harbor Dental": Echo(400, "Location is not active"),
    "Maple Plumbing": Echo(503, "down"),
    "Pine Realty": Echo(422, "userType must be one of"),
    "Copper Kettle Catering": Echo(400, "Invalid grant: refresh token is invalid"),
    "Quiet Law": Echo(401, "Invalid client credentials"),
}

_STATES: Final = {"55000": "Pine Realty", "53100": "Harbor Dental", "22021": "Maple Plumbing"}
"""SQLSTATEs with which the database refuses the calls of a location, quoting the row."""

_REFUSING: Final = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET log_min_messages TO 'panic' AS $$
BEGIN
    RAISE EXCEPTION 'refused' USING ERRCODE = TG_ARGV[0], DETAIL = NEW::text;
END $$
"""
"""PostgreSQL itself would log the text of this invented error."""


@contextmanager
def canary_run(
    postgres: EmbeddedPostgres, template: str, dagster_template: str, folder: Path
) -> Iterator[Canaries]:
    """Everything that is to happen, done; the processes still run inside the ``with``."""
    with ExitStack() as stack:
        canaries = stack.enter_context(installed(postgres, template, dagster_template, folder))
        start = stack.enter_context(_processes(canaries.machine))
        workspace = str(PROJECT / "workspace.yaml")
        inner = canaries.environment["CANARY_UI"]
        start("ui", "voiceai_pipeline.defs.dagster_ui", "--port", inner, "-w", workspace)
        start("web", "voiceai_pipeline.web", "--dagster", f"http://127.0.0.1:{inner}")
        with logged(canaries.machine.work / "here.log"):
            _happy_path(canaries)
            _failures_of_highlevel(canaries)
            _failures_of_the_database(canaries)
            _kills(canaries)
            _every_failure_is_announced(canaries)
        # This process is the browser now, and may write down what it sends.
        _visits(canaries)
        _a_run_of_the_daemon(canaries, start)
        yield canaries


# The parts ---------------------------------------------------------------------------------------


Start = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def _processes(machine: Machine) -> Iterator[Start]:
    """Starts programs; what still runs at the end of the ``with`` is stopped."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        with (machine.work / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*_DEBUGGED, *words], cwd=machine.work, stdout=log, stderr=log, preexec_fn=_may_dump
            )
        started.append(process)
        machine.children.append(process.pid)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def _may_dump() -> None:
    """Let the kernel write core files, as some systems are set."""
    with contextlib.suppress(ValueError):  # this user may not raise the limit
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _happy_path(canaries: Canaries) -> None:
    canaries.connect.add()
    for user in DEMO_USERS:
        if user.role != "never_connected":
            canaries.pipeline.consent.connect(UUID(user.id), canaries.connect.code(user))
    headers = [{"key": "x-api-key", "value": CANARIES["header value"]}]
    details = {"authenticationValue": CANARIES["authenticationValue"], "headers": headers}
    for fields in (_personal(), _personal() | {"id": ""}):
        canaries.highlevel.world.calls.add(
            str(DEMO["Harbor Dental"].location_id),
            canaries.noon,
            executedCallActions=[action("CUSTOM_ACTION", {"apiDetails": details})],
            **fields,
        )
    canaries.sync()
    canaries.run("build_marts", partition_key=str(canaries.yesterday))
    canaries.execute(EXPIRE)
    canaries.run("refresh_tokens")
    canaries.run("update_directory")
    canaries.run("inspect_connections")
    canaries.run("send_alerts")
    _redact_again(canaries)


def _redact_again(canaries: Canaries) -> None:
    """As ``migrate`` does with rows of an older version, which kept more."""
    for table in ("call_logs", "set_aside_calls"):
        older = "coalesce(raw, '{}') || '{\"undocumented\": \"kept\"}'"
        canaries.execute(f"UPDATE {table} SET raw = {older}")  # noqa: S608
    canaries.execute("DELETE FROM redaction_progress")
    assert stored_redaction.redact_again(canaries.pipeline.engine)


def _personal() -> dict[str, str]:
    word = CANARIES["transcript word"]
    return {
        "fromNumber": CANARIES["phone"],
        "transcript": f"bot:Hello\nhuman:It is about {word}\nbot:Thanks",
        "summary": f"The caller asked about {word}.",
    }


def _failures_of_highlevel(canaries: Canaries) -> None:
    world = canaries.highlevel.world
    for user in DEMO_USERS:
        if user.role in ("revoked", "paused"):
            (world.revoke if user.role == "revoked" else world.pause)(user.installs_on)
    for errors in _API_ERRORS:
        canaries.heal()
        canaries.highlevel.errors = _by_location(errors)
        canaries.sync()
    canaries.highlevel.errors = {}
    canaries.heal()
    canaries.highlevel.token_errors = _by_location(_TOKEN_ERRORS)
    world.add_fault(Fault("lost_token_response", str(DEMO["Sunrise Clinic"].location_id), times=1))
    for name in ("Sunrise Clinic", *_TOKEN_ERRORS):
        canaries.refresh(name)
    canaries.highlevel.token_errors = {}


def _by_location(errors: Mapping[str, Echo]) -> dict[str, Echo]:
    return {DEMO[name].installs_on: echo for name, echo in errors.items()} | {
        str(DEMO[name].location_id): echo for name, echo in errors.items()
    }


def _failures_of_the_database(canaries: Canaries) -> None:
    canaries.execute(_REFUSING)
    for state, name in _STATES.items():
        canaries.execute(
            f"CREATE TRIGGER refuse_{state} BEFORE INSERT OR UPDATE ON call_logs FOR EACH ROW "
            f"WHEN (NEW.location_id = '{DEMO[name].location_id}') "
            f"EXECUTE FUNCTION refuse('{state}')"
        )
        location = str(DEMO[name].location_id)
        canaries.highlevel.world.calls.add(location, canaries.noon, **_personal())
    canaries.heal()
    canaries.sync()
    # A pair that the database does not take: on disk.
    canaries.heal()
    canaries.execute(
        "CREATE TRIGGER refuse_pair BEFORE UPDATE ON api_keys FOR EACH ROW "
        "WHEN (NEW.token_version > OLD.token_version) EXECUTE FUNCTION refuse('53100')"
    )
    canaries.refresh("Northwind Agency")
    canaries.execute("DROP TRIGGER refuse_pair ON api_keys")
    canaries.execute(
        "UPDATE api_keys SET access_token = 'enc:v2:test:AAAA', refresh_token = 'enc:v2:test:AAAA' "  # noqa: S608
        f"WHERE user_id = '{DEMO['Cedar Vets'].id}'"
    )
    canaries.refresh("Cedar Vets")
    try:
        raise ValueError(f"unforeseen: {CANARIES['access token']}")
    except ValueError as error:
        canaries.failures.add(unexpected(error).failure)


def _kills(canaries: Canaries) -> None:
    """End a program in the middle of an exchange, as the kernel does and as a bug does."""
    world, name = canaries.highlevel.world, "Quiet Law"
    for how in (signal.SIGKILL, signal.SIGABRT):
        canaries.heal()
        world.add_fault(
            Fault("stall", DEMO[name].installs_on, path=TOKEN_PATH, times=1, seconds=600)
        )
        with _processes(canaries.machine) as start:
            words = ("voiceai_pipeline.cli", "check", DEMO[name].id)
            process = start(f"killed-{how.name}", *words)
            wait_until(lambda: canaries.ask("SELECT 1 FROM api_keys WHERE lease_id IS NOT NULL"))
            process.send_signal(how)
            process.wait()
            canaries.machine.children.remove(process.pid)
    world.clear_faults()


def _visits(canaries: Canaries) -> None:
    """What people and HighLevel send to the front, well meant or not."""
    page = canaries.machine.page
    wait_until(lambda: answers(f"{page}/health"))
    visitor = Visitor(page, session=canaries.machine.browser)
    visitor.log_in(CANARIES["private token"])
    visitor.log_in(CANARIES["password"])
    new = DEMO["Juniper Fitness"]
    visitor.connect(UUID(new.id), new.installs_on)
    visitor.get(f"/oauth/callback?state=unknown&code={CANARIES['auth code']}")
    visitor.post(
        f"/users/{DEMO['Larch Auto Care'].id}/private-token",
        {"token": CANARIES["private token"], "location_id": DEMO["Larch Auto Care"].installs_on},
    )
    for path in ("/", *(f"/users/{user.id}" for user in DEMO_USERS)):
        canaries.machine.said.append(visitor.get(path).text)
    location = str(DEMO["Harbor Dental"].location_id)
    call = canaries.highlevel.world.calls.add(location, **_personal())
    for signed in (True, False):
        post(page, call_ended(call, location), signed=signed)


def _a_run_of_the_daemon(canaries: Canaries, start: Start) -> None:
    """A run that is queued, dequeued and executed in a process of its own; then ticks go on."""
    inner = f"http://127.0.0.1:{canaries.environment['CANARY_UI']}"
    dagster = Dagster(inner, Secret(KEY))
    wait_until(dagster.is_loaded)
    users = [UUID(DEMO[name].id) for name in ("Harbor Dental", "Pine Realty")]
    run_id = dagster.launch_sync([canaries.yesterday], users, "the canary run")
    start("daemon", "dagster._daemon", "run", "-w", str(PROJECT / "workspace.yaml"))

    def has_ended() -> bool:
        run = dagster.run(run_id)
        return run is not None and run.has_ended

    wait_until(has_ended)


def _every_failure_is_announced(canaries: Canaries) -> None:
    """What no fault above caused is at least told to every channel."""
    with canaries.pipeline.engine.begin() as db:
        for reason in FailureClass:
            alerts.open_(db, None, reason, datetime.now(UTC), subject=f"canary:{reason}")
    canaries.run("send_alerts")

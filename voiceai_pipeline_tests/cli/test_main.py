"""The command line against a real database and the sandbox over HTTP.

Most commands run in this process, through the same ``main`` as the program; those that talk while
they wait, or that set the environment, run as the program itself.
"""

import base64
import contextlib
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import click
import psycopg
import pytest
import requests
import sqlalchemy as sa
from click.testing import CliRunner

from voiceai_pipeline.cli import main
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import STATES, ConnectionState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import (
    DEMO_LOCATIONS,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    make_location,
)
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.conftest import DEMO, KEYS, Connector, free_port
from voiceai_pipeline_tests.support.up import PROGRAM, clean_environment

CANARIES = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET, "hunter2")
KEYRING = f"test:{base64.b64encode(KEYS['test']).decode()}"
OTHER_KEYRING = f"test:{base64.b64encode(b'o' * 32).decode()}"
A_DAY, NEXT_DAY = "2025-03-03", "2025-03-04"


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        text = self.out + self.err
        assert "Traceback" not in text
        assert not [canary for canary in CANARIES if canary in text]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Program:
    """``voiceai-pipeline`` with a database, the sandbox as HighLevel, and a home of its own."""

    env: dict[str, str]
    highlevel: RunningSandbox
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = open_engine(Secret(self.env["VOICEAI_DATABASE_URL"]))

    def __call__(self, *words: str, typed: str = "", **env: str) -> Outcome:
        """Run a command in this process; an empty variable counts as unset."""
        with self.monkeypatch.context() as patch:
            for name, value in {**self.env, **env}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["voiceai-pipeline", *words])
            patch.setattr(sys, "stdin", io.StringIO(typed))
            code = 0
            try:
                main.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        said = self.capsys.readouterr()
        return Outcome(code, said.out, said.err)

    def apart(self, *words: str, **env: str) -> Outcome:
        """Run a command as a program of its own."""
        done = subprocess.run(
            [PROGRAM, *words],
            env=clean_environment(Path(self.env["VOICEAI_HOME"]), **{**self.env, **env}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def talking(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that is talked to while it runs."""
        with subprocess.Popen(
            [PROGRAM, *words],
            env=clean_environment(Path(self.env["VOICEAI_HOME"]), **self.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def connect(self, *names: str) -> list[UUID]:
        """Connect demo users, as the browser would."""
        client = HighLevelClient(Settings.load(self.env).highlevel)
        with client, contextlib.closing(requests.Session()) as browser:
            consent = Consent(self.engine, TokenVault(KEYS), client)
            connector = Connector(self.engine, client, consent, browser)
            return [connector(name).user.id for name in names]

    def add(self, *names: str) -> None:
        with self.engine.begin() as db:
            for name in names:
                connections.add_user(db, UUID(DEMO[name].id), business_name=name)

    def execute(self, statement: str, **values: object) -> None:
        with self.engine.begin() as db:
            db.execute(sa.text(statement), values)

    def ask(self, query: str) -> list[Any]:
        with self.engine.begin() as db:
            return [tuple(row) for row in db.execute(sa.text(query))]


@pytest.fixture
def world() -> World:
    """A HighLevel of today, in which the agency has two locations."""
    second = replace(
        make_location("Northwind Bikes", 12, "motors", "Europe/Berlin", 3),
        company_id=DEMO["Northwind Agency"].company_id,
    )
    return World(locations=(*DEMO_LOCATIONS, second))


@pytest.fixture
def program(
    world: World,
    database: Secret,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Program]:
    with running(world, limits=False) as highlevel:
        env = {
            "VOICEAI_HOME": str(tmp_path / "home"),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": KEYRING,
            "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
            "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
            "HIGHLEVEL_REDIRECT_URI": f"http://127.0.0.1:{free_port()}/oauth/callback",
            "HIGHLEVEL_AUTH_URL": f"{highlevel.url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{highlevel.url}/oauth/token",
            "HIGHLEVEL_API_URL": highlevel.url,
        }
        program = Program(env, highlevel, monkeypatch, capsys)
        yield program
        program.engine.dispose()


@pytest.fixture
def dagsters(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for Dagster's own tables."""
    postgres.create_database("cli_dagster")
    yield postgres.url("cli_dagster", driver="psycopg2")
    postgres.drop_database("cli_dagster")


# users -------------------------------------------------------------------------------------------


def test_users_lists_everyone_whatever_their_state(program: Program) -> None:
    _, unreadable, gone, revoked = program.connect(
        "Harbor Dental", "Quiet Law", "Pine Realty", "Larch Auto Care"
    )
    program.add("Juniper Fitness")
    program("disconnect", str(gone), "--yes")
    program.execute(
        "UPDATE api_keys SET access_token = 'enc:v1:lost:AAAA', refresh_token = 'enc:v1:lost:AAAA' "
        "WHERE user_id = :user",
        user=unreadable,
    )
    program.execute(
        "UPDATE api_keys SET connection_state = 'needs_reconnect', "
        "connection_reason = 'refresh_rejected' WHERE user_id = :user",
        user=revoked,
    )

    table = program("users")
    people = {person["name"]: person for person in program("users", "--json").json}

    assert {name: person["state"] for name, person in people.items()} == {
        "Harbor Dental": "connected",
        "Juniper Fitness": "never_connected",
        "Larch Auto Care": "needs_reconnect",
        "Pine Realty": "disconnected",
        "Quiet Law": "connected",
    }
    assert people["Harbor Dental"]["what_to_do"] is None
    assert people["Pine Realty"]["what_to_do"] == (
        f"No valid OAuth connection found. Fix: Reconnect the user: voiceai-pipeline connect {gone}"
    )
    assert people["Larch Auto Care"]["what_to_do"].startswith("Failed to refresh token (")
    for person in people.values():
        (line,) = [line for line in table.out.splitlines() if person["id"] in line]
        assert person["name"] in line
        assert STATES[ConnectionState(person["state"])].label in line
        assert person["what_to_do"] is None or person["what_to_do"] in line
        assert line.rstrip().endswith("never")


def test_users_shows_how_the_last_sync_went(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute(
        "INSERT INTO sync_status (id, service, user_id, last_sync_at, last_sync_status, "
        "last_sync_message, records_synced) VALUES (gen_random_uuid(), 'highlevel', :user, "
        "'2026-11-20 12:00+00', 'failure', 'Failed to refresh token', 0)",
        user=user,
    )

    assert "2026-11-20 12:00Z failure" in program("users").out
    (person,) = program("users", "--json").json
    assert person["last_sync_status"] == "failure"
    assert person["last_sync_message"] == "Failed to refresh token"


def test_one_user_shows_what_happened_since_when_and_what_to_do(
    program: Program, world: World
) -> None:
    (user,) = program.connect("Larch Auto Care")
    program("check", str(user))
    world.revoke(DEMO["Larch Auto Care"].installs_on)
    program("check", str(user))

    shown = program("users", "larch auto care").out

    for text in (
        f"Larch Auto Care  {user}",
        "needs reconnection: revoked",
        "Failed to refresh token",
        f"voiceai-pipeline connect {user}",
        "voice-ai-dashboard.readonly",
        "command line",
    ):
        assert text in shown
    assert " USER" not in shown
    told = program("users", str(user), "--json").json
    assert [(e["event"], e["actor"]) for e in told["history"]] == [
        ("tested", "command line"),
        ("refresh_failed", "command line"),
        ("tested", "command line"),
        ("connected", "pipeline"),
    ]
    assert "SANDBOX-" not in json.dumps(told)
    # What happened reads from the newest to the oldest.
    assert shown.index("could not be renewed") < shown.index("Connected by consent")


def test_a_user_to_whom_nothing_has_happened_is_shown_too(program: Program) -> None:
    program.add("Juniper Fitness")
    shown = program("users", "Juniper Fitness").out
    assert "never connected" in shown
    assert "Nothing has happened to this connection yet." in shown


def test_a_user_whose_renewal_keeps_failing_is_shown_with_the_reason(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute(
        "UPDATE api_keys SET failed_attempts = 3, last_failure = 'unreachable', "
        "token_expires_at = now() - interval '1 hour' WHERE user_id = :user",
        user=user,
    )
    (person,) = program("users", "--json").json
    assert person["state"] == "expiring"
    assert "failed 3 times in a row: HighLevel could not be reached" in person["what_to_do"]
    assert "expiring" in program("users").out


def test_a_name_is_shown_as_it_is_also_with_brackets_and_colons(program: Program) -> None:
    for number, name in enumerate(("Acme [/] Dental", "[red]Brush[/red]", "Dr. :smile:")):
        with program.engine.begin() as db:
            connections.add_user(db, UUID(int=number), business_name=name)

    shown = program("users").out

    assert "Acme [/] Dental" in shown
    assert "[red]Brush[/red]" in shown
    assert "Dr. :smile:" in shown


# check -------------------------------------------------------------------------------------------


def test_check_reads_calls_for_real(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")

    checked = program("check", "harbor dental")

    assert checked.code == 0
    assert checked.out.splitlines()[-1] == "Calls can be read."
    assert program.highlevel.requests[-1].path == "/voice-ai/dashboard/call-logs"
    assert program("check", str(user), "--json").json["ok"] is True


def test_check_of_a_revoked_connection_says_how_to_mend_it(program: Program, world: World) -> None:
    (user,) = program.connect("Larch Auto Care")
    world.revoke(DEMO["Larch Auto Care"].installs_on)

    checked = program("check", "Larch Auto Care")

    assert checked.code == 1
    assert "Failed to refresh token" in checked.out.splitlines()[-1]
    assert f"voiceai-pipeline connect {user}." in checked.out.splitlines()[-1]
    assert " USER" not in checked.out
    facts = program("check", str(user), "--json")
    assert facts.code == 1
    assert facts.json["failure"] == "refresh_rejected"
    assert facts.json["state"] == "needs_reconnect"


def test_check_names_a_missing_scope(program: Program) -> None:
    program.connect("Cedar Vets")

    checked = program("check", "Cedar Vets")

    assert checked.code == 1
    assert "The connection lacks a scope (voice-ai-dashboard.readonly)" in checked.out
    assert "Add the scope to the app in the HighLevel marketplace" in checked.out


def test_check_of_a_user_without_a_location_says_so(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute("UPDATE api_keys SET location_id = NULL WHERE user_id = :user", user=user)

    checked = program("check", "Harbor Dental")

    assert checked.code == 1
    assert checked.out.splitlines()[-1].startswith("No location ID found for user. Fix: ")


def test_an_unreachable_highlevel_is_a_sentence(program: Program) -> None:
    program.connect("Harbor Dental")
    nobody = f"http://127.0.0.1:{free_port()}"

    checked = program.apart("check", "Harbor Dental", HIGHLEVEL_API_URL=nobody)

    assert checked.code == 1
    assert checked.out.splitlines()[-1].startswith("HighLevel could not be reached")
    assert "Check the network and HIGHLEVEL_API_URL" in checked.out


def test_a_key_that_does_not_fit_is_a_sentence(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")

    checked = program("check", "Harbor Dental", VOICEAI_TOKEN_KEYS=OTHER_KEYRING)

    assert checked.code == 1
    assert "The stored token cannot be decrypted" in checked.out.splitlines()[-1]
    assert "Put the key that encrypted it back into VOICEAI_TOKEN_KEYS" in checked.out
    assert [person["id"] for person in program("users", "--json").json] == [str(user)]


# connect -----------------------------------------------------------------------------------------


def test_connect_catches_the_redirect_and_connects(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        url = printed_url(command)
        callback = consent(url, "Harbor Dental")
        # A browser opens connections in advance and sends nothing on them for now.
        with socket.create_connection(address_of(callback)):
            assert requests.get(callback.replace("/callback", "/favicon"), timeout=5).ok is False
            page = requests.get(callback, timeout=5)
            outcome = ending(command)

    assert page.text == "Received. The terminal says how it went; you can close this page."
    assert outcome.code == 0
    assert "Harbor Dental" in outcome.out
    assert program.ask("SELECT connection_state FROM api_keys") == [("connected",)]
    assert url_query(url)["redirect_uri"] == [program.env["HIGHLEVEL_REDIRECT_URI"]]


def test_connect_refuses_an_answer_to_another_request(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        callback = consent(printed_url(command), "Harbor Dental")
        forged = callback[: callback.index("state=")] + "state=somebody-elses"
        requests.get(forged, timeout=5)
        outcome = ending(command)

    assert outcome.code == 1
    assert "another state" in outcome.err
    assert "run the command again" in outcome.err
    assert program.ask("SELECT count(*) FROM api_keys") == [(0,)]


def test_connect_says_that_consent_was_refused(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        url = printed_url(command)
        refused = requests.post(
            url, data={"action": "cancel"}, timeout=5, allow_redirects=False
        ).headers["Location"]
        requests.get(refused, timeout=5)
        outcome = ending(command)

    assert outcome.code == 1
    assert outcome.err == (
        "Error: The consent was refused in the browser. Nothing was changed; begin the connection "
        "again.\n"
    )


def test_connect_of_an_agency_names_its_locations_and_takes_one(program: Program) -> None:
    program.add("Northwind Agency")
    bikes = next(p for p in program.highlevel.world.locations.values() if "Bikes" in p.name)
    outcomes = []
    for words in ([], ["--location", bikes.id]):
        with program.talking("connect", "Northwind Agency", "--no-browser", *words) as command:
            requests.get(consent(printed_url(command), "Northwind Agency"), timeout=5)
            outcomes.append(ending(command))

    asked, answered = outcomes
    assert asked.code == 1
    assert "Choose one of the agency's locations with --location: " in asked.err
    assert f"({bikes.id})" in asked.err
    assert answered.code == 0
    assert program.ask("SELECT location_id FROM api_keys") == [(bikes.id,)]


def test_connect_says_that_the_port_of_the_redirect_is_taken(program: Program) -> None:
    program.add("Harbor Dental")
    target = urlsplit(program.env["HIGHLEVEL_REDIRECT_URI"])
    with socket.create_server((target.hostname or "", target.port or 0)):
        refused = program("connect", "Harbor Dental", "--no-browser")

    assert refused.code == 1
    assert refused.err == (
        f"Error: {target.netloc}, where HIGHLEVEL_REDIRECT_URI leads, cannot be listened on "
        "(Address already in use). Stop the program that uses it, or change the variable.\n"
    )


@pytest.mark.parametrize("action", ["allow", "cancel"])
def test_where_the_connections_page_takes_the_redirect_the_command_waits_for_it(
    action: str, program: Program, tmp_path: Path
) -> None:
    program.add("Harbor Dental")
    env = {**clean_environment(Path(program.env["VOICEAI_HOME"]), **program.env)}
    env["VOICEAI_PAGE_PORT"] = str(urlsplit(program.env["HIGHLEVEL_REDIRECT_URI"]).port)
    log = (tmp_path / "page.log").open("w")
    argv = [sys.executable, "-m", "voiceai_pipeline.web"]
    with log, subprocess.Popen(argv, env=env, stdout=log, stderr=log) as page:
        try:
            health = f"http://127.0.0.1:{env['VOICEAI_PAGE_PORT']}/health"
            wait_for(health)
            with program.talking("connect", "Harbor Dental", "--no-browser") as command:
                url = printed_url(command)
                if action == "allow":
                    back = consent(url, "Harbor Dental")
                else:
                    data = {"action": "cancel"}
                    answer = requests.post(url, data=data, timeout=5, allow_redirects=False)
                    back = answer.headers["Location"]
                requests.get(back, timeout=5)
                outcome = ending(command)
        finally:
            page.terminate()
    if action == "allow":
        assert outcome.code == 0
        assert "connected" in outcome.out
        assert program.ask("SELECT connection_state FROM api_keys") == [("connected",)]
    else:
        assert outcome.code == 1
        assert "The consent was refused in the browser" in outcome.err
        assert program.ask("SELECT count(*) FROM api_keys") == [(0,)]


def wait_for(url: str) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(url, timeout=2)
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody answers at {url}")


def test_where_the_redirect_leads_elsewhere_the_address_is_pasted_and_not_shown(
    program: Program,
) -> None:
    program.add("Harbor Dental")
    env = {**program.env, "HIGHLEVEL_REDIRECT_URI": "https://dash.example.test/oauth/callback"}
    pasted = "https://dash.example.test/oauth/callback?code=hunter2&state=wrong\n"

    result = CliRunner(env=env).invoke(
        main.cli, ["connect", "Harbor Dental", "--no-browser"], input=pasted
    )

    assert result.exit_code == 1
    assert "Paste the address you were sent to" in result.output
    assert "another state" in str(result.exception)
    assert "hunter2" not in result.output


# disconnect --------------------------------------------------------------------------------------


def test_disconnect_asks_first_and_keeps_the_user(program: Program) -> None:
    program.connect("Harbor Dental")

    refused = program("disconnect", "Harbor Dental", typed="n\n")
    assert refused.code != 0
    assert "This destroys the stored tokens; the calls stay. Disconnect?" in refused.out
    assert program.ask("SELECT refresh_token IS NULL FROM api_keys") == [(False,)]

    assert program("disconnect", "Harbor Dental", typed="y\n").code == 0
    assert program.ask("SELECT refresh_token IS NULL FROM api_keys") == [(True,)]
    (person,) = program("users", "--json").json
    assert (person["name"], person["state"]) == ("Harbor Dental", "disconnected")


# Who ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["connect"], ["disconnect", "--yes"], ["check"]])
def test_an_unknown_user_is_a_sentence(program: Program, words: Sequence[str]) -> None:
    refused = program(*words, "Nobody & Sons")

    assert refused.code == 1
    assert refused.err == (
        "Error: No user 'Nobody & Sons'. List the users with: voiceai-pipeline users\n"
    )


def test_a_name_that_two_users_share_asks_for_an_id(program: Program) -> None:
    with program.engine.begin() as db:
        for number in (1, 2):
            connections.add_user(db, UUID(int=number), business_name="Twin")

    refused = program("check", "twin")

    assert refused.code == 1
    assert refused.err == (
        f"Error: 2 users are called 'twin'; use an id: {UUID(int=1)}, {UUID(int=2)}\n"
    )


# sync --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--start", "yesterday"], "--start 'yesterday' is no day; write it as YYYY-MM-DD."),
        (["--start", "2026-02-30"], "--start '2026-02-30' is no day; write it as YYYY-MM-DD."),
        (
            ["--start", A_DAY, "--end", "20.11.2026"],
            "--end '20.11.2026' is no day; write it as YYYY-MM-DD.",
        ),
        (["--start", NEXT_DAY, "--end", A_DAY], f"--start {NEXT_DAY} lies after --end {A_DAY}."),
        ([], "Missing option '--start'."),
    ],
)
def test_sync_refuses_days_that_are_none(
    program: Program, words: Sequence[str], sentence: str
) -> None:
    refused = program("sync", *words)

    assert refused.code == 2
    assert sentence in refused.err


def test_sync_refuses_an_unknown_user(program: Program, dagsters: str) -> None:
    refused = program("sync", "--start", A_DAY, "--user", "Nobody", DAGSTER_POSTGRES_URL=dagsters)

    assert refused.code == 1
    assert "No user 'Nobody'." in refused.err


def test_sync_is_a_dagster_run_with_a_row_per_user_and_an_honest_exit_code(
    program: Program, dagsters: str
) -> None:
    _, broken = program.connect("Harbor Dental", "Pine Realty")
    program.add("Juniper Fitness")
    program.env["DAGSTER_POSTGRES_URL"] = dagsters
    stored = program.ask(
        "SELECT refresh_token, access_token FROM api_keys JOIN users ON users.id = user_id "
        "WHERE business_name = 'Pine Realty'"
    )[0]
    damage(program, broken, "enc:v1:lost:AAAA", "enc:v1:lost:AAAA")

    failed = program.apart("sync", "--start", A_DAY, "--end", NEXT_DAY)

    assert failed.code == 1
    lines = [line.split() for line in failed.out.splitlines() if "(2 days)" in line]
    assert {(line[0], line[2], line[3], line[5]) for line in lines} == {
        ("Harbor", "complete", A_DAY, NEXT_DAY),
        ("Juniper", "waiting", A_DAY, NEXT_DAY),
        ("Pine", "failed", A_DAY, NEXT_DAY),
    }
    assert "The stored token cannot be decrypted" in failed.out
    assert " USER" not in failed.out
    assert "User days" in failed.err
    assert failed.err.splitlines()[-1].startswith("Error: Dagster run ")
    assert runs(dagsters) == [("sync_calls", "FAILURE", "command line")]

    damage(program, broken, *stored)
    program.highlevel.world.clear_requests()
    healed = program.apart("sync", "--start", A_DAY, "--end", NEXT_DAY, "--only-failed", "--json")

    assert healed.code == 0
    asked = {request.location_id for request in program.highlevel.requests}
    assert asked == {DEMO["Pine Realty"].location_id}
    rows = {(row["user"], row["day"]): row for row in healed.json}
    assert rows["Pine Realty", A_DAY]["state"] == "complete"
    assert rows["Pine Realty", A_DAY]["calls"] == rows["Pine Realty", A_DAY]["new"] > 0
    assert rows["Juniper Fitness", A_DAY]["state"] == "waiting"
    assert runs(dagsters)[1:] == [("sync_calls", "SUCCESS", "command line")]

    # Nobody is left: unlike a plain rerun of a green day, this reads nothing.
    program.highlevel.world.clear_requests()
    assert program.apart("sync", "--start", NEXT_DAY, "--only-failed").code == 0
    assert program.highlevel.requests == []

    today = datetime.now(UTC).date()
    tomorrow = today + timedelta(days=1)
    future = program.apart("sync", "--start", str(tomorrow))
    assert future.code == 1
    assert future.err == f"Error: {tomorrow} lies in the future; today is {today}.\n"


def test_sync_without_dagsters_database_is_a_sentence(program: Program) -> None:
    program.connect("Harbor Dental")
    url = f"postgresql://dagster:hunter2@127.0.0.1:{free_port()}/dagster"

    refused = program("sync", "--start", A_DAY, DAGSTER_POSTGRES_URL=url)

    assert refused.code == 1
    assert refused.err == (
        "Error: The database does not answer: nothing listens there. Check that it runs and that "
        "DAGSTER_POSTGRES_URL names it: host, port, database, user and password.\n"
    )


# export ------------------------------------------------------------------------------------------


@pytest.fixture
def calls(program: Program) -> None:
    """Two days of one user's calls, and a call of another location."""
    program.connect("Harbor Dental")
    for location, day in (
        (DEMO["Harbor Dental"].location_id, A_DAY),
        (DEMO["Harbor Dental"].location_id, NEXT_DAY),
        ("LocElsewhere", A_DAY),
    ):
        program.execute(
            "INSERT INTO call_logs (location_id, call_id, started_at, transcript, "
            "executed_call_actions, raw, content_hash, first_seen_at, last_changed_at) "
            "VALUES (:location, :call, CAST(:day AS date), 'in private', '[]', '{}', '', now(), "
            "now())",
            location=location,
            call=f"{location} {day}",
            day=day,
        )


def test_an_export_goes_to_standard_output_or_to_a_file_in_the_format_of_its_name(
    program: Program, calls: None, tmp_path: Path
) -> None:
    printed = program.apart("export", "calls", "--from", A_DAY)
    path = tmp_path / "two.parquet"
    both = program("export", "calls", "--from", A_DAY, "--to", NEXT_DAY, "-o", str(path))
    again = program("export", "calls", "--from", A_DAY, "-o", str(path))
    one = program(
        "export", "calls", "--from", A_DAY, "--user", "harbor dental", "--content",
        "-o", str(tmp_path / "one"),
    )  # fmt: skip

    assert (printed.code, len(printed.out.splitlines())) == (0, 3)
    assert "in private" not in printed.out
    assert printed.err == f"Wrote 2 calls of {A_DAY}.\n"
    assert (both.code, both.out) == (0, "")
    assert both.err == f"Wrote 3 calls of {A_DAY} to {NEXT_DAY} to {path}.\n"
    assert path.read_bytes()[:4] == b"PAR1"
    assert again.code == 1
    assert again.err.startswith(f"Error: {path} exists already")
    assert one.err == f"Wrote 1 calls of {A_DAY} to {tmp_path / 'one'}.\n"
    assert "in private" in (tmp_path / "one").read_text()


def test_whoever_stops_reading_an_export_sees_no_error(program: Program, calls: None) -> None:
    program.execute(
        "INSERT INTO call_logs (location_id, call_id, started_at, executed_call_actions, raw, "
        "content_hash, first_seen_at, last_changed_at) SELECT 'LocBusy', n::text, "
        "CAST(:day AS date), '[]', '{}', '', now(), now() FROM generate_series(1, 30000) AS n",
        day=A_DAY,
    )
    with program.talking("export", "calls", "--from", A_DAY) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("location_id,")
        command.stdout.close()
        assert command.stderr is not None
        assert (command.wait(20), command.stderr.read()) == (1, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calls"], "Missing option '--from'"),
        (["callers", "--from", A_DAY], "'callers' is not"),
        (["calls", "--from", "yesterday"], "--from 'yesterday' is no day; write it as YYYY-MM-DD."),
        (["calls", "--from", NEXT_DAY, "--to", A_DAY], f"lies after --to {A_DAY}."),
        (["calls", "--from", A_DAY, "--format", "xlsx"], "'xlsx' is not one of 'csv', 'parquet'."),
        (["calls", "--from", A_DAY, "--format", "parquet"], "Parquet needs a file: -o FILE"),
    ],
)
def test_an_export_in_wrong_words_is_a_sentence(
    program: Program, words: list[str], said: str
) -> None:
    refused = program("export", *words)

    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err


def test_an_export_of_somebody_without_calls_is_a_sentence(program: Program) -> None:
    program.add("Juniper Fitness")

    refused = program("export", "calls", "--from", A_DAY, "--user", "Juniper Fitness")
    unknown = program("export", "calls", "--from", A_DAY, "--user", "nobody")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "Error: Juniper Fitness: no location yet, so no calls. Nothing was written.\n"
    )
    assert unknown.err.startswith("Error: No user 'nobody'.")


# migrate -----------------------------------------------------------------------------------------


def test_migrate_creates_the_tables_once(program: Program, empty_database: Secret) -> None:
    env = {"VOICEAI_DATABASE_URL": empty_database.reveal()}
    head = migrate.head()

    due = program("migrate", "--check", **env)
    assert (due.code, due.err) == (
        1,
        f"Error: A migration is due: none to {head}. Run: voiceai-pipeline migrate\n",
    )
    assert program("migrate", **env).out == f"Migrated from nothing to {head}.\n"
    again = program("migrate", "--check", **env)
    assert (again.code, again.out) == (0, f"The database is up to date (revision {head}).\n")


def test_migrate_sql_prints_what_would_be_done_and_does_nothing(
    program: Program, empty_database: Secret
) -> None:
    printed = program("migrate", "--sql", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert printed.code == 0
    assert "CREATE TABLE" in printed.out
    assert tables(empty_database) == []


def test_migrate_refuses_a_database_that_cannot_be_adopted(
    program: Program, empty_database: Secret
) -> None:
    with psycopg.connect(plain(empty_database)) as db:
        db.execute("CREATE TABLE users (id integer PRIMARY KEY)")

    refused = program("migrate", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert refused.code == 1
    assert refused.err.startswith("Error: This database cannot be adopted; nothing was changed. ")
    assert tables(empty_database) == ["users"]


def test_a_database_of_a_newer_version_is_a_sentence(program: Program) -> None:
    program.execute("UPDATE voiceai_alembic_version SET version_num = '9999_from_the_future'")

    refused = program("migrate")

    assert refused.code == 1
    assert refused.err == (
        "Error: The database was migrated by a newer version of this program. Update the program: "
        "git pull, then make up.\n"
    )


@pytest.mark.parametrize(
    "table", ["", "CREATE TABLE users (id uuid PRIMARY KEY); CREATE TABLE api_keys (id uuid)"]
)
def test_a_database_that_was_not_migrated_is_a_sentence(
    program: Program, empty_database: Secret, table: str
) -> None:
    with psycopg.connect(plain(empty_database)) as db:
        db.execute(table.encode() or b"SELECT 1")

    refused = program("users", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert refused.code == 1
    assert refused.err == (
        "Error: The database does not have our tables yet, or only older ones. Create them with: "
        "voiceai-pipeline migrate\n"
    )


# What is wrong with the installation -------------------------------------------------------------


def test_every_command_explains_itself() -> None:
    for name, command in {"": main.cli, **main.cli.commands}.items():
        shown = CliRunner().invoke(main.cli, [*name.split(), "--help"])
        assert shown.exit_code == 0
        assert command.help
        assert command.help.splitlines()[0] in " ".join(shown.output.split())
        for option in command.params:
            assert isinstance(option, click.Argument) or getattr(option, "help", None), option


@pytest.mark.parametrize("command", ["users", "check x", "migrate", "disconnect x --yes"])
def test_a_database_that_is_down_is_one_sentence(program: Program, command: str) -> None:
    url = f"postgresql://somebody:hunter2@127.0.0.1:{free_port()}/nowhere"

    refused = program(*command.split(), VOICEAI_DATABASE_URL=url)

    assert refused.code == 1
    assert refused.out == ""
    assert refused.err == (
        "Error: The database does not answer: nothing listens there. Check that it runs and that "
        "VOICEAI_DATABASE_URL names it: host, port, database, user and password.\n"
    )


def test_a_database_that_does_not_exist_is_a_sentence(
    program: Program, postgres: EmbeddedPostgres
) -> None:
    refused = program("users", VOICEAI_DATABASE_URL=postgres.url("no_such_database"))

    assert refused.code == 1
    assert "does not answer: there is no such database or user." in refused.err


@pytest.mark.parametrize("name", ["VOICEAI_DATABASE_URL", "DAGSTER_POSTGRES_URL"])
def test_a_database_url_that_cannot_be_read_is_a_sentence_that_repeats_nothing(
    program: Program, name: str
) -> None:
    program.env[name] = "postgresql://somebody:p@ss:hunter2@db.example.test/voiceai"

    refused = program("sync", "--start", A_DAY)

    assert refused.code == 1
    assert refused.err == (
        f"Error: {name} cannot be read. Write postgresql://user:password@host:5432/name, with "
        "every @, : and / inside the password percent-encoded (%40, %3A, %2F).\n"
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VOICEAI_TOKEN_KEYS": "test:hunter2"}, "VOICEAI_TOKEN_KEYS: entry 1 is not usable."),
        ({"VOICEAI_TOKEN_KEYS": ""}, "VOICEAI_DATABASE_URL is set but VOICEAI_TOKEN_KEYS is not."),
        ({"HIGHLEVEL_CLIENT_SECRET": ""}, "HIGHLEVEL_CLIENT_SECRET is not. Set both"),
        ({"VOICEAI_DATABASE_URL": "mysql://x"}, "VOICEAI_DATABASE_URL must be a PostgreSQL URL"),
        ({"VOICEAI_TIMEZONE": "Mars/Base"}, "VOICEAI_TIMEZONE is 'Mars/Base'."),
    ],
)
def test_a_wrong_setting_is_a_sentence(
    program: Program, variables: Mapping[str, str], words: str
) -> None:
    refused = program("check", "x", **variables)

    assert refused.code == 1
    assert refused.err.startswith("Error: ")
    assert words in refused.err


def test_a_home_or_key_file_that_cannot_be_used_is_a_sentence(
    program: Program, tmp_path: Path
) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "token.key").write_text("")
    embedded = {"VOICEAI_DATABASE_URL": "", "VOICEAI_TOKEN_KEYS": ""}

    unusable = program("check", "x", VOICEAI_HOME=str(a_file), **embedded)
    keyless = program("check", "x", VOICEAI_HOME=str(damaged), **embedded)

    assert (unusable.code, keyless.code) == (1, 1)
    assert f"{a_file} cannot be used: File exists." in unusable.err
    assert f"{damaged / 'token.key'} is damaged" in keyless.err


# Helpers -----------------------------------------------------------------------------------------


def printed_url(command: subprocess.Popen[str]) -> str:
    """The authorize page, which the command prints before it waits for the redirect."""
    assert command.stdout is not None
    for line in command.stdout:
        if "chooselocation" in line:
            url = line.strip()
            wait_for_port(address_of(url_query(url)["redirect_uri"][0]))
            return url
    raise AssertionError("it printed no address")


def wait_for_port(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address):
            return
        assert time.monotonic() < deadline, "it does not listen"
        time.sleep(0.02)


def consent(url: str, name: str) -> str:
    """Press Allow; the address that the browser is sent to."""
    with requests.Session() as browser:
        return authorize(browser, url, DEMO[name].installs_on)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def url_query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def ending(command: subprocess.Popen[str]) -> Outcome:
    out, err = command.communicate(timeout=20)
    return Outcome(command.returncode, out, err)


def damage(program: Program, user: UUID, refresh_token: str, access_token: str) -> None:
    program.execute(
        "UPDATE api_keys SET refresh_token = :refresh, access_token = :access "
        "WHERE user_id = :user",
        user=user,
        refresh=refresh_token,
        access=access_token,
    )


def runs(dagsters: str) -> list[tuple[str, str, str]]:
    """Dagster's runs, oldest first: job, status and who launched them."""
    with psycopg.connect(dagsters.replace("+psycopg2", "")) as db:
        return db.execute(
            "SELECT pipeline_name, status, run_body::json->'tags'->>'voiceai/launched_by' "
            "FROM runs ORDER BY id"
        ).fetchall()


def plain(url: Secret) -> str:
    return url.reveal().replace("+psycopg", "")


def tables(url: Secret) -> list[str]:
    with psycopg.connect(plain(url)) as db:
        rows = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in rows]


def test_a_file_called_env_is_read_and_the_environment_wins(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("VOICEAI_TIMEZONE=Nowhere/Land\n")
    program.monkeypatch.chdir(tmp_path)
    refused = program.apart("users")
    assert refused.code == 1
    assert "VOICEAI_TIMEZONE is 'Nowhere/Land'" in refused.err
    assert program.apart("users", VOICEAI_TIMEZONE="UTC").code == 0

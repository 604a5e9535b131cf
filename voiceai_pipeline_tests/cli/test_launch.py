"""``sync``: a Dagster run with a row per user and an honest exit code."""

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import dagster as dg
import psycopg
import pytest

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.defs.dead_runs import fail_silent_runs
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline_tests.support.command_line import (
    A_DAY,
    NEXT_DAY,
    Program,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.today import today_for


def test_sync_refuses_an_unknown_user(program: Program, dagster_database: str) -> None:
    refused = program(
        "sync", "--start", A_DAY, "--user", "Unknown", DAGSTER_POSTGRES_URL=dagster_database
    )

    assert refused.code == 1
    assert "No user 'Unknown'." in refused.err


def test_sync_is_a_dagster_run_with_a_row_per_user_and_an_honest_exit_code(
    program: Program, dagster_database: str
) -> None:
    _, broken = program.connect("Harbor Dental", "Pine Realty")
    program.add("Juniper Fitness")
    program.env["DAGSTER_POSTGRES_URL"] = dagster_database
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
    # No progress bar, which is for terminals, and no warnings.
    (line,) = failed.err.splitlines()
    assert line.startswith("Error: Dagster run ")
    assert runs(dagster_database) == [("sync_calls", "FAILURE", "command line")]

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
    assert runs(dagster_database)[1:] == [("sync_calls", "SUCCESS", "command line")]

    # No user is left: unlike a rerun of a green day, this reads nothing.
    program.highlevel.world.clear_requests()
    assert program.apart("sync", "--start", NEXT_DAY, "--only-failed").code == 0
    assert program.highlevel.requests == []

    today = today_for()
    tomorrow = today + timedelta(days=1)
    future = program.apart("sync", "--start", str(tomorrow))
    assert future.code == 1
    assert future.err == (
        f"Error: {tomorrow} is in the future; today is {today}. Choose an earlier day.\n"
    )


@pytest.fixture
def hangup_counts() -> Iterator[None]:
    """Let programs be started as from a terminal, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_counts")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP], ids=lambda how: how.name)
def test_a_sync_that_is_killed_or_loses_its_terminal_is_failed(
    program: Program, dagster_database: str, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    program.connect("Harbor Dental")
    program.env["DAGSTER_POSTGRES_URL"] = dagster_database
    location_id = str(DEMO["Harbor Dental"].location_id)
    program.highlevel.world.add_fault(Fault("stall", location_id, seconds=3600))
    program.highlevel.world.clear_requests()
    with program.talking("sync", "--start", A_DAY) as process:
        wait_until(lambda: program.ask("SELECT FROM run_heartbeats") and program.highlevel.requests)
        wait_until(lambda: runs(dagster_database) == [("sync_calls", "STARTED", "command line")])
        process.send_signal(how)
        # HighLevel still stalls: reads are given up. Waiting for them would take two minutes.
        process.wait(25)
    if how is signal.SIGKILL:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_database)
        suspected = None
        for _ in range(2):
            with (
                dg.DagsterInstance.from_config(str(PROJECT)) as instance,
                program.engine.begin() as db,
            ):
                _, suspected = fail_silent_runs(instance, db, suspected, timedelta())
    assert runs(dagster_database) == [("sync_calls", "FAILURE", "command line")]
    assert program.ask("SELECT FROM run_heartbeats") == []


def test_sync_records_its_run_where_dagster_home_says(
    program: Program, dagster_database: str, tmp_path: Path
) -> None:
    program.connect("Harbor Dental")
    home = tmp_path / "mine"
    home.mkdir()
    program.env |= {"DAGSTER_POSTGRES_URL": dagster_database, "DAGSTER_HOME": str(home)}
    refused = program("sync", "--start", A_DAY)
    assert refused.err.startswith(f"Error: DAGSTER_HOME is {home}, which has no dagster.yaml: ")
    (home / "dagster.yaml").write_text("")
    assert program.apart("sync", "--start", A_DAY).code == 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]


def test_sync_without_dagsters_database_is_one_sentence(program: Program) -> None:
    program.connect("Harbor Dental")
    url = f"postgresql://dagster:hunter2@127.0.0.1:{free_port()}/dagster"

    refused = program("sync", "--start", A_DAY, DAGSTER_POSTGRES_URL=url)

    assert refused.code == 1
    assert refused.err == (
        "Error: The database does not answer: nothing listens there. Check that it runs and that "
        "DAGSTER_POSTGRES_URL names it: host, port, database, user and password.\n"
    )


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

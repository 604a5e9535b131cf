"""Dagster's instance, as ``dagster.yaml`` configures it: where it keeps what, and what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import dagster as dg
import pytest
import sqlalchemy as sa
from dagster_postgres.utils import retry_pg_connection_fn

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running, stop
from voiceai_pipeline.defs import instance as dagster_instance
from voiceai_pipeline_tests.support.ports import free_port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation without any setting but its home."""
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    monkeypatch.setenv("VOICEAI_HOME", str(tmp_path))
    yield tmp_path
    stop(tmp_path)


@dg.op
def hello() -> None:
    print("hello")  # noqa: T201 - this is what is kept


@dg.job(executor_def=dg.in_process_executor)
def prints() -> None:
    hello()


def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(PROJECT))


def test_without_a_url_runs_are_in_the_embedded_server_and_their_output_in_the_home(
    home: Path,
) -> None:
    with instance() as opened:
        run = prints.execute_in_process(instance=opened)
        assert opened.storage_directory() == str(home / "dagster" / "storage")
    assert is_running(home)
    with instance() as again:
        assert [one.run_id for one in again.get_runs()] == [run.run_id]
    (output,) = (home / "dagster" / "compute_logs" / run.run_id).rglob("*.out")
    assert output.read_text() == "hello\n"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_url_is_taken_in_any_form(
    scheme: str, home: Path, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"instance_{scheme.replace('+', '_')}"
    postgres.create_database(name)
    _, _, rest = postgres.url(name).partition("://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", f"{scheme}://{rest}")
    with instance() as opened:
        assert opened.get_runs() == []
    assert not (home / "postgres").exists()
    postgres.drop_database(name)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "DAGSTER_POSTGRES_URL",
            "mysql://u:SECRET@h/d",
            "DAGSTER_POSTGRES_URL must be a PostgreSQL URL: postgresql://user@host:5432/name.",
        ),
        (
            "VOICEAI_HOME",
            "/dev/null/home",
            "The embedded PostgreSQL cannot use /dev/null/home: Not a directory",
        ),
    ],
    ids=["another database", "unusable home"],
)
@pytest.mark.usefixtures("home")
def test_what_is_wrong_is_a_sentence_that_dagsters_commands_print(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(click.ClickException, match=rf"^{re.escape(sentence)}"):
        instance()


def test_a_server_that_does_not_answer_is_a_sentence_after_dagsters_retries() -> None:
    nowhere = sa.create_engine(f"postgresql+psycopg2://u:SECRET@127.0.0.1:{free_port()}/d")
    with (
        pytest.raises(click.ClickException) as raised,
        dagster_instance._sentences(),
    ):
        # What the storage does, without its ten seconds.
        retry_pg_connection_fn(nowhere.connect, retry_limit=0)
    assert raised.value.message == (
        "The database does not answer: nothing listens there. Check that it runs and that "
        "DAGSTER_POSTGRES_URL names it: host, port, database, user and password."
    )


def test_programs_that_start_at_once_create_dagsters_tables_once(
    postgres: EmbeddedPostgres, home: Path
) -> None:
    postgres.create_database("instance_at_once")
    url = postgres.url("instance_at_once")
    program = f"import dagster as dg; dg.DagsterInstance.from_config({str(PROJECT)!r}).get_runs()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "DAGSTER_POSTGRES_URL": url, "VOICEAI_HOME": str(home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    postgres.drop_database("instance_at_once")

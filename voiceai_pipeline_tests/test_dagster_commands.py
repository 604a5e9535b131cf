"""Dagster's own commands, as in a fresh clone: with the project's files, and with nothing in the
environment."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from voiceai_pipeline import definitions
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.database.embedded import EmbeddedPostgres, stop
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import answers, graphql

pytestmark = pytest.mark.acceptance

BIN = Path(sys.executable).parent
IN_PROCESS = ("-m", "voiceai_pipeline.definitions")
WORKSPACE = ("-w", "workspace.yaml")

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "check defs": ("dg", "check", "defs"),
    "list defs": ("dg", "list", "defs", "--json"),
    "list envs": ("dg", "list", "envs"),
    "validate": ("dagster", "definitions", "validate", *WORKSPACE),
    "materialize": ("dagster", "asset", "materialize", "--select", "agents", *IN_PROCESS),
    "job execute": ("dagster", "job", "execute", *IN_PROCESS, "-j", "inspect_connections"),
}


def environment(home: Path) -> dict[str, str]:
    """What every process has; and where the package under test is."""
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "PYTHONPATH": str(PROJECT)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clone")
    for name in ("dagster.yaml", "pyproject.toml", "workspace.yaml", "voiceai_pipeline"):
        (folder / name).symlink_to(PROJECT / name)
    yield folder
    stop(folder / ".voiceai")


@pytest.fixture(scope="module")
def done(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, subprocess.CompletedProcess[str]]:
    """Every command of Dagster's that ends, run side by side in one new folder."""
    env = environment(tmp_path_factory.mktemp("home"))

    def run(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            env=env,
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=300,
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(COMMANDS, pool.map(run, COMMANDS.values()), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_succeeds_without_a_traceback_or_a_warning_of_ours(
    name: str, done: Mapping[str, subprocess.CompletedProcess[str]]
) -> None:
    said = done[name].stdout + done[name].stderr
    assert done[name].returncode == 0, said
    assert "Traceback" not in said
    # Dagster's older commands say that `dg` supersedes them.
    assert set(re.findall(r"\w+Warning", said)) <= {"SupersessionWarning"}


def test_the_commands_say_what_there_is(
    done: Mapping[str, subprocess.CompletedProcess[str]],
) -> None:
    listed = json.loads(done["list defs"].stdout)
    assert len(listed["assets"]) == 16
    assert "All code locations passed validation" in done["validate"].stdout
    assert "VOICEAI_DATABASE_URL" in done["list envs"].stdout


def test_runs_are_in_the_same_postgresql_as_those_of_make_up_and_nothing_is_left_beside(
    clone: Path, done: Mapping[str, subprocess.CompletedProcess[str]]
) -> None:
    home = clone / ".voiceai"
    with EmbeddedPostgres.hold(home) as server:
        url = server.url("dagster").replace("+psycopg", "")
        with psycopg.connect(url) as db:
            runs = db.execute("SELECT pipeline_name, status FROM runs ORDER BY 1").fetchall()
    assert runs == [("__ASSET_JOB", "SUCCESS"), ("inspect_connections", "SUCCESS")]
    assert list((home / "dagster" / "compute_logs").iterdir())
    assert {path.name for path in clone.iterdir()} == {
        ".voiceai",
        "dagster.yaml",
        "pyproject.toml",
        "voiceai_pipeline",
        "workspace.yaml",
    }


def test_dg_dev_serves_the_assets_and_its_sensors_find_their_tables(
    clone: Path, tmp_path: Path
) -> None:
    # It is `dagster dev`, after a check.
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "dg"), "dev", "--port", str(port)],
            env=environment(tmp_path),
            cwd=clone,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/server_info"), pause=0.5)
        wait_until(lambda: len(_ended_ticks(url)) == len(definitions.defs.sensors or ()), pause=1)
        assert {*_ended_ticks(url)} == {("SKIPPED", None)}
        assert len(graphql(url, "{ assetNodes { id } }")["assetNodes"]) == 16
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    assert process.returncode == 0


def _ended_ticks(url: str) -> list[tuple[str, str | None]]:
    """Status and error of the newest tick of each sensor; without one that is under way."""
    query = """{ sensorsOrError(repositorySelector: {
        repositoryName: "__repository__", repositoryLocationName: "voiceai_pipeline"
    }) { ... on Sensors { results { sensorState { ticks(limit: 1) {
        status error { message } } } } } } }"""
    sensors = graphql(url, query)["sensorsOrError"]["results"]
    ticks = [tick for sensor in sensors for tick in sensor["sensorState"]["ticks"]]
    return [
        (tick["status"], tick["error"] and tick["error"]["message"])
        for tick in ticks
        if tick["status"] != "STARTED"
    ]

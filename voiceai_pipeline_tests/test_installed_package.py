"""The wheel, installed into an environment of its own and used in an empty folder."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import Up, answers, ended, graphql, partition_stats


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. What it depends on is borrowed from the tests' own."""
    folder = tmp_path_factory.mktemp("environment")
    python = str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("--no-index", "--no-deps", "--ignore-installed", "--no-compile", str(wheel)),
        ],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    (site,) = folder.glob("lib/python*/site-packages")
    # Not its .pth files, which name the repository.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture(scope="module")
def installed(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`voiceai-pipeline up` in an empty folder, running."""
    folder = tmp_path_factory.mktemp("empty")
    # The tests' environment may name the repository.
    env = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    up = Up(folder / ".voiceai", env, program=str(environment / "bin" / "voiceai-pipeline"))
    with ended(up):
        up.start()
        yield up


def test_the_wheel_has_what_is_not_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = PROJECT / "voiceai_pipeline"
    wanted = {
        str(path.relative_to(PROJECT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    extra = {"voiceai_pipeline/dagster.yaml", "voiceai_pipeline/workspace.yaml"}
    assert {name for name in names if ".dist-info/" not in name} == wanted | extra


def test_everything_starts_in_an_empty_folder_and_a_sync_shows_in_the_ui(
    installed: Up, environment: Path
) -> None:
    assert answers(f"{installed.page}/health")
    assert len(graphql(installed.url, "{ assetNodes { id } }")["assetNodes"]) == 12
    # The demo's first backfill: every day but the one that is red.
    wait_until(lambda: partition_stats(installed.url)["numMaterialized"] >= 6, pause=1)
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    before = _written(environment)
    done = installed.run("sync", "--start", str(day), "--user", "Harbor Dental", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["day"], row["state"]) == (str(day), "complete")
    query = """{ runsOrError(filter: {tags: [
        {key: "voiceai/launched_by", value: "command line"}
    ]}) { ... on Runs { results { status } } } }"""
    assert graphql(installed.url, query)["runsOrError"]["results"] == [{"status": "SUCCESS"}]
    # Everything is in the folder it was started in: the installation may be read-only.
    assert {path.name for path in installed.home.parent.iterdir()} == {".voiceai", ".voiceai.out"}
    assert (installed.home / "dagster" / "dagster.yaml").is_file()
    assert _written(environment) == before


def test_its_messages_name_commands_that_it_has(installed: Up) -> None:
    refused = installed.try_to_start()
    assert refused.returncode == 1
    assert "make" not in installed.output + refused.stderr
    assert "Stopped" not in installed.output


def _written(environment: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in environment.rglob("*") if path.is_file()}

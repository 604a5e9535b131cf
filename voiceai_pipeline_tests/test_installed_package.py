"""The wheel, installed into an environment of its own and used in an empty folder."""

import json
import zipfile
from datetime import date, timedelta
from pathlib import Path

import pytest

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline_tests.support.up import Up, answers, graphql

pytestmark = pytest.mark.acceptance


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
    running_product: Up, product_day: date, wheel_environment: Path
) -> None:
    installed, environment = running_product, wheel_environment
    assert answers(f"{installed.page}/health")
    assert len(graphql(installed.url, "{ assetNodes { id } }")["assetNodes"]) == 16
    day = product_day - timedelta(days=1)
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


def test_its_messages_name_commands_that_it_has(running_product: Up) -> None:
    # What it says when it stops or is refused is in cli/test_up_kills.py.
    assert "make" not in running_product.output


def _written(environment: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in environment.rglob("*") if path.is_file()}

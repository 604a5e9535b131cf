"""The benchmark still runs: every contender that the tests have installed, over a few calls.

Its durations are of no interest here (README: speed is shown, not tested).
"""

import subprocess
import sys
from pathlib import Path

import pytest

from voiceai_pipeline.cli.up import PROJECT

BEGIN = "<!-- benchmarks.speed: figures, begin -->"
END = "<!-- benchmarks.speed: figures, end -->"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A document into which a tiny run was written: one user with 140 calls on seven days."""
    path: Path = tmp_path_factory.mktemp("benchmark") / "performance.md"
    path.write_text(f"Before.\n\n{BEGIN}\nold figures\n{END}\n\nAfter.\n")
    command = [sys.executable, "-m", "benchmarks.speed", "--scale", "0.001", "--latency", "0.001"]
    command += ["--only", "fleet,again,slow", "--contenders", "ours,lean,bound,plain"]
    done = subprocess.run(
        [*command, "--write", str(path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path.read_text()


def _rows(document: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the first table by scenario and contender."""
    lines = [line for line in document.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1].partition(" (")[0]): row for row in cells if len(row) == 13}


def test_the_benchmark_measures_each_contender_and_finds_exactly_the_expected_rows(
    document: str,
) -> None:
    table = _rows(document)
    # Of the plain loop a part is run: one day.
    for contender, calls in (
        ("ours, without Dagster", "140"),
        ("the leanest loader", "140"),
        ("the bound", "140"),
        ("plain loop", "20"),
    ):
        for scenario in ("fleet", "again"):
            assert table[scenario, contender][11] == calls
    assert table["fleet", "the bound"][5].startswith("3 / 3 ")
    assert table["again", "ours, without Dagster"][12] == "0"
    assert table["again", "plain loop"][12] == "20"
    for contender in ("ours, without Dagster", "the leanest loader"):
        stored, wal = (float(cell.replace(",", "")) for cell in table["fleet", contender][9:11])
        assert stored > 1_000
        assert wal > 1_000
    assert "a slow tenant delays the others" in document


def test_the_figures_replace_those_between_the_markers_and_nothing_else(document: str) -> None:
    assert document.startswith(f"Before.\n\n{BEGIN}\n`python -m benchmarks.speed --scale 0.001")
    assert document.endswith(f"|\n{END}\n\nAfter.\n")
    assert "old figures" not in document

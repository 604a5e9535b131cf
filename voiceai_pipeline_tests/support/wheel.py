"""Fixtures: the wheel, and an environment of its own into which it is installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from voiceai_pipeline.cli.up import PROJECT


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def wheel_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. What it depends on is borrowed from the tests' own."""
    folder = tmp_path_factory.mktemp("environment")
    python = str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("--no-index", "--no-deps", "--ignore-installed", str(wheel)),
        ],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    (site,) = folder.glob("lib/python*/site-packages")
    # Not its .pth files, which name the repository.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder

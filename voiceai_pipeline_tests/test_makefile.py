"""``make`` lists its targets, and ``make up`` says what the machine lacks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from voiceai_pipeline.cli import up


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile and what it installs from, and nothing else."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(up.PROJECT / name, folder)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/env", "make", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_make_up_without_a_python_says_what_to_install(makefile: Path) -> None:
    made = make(makefile, "up", "PYTHON=/nonexistent")

    assert made.returncode != 0
    assert made.stderr.splitlines()[0] == (
        "There is no /nonexistent. Install Python 3.11 or newer, or name one: "
        "make up PYTHON=/path/to/python3"
    )
    assert not (makefile / ".venv").exists()


def test_make_up_with_an_old_python_says_what_to_install(makefile: Path) -> None:
    old = script(
        makefile / "python3.9", 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac'
    )

    made = make(makefile, "up", f"PYTHON={old}")

    assert made.returncode != 0
    assert made.stderr.splitlines()[0] == (
        "Python 3.9.2 is too old. Install Python 3.11 or newer, or name one: "
        "make up PYTHON=/path/to/python3"
    )
    assert not (makefile / ".venv").exists()


def test_make_up_without_venv_says_what_to_install_and_leaves_nothing(makefile: Path) -> None:
    bare = script(
        makefile / "python3", 'case "$1" in -c) exit 0;; *) mkdir -p .venv/bin; exit 1;; esac'
    )

    made = make(makefile, "up", f"PYTHON={bare}")

    assert made.returncode != 0
    assert "cannot make a virtual environment" in made.stderr
    assert "apt install python3-venv" in made.stderr
    assert not (makefile / ".venv").exists()


def test_make_up_completes_an_interrupted_virtual_environment(makefile: Path) -> None:
    (makefile / ".venv" / "bin").mkdir(parents=True)
    asked = script(makefile / "python3", 'echo "$@" >> asked; [ "$1" = -c ]')

    made = make(makefile, "up", f"PYTHON={asked}")

    assert made.returncode != 0
    assert "-m venv .venv" in (makefile / "asked").read_text().splitlines()


def test_make_up_says_what_to_do_when_packages_cannot_be_installed(makefile: Path) -> None:
    (makefile / ".venv" / "bin").mkdir(parents=True)
    script(makefile / ".venv" / "bin" / "pip", "exit 1")
    script(makefile / ".venv" / "bin" / "python", "echo no route to host >&2; exit 1")

    made = make(makefile, "up")

    assert made.returncode != 0
    assert made.stderr.splitlines()[:2] == [
        "no route to host",
        "The packages could not be installed; pip says why above. Check the network and the disk, "
        "then repeat.",
    ]
    assert not (makefile / ".venv" / ".installed").exists()


def test_make_alone_lists_every_target(makefile: Path) -> None:
    listed = make(makefile).stdout

    for target in ("up", "test", "acceptance", "lint", "types", "sure", "lock", "clean"):
        assert f"make {target} " in listed


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path

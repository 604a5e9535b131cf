"""The front as real processes: Dagster's UI process, and web processes before it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import answers, own_servers
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor

ANALYSTS_PASSWORD: Final = "looking is free 123"
KEY: Final = "inner-key-0123456789abcdef"


@dataclass(frozen=True)
class Front:
    """Two web processes before one UI process.

    Attributes:
        inner: the UI process.
        open: the pages without a password, as ``make up`` starts them.
        locked: the pages with one for operators and one for analysts.
    """

    inner: str
    open: str
    locked: str
    ui: subprocess.Popen[bytes]

    @contextmanager
    def visitor(self, password: str | None = PASSWORD) -> Iterator[Visitor]:
        """Someone at the locked pages; None: who has not logged in."""
        with Visitor(self.locked) as visitor:
            if password is not None:
                visitor.log_in(password)
            yield visitor


@contextmanager
def running_front(home: Path, database: Secret, dagsters: str, highlevel: str) -> Iterator[Front]:
    """Start the processes; all have ended at the end of the ``with``."""
    ports = [free_port() for _ in range(3)]
    inner, opened, locked = (f"http://127.0.0.1:{port}" for port in ports)
    ours = ("VOICEAI_", "HIGHLEVEL_", "DAGSTER_")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        **own_servers(database.reveal(), dagsters, highlevel),
        "DAGSTER_HOME": str(PROJECT),
        "DAGSTER_POSTGRES_URL": dagsters,
        "VOICEAI_HOME": str(home),
        "VOICEAI_START_DATE": "2026-11-01",
        "VOICEAI_DAGSTER_KEY": KEY,
        "VOICEAI_PAGE_PORT": str(ports[1]),
    }
    passwords = {
        "VOICEAI_PAGE_PORT": str(ports[2]),
        "VOICEAI_PAGE_SECRET": PASSWORD,
        "VOICEAI_ANALYST_SECRET": ANALYSTS_PASSWORD,
    }
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        ui = stack.enter_context(
            _started(
                [
                    *("voiceai_pipeline.defs.dagster_ui", "--port", str(ports[0])),
                    *("-w", str(PROJECT / "workspace.yaml")),
                ],
                env,
                home,
            )
        )
        web = ["voiceai_pipeline.web", "--dagster", inner]
        stack.enter_context(_started(web, env, home))
        stack.enter_context(_started(web, env | passwords, home))
        for url in (opened, locked, inner):
            wait_until(lambda url=url: answers(f"{url}/health"))  # type: ignore[misc]
        yield Front(inner, opened, locked, ui)


@contextmanager
def _started(
    words: list[str], env: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{words[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env=env, cwd=folder, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()

"""The product as real processes: ``voiceai-pipeline up`` with a home and ports of its own, and what
tests ask of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests

from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import is_alive, wait_until

PROGRAM = str(Path(sys.executable).parent / "voiceai-pipeline")


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This environment without the variables of another installation."""
    ours = ("VOICEAI_", "HIGHLEVEL_", "DAGSTER_", "VITE_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**plain, "VOICEAI_HOME": str(home), **more}


@dataclass
class Up:
    """One installation: a home, its ports, and whatever runs for it.

    Attributes:
        before: called in the process of ``up`` before it starts its program.
        program: the command line of the installation.
    """

    home: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    sandbox_port: int = field(default_factory=free_port)
    page_port: int = field(default_factory=free_port)
    before: Callable[[], None] | None = None
    program: str = PROGRAM
    process: subprocess.Popen[str] | None = None
    pids: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Dagster's UI, as people and tests reach it."""
        return f"{self.page}/dagster"

    @property
    def inner(self) -> str:
        """Dagster's UI process, which answers to the pages only."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.sandbox_port}"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.page_port}"

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.home.with_name(f"{self.home.name}.out")

    @property
    def _environment(self) -> dict[str, str]:
        ports = {
            "VOICEAI_SANDBOX_PORT": str(self.sandbox_port),
            "VOICEAI_PAGE_PORT": str(self.page_port),
        }
        return clean_environment(self.home, **ports, **self.env)

    def start(self) -> None:
        """Start, and return once it is up."""
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [self.program, "up", "--port", str(self.port)],
                env=self._environment,
                cwd=self.home.parent,
                stdout=log,
                stderr=log,
                text=True,
                preexec_fn=self.before,
            )
        wait_until(self._is_up)
        self.pids = self.living()

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        return "Ctrl-C stops everything." in self.output

    def try_to_start(self) -> subprocess.CompletedProcess[str]:
        """Start where that must fail; the whole outcome."""
        return self.run("up", "--port", str(self.port))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this installation to its end."""
        return subprocess.run(
            [self.program, *words],
            env=self._environment,
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def child(self, word: str) -> psutil.Process:
        (found,) = self._children(word)
        return found

    def has_another_child(self, word: str, than: psutil.Process) -> bool:
        """Whether a child has replaced `than`; a restart takes a moment."""
        return any(child.pid != than.pid for child in self._children(word))

    def _children(self, word: str) -> list[psutil.Process]:
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return [c for c in children if is_alive(c.pid) and word in " ".join(c.cmdline())]

    def living(self) -> set[int]:
        """The processes of this home: what `up` started, and the database with its watchdog."""
        found = {pid for pid in self.pids if is_alive(pid)}
        if self.process is not None and self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            found |= {child.pid for child in children if is_alive(child.pid)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.home) in word for word in process.cmdline()):
                    found.add(process.pid)
        return found

    def everything_has_ended(self) -> bool:
        return not self.living() and not is_running(self.home)

    def interrupt(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send Ctrl-C or another signal that stops it; the exit code."""
        assert self.process is not None
        self.pids |= self.living()
        self.process.send_signal(how)
        return self.process.wait(120)

    def kill(self) -> None:
        """Kill it as the kernel does when memory runs out: it cannot clean up."""
        assert self.process is not None
        self.pids |= self.living()
        self.process.kill()
        self.process.wait()

    def ask(self, query: str, database: str = "voiceai") -> list[tuple[Any, ...]]:
        with EmbeddedPostgres.hold(self.home) as server:
            url = server.url(database).replace("+psycopg", "")
            with psycopg.connect(url) as db:
                return db.execute(query.encode()).fetchall()


def graphql(url: str, query: str) -> dict[str, Any]:
    answer = requests.post(f"{url}/graphql", json={"query": query}, timeout=60)
    answer.raise_for_status()
    data: dict[str, Any] = answer.json()["data"]
    return data


def partition_stats(url: str) -> dict[str, int]:
    query = """{ assetNodeOrError(assetKey: {path: ["call_logs"]}) { ... on AssetNode {
        partitionStats { numPartitions numMaterialized numFailed numMaterializing } } } }"""
    stats: dict[str, int] = graphql(url, query)["assetNodeOrError"]["partitionStats"]
    return stats


@contextlib.contextmanager
def ended(installation: Up) -> Iterator[Up]:
    """Stop what the test leaves running, and delete the home."""
    try:
        yield installation
    finally:
        if installation.process is not None and installation.process.poll() is None:
            installation.interrupt()
        wait_until(installation.everything_has_ended)
        shutil.rmtree(installation.home, ignore_errors=True)


def own_servers(ours: str, dagsters: str, highlevel: str) -> dict[str, str]:
    """The environment of an installation on external servers."""
    return {
        "VOICEAI_DATABASE_URL": ours,
        "DAGSTER_POSTGRES_URL": dagsters,
        "VOICEAI_TOKEN_KEYS": KEYRING,
        "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
        "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
        "HIGHLEVEL_AUTH_URL": f"{highlevel}/v2/oauth/chooselocation",
        "HIGHLEVEL_TOKEN_URL": f"{highlevel}/oauth/token",
        "HIGHLEVEL_API_URL": highlevel,
    }


def answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=60).ok
    return False


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Listen on this port meanwhile."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def port_in_use(port: int, otherwise: str) -> str:
    """What the program says where another one listens on its port."""
    return (
        f"Error: Port {port} is used by another program. Stop it, or use another port: "
        f"{otherwise}\n"
    )

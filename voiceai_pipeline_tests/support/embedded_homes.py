"""Homes with an embedded server, and processes that hold it: real servers, processes and kills."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running, stop
from voiceai_pipeline_tests.support.processes import wait_until

HOLDER = """
import sys
from pathlib import Path
import psycopg
from voiceai_pipeline.database.embedded import EmbeddedPostgres
server = EmbeddedPostgres.hold(Path(sys.argv[1]), durable=False)
url = server.url("postgres").replace("+psycopg", "")
with psycopg.connect(url) as connection:
    print(*connection.execute("SELECT pg_postmaster_start_time()").fetchone(), flush=True)
exec(sys.argv[2])
sys.stdout.flush()
sys.stdin.read()
"""


def hold(home: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres.hold(home, durable=False)


def end(home: Path) -> None:
    stop(home)
    wait_until(lambda: not watchdogs(home))


@contextlib.contextmanager
def holder(home: Path, then: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the server, or is about to, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """What a holder prints once it holds: when its server started."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def connect(server: EmbeddedPostgres, database: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(server.url(database).replace("+psycopg", ""), autocommit=True)


def ask(server: EmbeddedPostgres, query: str, database: str = "postgres") -> object:
    with connect(server, database) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return row[0] if row else None


def stopped(home: Path) -> bool:
    """The server accepts no connection and none of its processes runs."""
    return not is_running(home) and not processes("postgres", "-D", str(home / "postgres/data"))


def processes(program: str, *words: str) -> list[int]:
    """The pids of a program whose command line contains all these words."""
    lines = ((process.pid, process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))
    return [
        pid
        for pid, line in lines
        if line and Path(line[0]).name.startswith(program) and set(words) <= set(line)
    ]


def watchdogs(home: Path) -> list[int]:
    return processes("python", "voiceai_pipeline.database.embedded", "watch", str(home))


def postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().split()[0])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")

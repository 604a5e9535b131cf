"""A backfill of 60 days through the real daemon, while everything around it is killed.

    python -m benchmarks.backfill_under_fire

It runs `voiceai-pipeline up` in a folder of its own, with the sandbox's users, and kills (-9) the
run's process, the daemon, the webserver and PostgreSQL, at least 20 seconds apart, each while days
are being read. Then it measures, one after the other, how long it takes until everything responds,
until the backfill has ended, and until no run holds a slot in a pool. Finally it compares the
tables with those of an undisturbed run. A few minutes; not part of the tests.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import requests

from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.web.dagster_client import Dagster, DagsterError

DAYS: Final = 60
PORT: Final = 23970
PROGRAM: Final = Path(sys.executable).parent / "voiceai-pipeline"
PACE: Final = 20.0
"""Seconds to wait after each kill."""

TODAY: Final = datetime.now(UTC).date()
RANGE: Final = [TODAY - timedelta(days=ago) for ago in range(DAYS, 0, -1)]

UNDER_WAY: Final = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
DIGEST: Final = """
SELECT (SELECT md5(string_agg(t, '|' ORDER BY t)) FROM (
          SELECT ROW(location_id, call_id, started_at, raw, missing_since IS NULL)::text AS t
          FROM call_logs WHERE started_at >= %(first)s AND started_at < %(end)s) calls),
       (SELECT md5(string_agg(t, '|' ORDER BY t)) FROM (
          SELECT ROW(user_id, location_id, day, state, api_total, stored)::text AS t
          FROM sync_ledger WHERE day >= %(first)s AND day < %(end)s) ledger),
       (SELECT count(*) FROM call_logs WHERE started_at >= %(first)s AND started_at < %(end)s)
"""


@dataclass
class Product:
    """A running installation, and what can be queried from outside."""

    home: Path
    process: subprocess.Popen[bytes]
    dagster: Dagster
    urls: dict[str, str]

    def ask(self, query: str, database: str = "voiceai", **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, on a connection of its own."""
        with psycopg.connect(self.urls[database], connect_timeout=5) as db:
            return db.execute(query.encode(), values or None).fetchall()

    def digest(self) -> tuple[Any, ...]:
        """Hashes of the days' calls and ledger, without times of reads, and the number of calls."""
        (row,) = self.ask(DIGEST, first=RANGE[0], end=TODAY)
        return row

    def held(self) -> int:
        """The number of runs that have not ended, plus the number of slots in use in pools."""
        (runs,) = self.ask(
            "SELECT count(*) FROM runs WHERE status = ANY(%(under_way)s)",
            "dagster",
            under_way=UNDER_WAY,
        )
        (slots,) = self.ask(
            "SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL", "dagster"
        )
        return int(runs[0]) + int(slots[0])

    def workers(self) -> list[int]:
        """The process ids of the runs in progress."""
        found = self.ask(
            "SELECT substring(e.event from 'Started process for run \\(pid: (\\d+)\\)') "
            "FROM event_logs e JOIN runs r USING (run_id) "
            "WHERE r.status = 'STARTED' AND e.event LIKE '%Started process for run (pid:%'",
            "dagster",
        )
        return [int(pid) for (pid,) in found if psutil.pid_exists(int(pid))]

    def child(self, word: str) -> psutil.Process:
        """The child process of `up` that has ``word`` in its command line."""
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                if word in " ".join(process.cmdline()):
                    return process
        raise LookupError(word)

    def backfill(self) -> str:
        """The state of the backfill."""
        query = """{ partitionBackfillsOrError { ... on PartitionBackfills { results {
            status title } } } }"""
        found = self.dagster._ask(query, {})["partitionBackfillsOrError"]["results"]
        return next(str(one["status"]) for one in found if one["title"] == "Under fire")


@contextmanager
def product() -> Iterator[Product]:
    """`voiceai-pipeline up`, with every user healthy and every page slow."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        sandbox = PORT + 1
        env = {n: v for n, v in os.environ.items() if not n.startswith(("VOICEAI_", "HIGHLEVEL_"))}
        env |= {
            "VOICEAI_HOME": str(home),
            "VOICEAI_SANDBOX_PORT": str(sandbox),
            "VOICEAI_PAGE_PORT": str(PORT + 2),
            "VOICEAI_START_DATE": RANGE[0].isoformat(),
        }
        os.environ.update(env)
        log = Path(folder) / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, "up", "--port", str(PORT)], env=env, stdout=output, stderr=output
            )
        try:
            until(lambda: "Ctrl-C stops everything." in log.read_text(), 180)
            with EmbeddedPostgres.hold(home) as server:
                urls = {
                    name: server.url(name).replace("+psycopg", "")
                    for name in ("voiceai", "dagster")
                }
            faults = f"http://127.0.0.1:{sandbox}/sandbox/faults"
            requests.delete(faults, timeout=10).raise_for_status()
            slow = {"kind": "latency", "path": "/voice-ai/dashboard/call-logs", "seconds": 1.5}
            requests.post(faults, json=slow, timeout=10).raise_for_status()
            yield Product(home, process, Dagster(f"http://127.0.0.1:{PORT}"), urls)
        finally:
            say(*log.read_text().splitlines()[-12:])
            process.send_signal(signal.SIGINT)
            process.wait(60)


def until(happens: Callable[[], Any], seconds: float) -> float:
    """Wait until ``happens`` is true, ignoring what is unreachable meanwhile. Returns the seconds
    it took; NaN if it was not true within ``seconds``."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        with suppress(DagsterError, psycopg.Error, psutil.Error, LookupError):
            if happens():
                return time.monotonic() - started
        time.sleep(0.5)
    return float("nan")


def say(*lines: str) -> None:
    """Print lines at once."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fire(it: Product) -> None:
    """Kill the processes one after the other, each while a run is reading."""

    def worker() -> int:
        return it.workers()[0]

    def database() -> int:
        return int((it.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

    victims: list[tuple[str, Callable[[], int]]] = [
        ("the run's process", worker),
        ("the daemon", lambda: it.child("dagster._daemon").pid),
        ("the webserver", lambda: it.child("voiceai_pipeline.defs.dagster_ui").pid),
        ("PostgreSQL", database),
    ]
    started = time.monotonic()
    for name, pid in victims:
        waited = until(it.workers, 150)
        time.sleep(PACE / 4)
        os.kill(pid(), signal.SIGKILL)
        say(f"{time.monotonic() - started:6.0f} s  killed {name} (a run read after {waited:.0f} s)")
        time.sleep(PACE)


def main() -> None:
    """Kill, measure, then compare."""
    with product() as it:
        it.dagster.backfill(RANGE, "Under fire")
        fire(it)
        recovered = until(lambda: it.dagster.is_loaded(), 120)
        ended = until(lambda: it.backfill() not in ("REQUESTED", "CANCELING", "FAILING"), 600)
        state = it.backfill()
        freed = until(lambda: it.held() == 0, 300)
        disturbed = it.digest()
        statuses = it.ask("SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1", "dagster")
        say(f"runs: {dict(statuses)}")
        with psycopg.connect(it.urls["voiceai"]) as db:
            db.execute("TRUNCATE call_logs, sync_ledger, sync_status, set_aside_calls")
        requests.delete(f"http://127.0.0.1:{PORT + 1}/sandbox/faults", timeout=10)
        subprocess.run(
            [PROGRAM, "sync", "--start", str(RANGE[0]), "--end", str(RANGE[-1])],
            check=False,
            capture_output=True,
        )
        clean = it.digest()
        say(
            f"everything answers again after    {recovered:8.0f} s",
            f"backfill {state} after            {ended:8.0f} s  <= 300",
            f"no slot held after                {freed:8.0f} s  <= 120",
            f"calls disturbed {disturbed[2]}, clean {clean[2]}: "
            f"{'equal' if disturbed[0] == clean[0] else 'DIFFERENT'}; ledger "
            f"{'equal' if disturbed[1] == clean[1] else 'DIFFERENT'}",
        )


if __name__ == "__main__":
    main()

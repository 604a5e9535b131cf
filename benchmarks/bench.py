"""Runs the contenders, with a server of calls and a database for each. After each run it checks
that exactly the expected rows are stored.

One run at a time, so that a contender shares the cores only with PostgreSQL and the server of
calls.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Self

import psutil
import requests
import sqlalchemy as sa

from benchmarks.contenders import Job
from benchmarks.figures import Figures
from benchmarks.scenarios import (
    AGAIN,
    FRACTIONS,
    LINEAR_CALLS,
    LINEAR_USERS,
    MEMORY,
    SCENARIOS,
    SLOW_SECONDS,
    YESTERDAY,
    Delay,
    Measurement,
    scaled,
)
from benchmarks.stored_rows import connect, footprint, stored_rows
from benchmarks.world import Shape, location_id, token, user_id
from voiceai_pipeline.cli.up import ONE_HEAP, PROJECT
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, SERVICE
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import parse_keys
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import api_keys, users

SLOW_RUNS = 5
"""Runs without a slow tenant, and as many with one; a trial (a scale below 1) does one of each."""

KEYS = "bench:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


class Bench:
    """The parts that all runs share. Runs must not overlap.

    Args:
        latency: seconds; None for each scenario's own.
        say: called with what is about to run.
    """

    def __init__(self, scale: float, latency: float | None, say: Callable[[str], None]) -> None:
        self._scale = scale
        self._latency = latency
        self._say = say
        self._stack = ExitStack()
        self._numbers = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # PostgreSQL may still write while the folder is emptied.
            home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            self._home = Path(stack.enter_context(home))
            self._postgres = stack.enter_context(EmbeddedPostgres.hold(self._home, durable=False))
            self._postgres.create_database("template_calls")
            engine = open_engine(Secret(self._postgres.url("template_calls")))
            migrate.upgrade(engine)
            self.postgres_version = _value(engine, "SHOW server_version")
            engine.dispose()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @cached_property
    def _dagster_template(self) -> str:
        """A database with Dagster's tables, which in production exist before the first run."""
        self._postgres.create_database("template_dagster")
        url = self._postgres.url("template_dagster", driver="psycopg2")
        script = "import sys, dagster; dagster.DagsterInstance.from_config(sys.argv[1]).dispose()"
        subprocess.run(
            [sys.executable, "-c", script, str(PROJECT)],
            env=os.environ | {"DAGSTER_POSTGRES_URL": url},
            cwd=self._home,
            check=True,
            capture_output=True,
        )
        return "template_dagster"

    # Scenarios ------------------------------------------------------------------------------------

    def race(self, name: str, contenders: list[str], *, again: bool) -> Iterator[Measurement]:
        """Run a scenario with each contender; with ``again`` twice, and the second run is measured
        as the scenario ``AGAIN``."""
        shape = self._shape(SCENARIOS[name])
        with self._serving(shape) as api_url, self._seeded(shape) as template:
            rows: Path | None = None
            for contender in contenders:
                fraction = FRACTIONS.get(contender, {}).get(name, 1.0)
                with self._job(contender, shape, api_url, template, fraction) as job:
                    first = replace(job, copy_from=str(rows)) if rows else job
                    yield self._measure(name, first, fraction)
                    if again:
                        yield self._measure(AGAIN, job, fraction)
                    if contender == "ours" and "bound" in contenders:
                        rows = self._dump(job)

    def memory(self) -> Iterator[Measurement]:
        """Ours: how memory grows with the calls in one window of one user."""
        yield from self._sizes("memory", MEMORY)

    def calls(self) -> Iterator[Measurement]:
        """Ours: how the time grows with the number of calls."""
        yield from self._sizes("calls", LINEAR_CALLS)

    def _sizes(self, name: str, sizes: tuple[int, ...]) -> Iterator[Measurement]:
        for size in sizes:
            shape = scaled(Shape(1, 20, size // 20, YESTERDAY), self._scale)
            # With limits a million calls would take 33 minutes, most of it waiting.
            yield self._alone(name, replace(shape, latency=0, limits=False))

    def users(self) -> Iterator[Measurement]:
        """Ours: how the time grows with the number of users."""
        for number in LINEAR_USERS:
            yield self._alone("users", self._shape(Shape(number, 1, 200, YESTERDAY)))

    def slow(self) -> tuple[Delay, Delay]:
        """When the other users of ``fleet`` are done, without and with a slow tenant: medians of
        alternating runs, because single runs differ by more than the effect to be shown."""
        shape = self._shape(SCENARIOS["fleet"])
        shape = replace(shape, locations=max(2, shape.locations))
        slow = SLOW_SECONDS if self._latency is None else 40 * self._latency
        shapes = (shape, replace(shape, slow_latency=slow))
        repeats = 1 if self._scale < 1 else SLOW_RUNS
        without, among = zip(
            *(tuple(map(self._delay, shapes)) for _ in range(repeats)), strict=True
        )
        return _middle(without), _middle(among)

    def profile(self, name: str) -> str:
        """Where the CPU time of ours goes in a scenario."""
        shape = self._shape(SCENARIOS["fleet" if name == AGAIN else name])
        with (
            self._serving(shape) as api_url,
            self._seeded(shape) as template,
            self._job("ours", shape, api_url, template, 1.0) as job,
        ):
            if name == AGAIN:
                self._run(job)
            self._say(f"{name}: profile")
            return str(self._run(replace(job, profile=True))["profile"])

    # One run --------------------------------------------------------------------------------------

    def _shape(self, shape: Shape) -> Shape:
        shape = scaled(shape, self._scale)
        return shape if self._latency is None else replace(shape, latency=self._latency)

    def _alone(self, name: str, shape: Shape) -> Measurement:
        with (
            self._serving(shape) as api_url,
            self._seeded(shape) as template,
            self._job("ours", shape, api_url, template, 1.0) as job,
        ):
            return self._measure(name, job, 1.0)

    def _delay(self, shape: Shape) -> Delay:
        with (
            self._serving(shape) as api_url,
            self._seeded(shape) as template,
            self._job("ours", shape, api_url, template, 1.0) as job,
        ):
            self._say(f"slow tenant, answers after {shape.slow_latency or shape.latency:g} s")
            self._run(job)
            query = (
                "SELECT extract(epoch FROM max(finished_at) - (SELECT min(started_at) "
                "FROM sync_ledger))::float FROM sync_ledger WHERE user_id <> %s "
                "GROUP BY user_id ORDER BY 1"
            )
            with connect(job) as db:
                done = [row[0] for row in db.execute(query, [user_id(0)])]
            return Delay(done[len(done) // 2], done[-1])

    @contextmanager
    def _serving(self, shape: Shape) -> Iterator[str]:
        """The server of calls, in a process of its own; yields its URL."""
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )
        with server:
            assert server.stdin is not None  # noqa: S101 - a pipe
            assert server.stdout is not None  # noqa: S101 - a pipe
            try:
                server.stdin.write(json.dumps(shape.as_json()) + "\n")
                server.stdin.flush()
                yield f"http://127.0.0.1:{int(server.stdout.readline())}"
            finally:
                server.stdin.close()

    @contextmanager
    def _seeded(self, shape: Shape) -> Iterator[str]:
        """A database with the shape's users, whose tokens are valid for a day: a template for the
        contenders' databases."""
        name = self._name("users")
        self._postgres.create_database(name, template="template_calls")
        engine = open_engine(Secret(self._postgres.url(name)))
        vault, now = TokenVault(parse_keys(KEYS)), datetime.now(UTC)
        all_connections = range(shape.locations)
        with engine.begin() as db:
            db.execute(
                sa.insert(users),
                [{"id": user_id(n), "business_name": f"Business {n:05d}"} for n in all_connections],
            )
            db.execute(
                sa.insert(api_keys),
                [
                    {
                        "id": user_id(n),
                        "user_id": user_id(n),
                        "name": "HighLevel",
                        "service": SERVICE,
                        "access_token": vault.encrypt(Secret(token(n)), "access_token", user_id(n)),
                        "refresh_token": vault.encrypt(
                            Secret(f"r{n}"), "refresh_token", user_id(n)
                        ),
                        "token_expires_at": now + timedelta(days=1),
                        "location_id": location_id(n),
                        "user_type": "Location",
                        "scope": " ".join(REQUESTED_SCOPES),
                        "connection_state": "connected",
                        "connection_since": now,
                        "refresh_at": now + timedelta(hours=22),
                        "is_active": True,
                    }
                    for n in all_connections
                ],
            )
        engine.dispose()
        yield name
        self._postgres.drop_database(name)

    @contextmanager
    def _job(
        self, contender: str, shape: Shape, api_url: str, template: str, fraction: float
    ) -> Iterator[Job]:
        """A contender's databases and folder, which are deleted afterwards."""
        name = self._name(contender)
        self._postgres.create_database(name, template=template)
        if contender == "dagster":
            self._postgres.create_database(f"{name}_dagster", self._dagster_template)
        many = shape.locations > 1
        with tempfile.TemporaryDirectory(dir=self._home, ignore_cleanup_errors=True) as home:
            yield Job(
                contender=contender,
                shape=shape,
                locations=max(1, round(shape.locations * fraction)) if many else 1,
                days=shape.days if many else max(1, round(shape.days * fraction)),
                api_url=api_url,
                database_url=self._postgres.url(name),
                dagster_url=self._postgres.url(f"{name}_dagster", driver="psycopg2"),
                home=home,
            )
        self._postgres.drop_database(name)
        self._postgres.drop_database(f"{name}_dagster")

    def _name(self, what: str) -> str:
        self._numbers += 1
        return f"{what}_{self._numbers}"

    def _measure(self, name: str, job: Job, fraction: float) -> Measurement:
        """Run a job and check what it stored."""
        self._say(
            f"{name}: {job.contender}, {job.locations} users, {job.shape.calls(job.days):,} calls "
            "each"
        )
        requests.get(f"{job.api_url}/bench/reset", timeout=60)
        with connect(job) as db:
            before = db.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        before_bytes = footprint(job)
        postgres = self._postgres_cpu()
        started = datetime.now(UTC)
        share = job.locations * job.days / (job.shape.locations * job.shape.days)
        fraction = share if fraction < 1 else 1.0
        try:
            figures = Figures(**self._run(job))
        except RuntimeError as error:
            return Measurement(name, job.contender, Figures(), fraction, trouble=str(error))
        took = (datetime.now(UTC) - started).total_seconds()
        postgres = self._postgres_cpu() - postgres
        after_bytes = footprint(job)
        counts = requests.get(f"{job.api_url}/bench/counts", timeout=60).json()
        rows, written, is_exact = stored_rows(job, before[0] if before else 0)
        return Measurement(
            scenario=name,
            contender=job.contender,
            figures=figures,
            fraction=fraction,
            process_seconds=took,
            requests=counts["requests"],
            refused=counts["refused"],
            fewest=job.locations * job.shape.fewest_requests(job.days),
            rows=rows,
            expected=job.locations * job.shape.calls(job.days),
            written=written,
            is_exact=is_exact,
            server_cpu=counts["cpu"],
            postgres_cpu=postgres,
            stored_bytes=after_bytes.stored,
            wal_bytes=after_bytes.wal - before_bytes.wal,
        )

    def _run(self, job: Job) -> dict[str, Any]:
        """Run a job in a process of its own; returns what it printed.

        Raises:
            RuntimeError: it failed; the text is the end of its error output.
        """
        start = ["-m", "benchmarks.contenders"]
        if job.contender != "dlt":
            start = ["-c", _WITHOUT_PYARROW]
        done = subprocess.run(
            [sys.executable, *start],
            input=json.dumps(asdict(job) | {"shape": job.shape.as_json()}),
            capture_output=True,
            text=True,
            cwd=PROJECT,
            env=os.environ | (ONE_HEAP if job.contender in ("ours", "dagster") else {}),
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:].strip() or f"exit code {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout.rpartition("\n")[2])
        return found

    def _dump(self, job: Job) -> Path:
        """Write the rows of ``call_logs`` to a file in the format that PostgreSQL reads fastest."""
        path = self._home / "rows.copy"
        with (
            connect(job) as db,
            db.cursor().copy("COPY call_logs TO STDOUT (FORMAT binary)") as copy,
            path.open("wb") as file,
        ):
            for block in copy:
                file.write(block)
        return path

    def _postgres_cpu(self) -> float:
        """CPU seconds of all PostgreSQL processes so far, including backends that have ended."""
        (pid_file,) = self._home.rglob("postmaster.pid")
        server = psutil.Process(int(pid_file.read_text().split("\n")[0]))
        # The first four: user and system time of the process, and of its children that ended.
        total = 0.0
        for child in server.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # the server's own times have it now
                total += sum(child.cpu_times()[:4])
        return total + float(sum(server.cpu_times()[:4]))


_WITHOUT_PYARROW = (
    "import runpy, sys; sys.modules['pyarrow'] = None; "
    "runpy.run_module('benchmarks.contenders', run_name='__main__')"
)
"""The benchmark's packages include pyarrow for dlt. An installation of ours does not, and pandas
would load it: 35 MB that nothing measured here uses."""


def _middle(delays: Sequence[Delay]) -> Delay:
    return Delay(median(d.median for d in delays), median(d.last for d in delays))


def _value(engine: sa.Engine, query: str) -> str:
    with engine.connect() as db:
        return str(db.execute(sa.text(query)).scalar_one())

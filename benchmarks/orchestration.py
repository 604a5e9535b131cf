"""What 10,000 users and three years of days cost the orchestration, against its limits.

    python -m benchmarks.orchestration [USERS] [IDLE]

A server and a Dagster instance of its own, filled by SQL: USERS (default 10,000) connected users,
30 days of everybody in the ledger and a thinner past, three years of daily materializations, a cell
of ``user_tokens`` for each. Every part runs in a process of its own, as it does in production, so
its memory is its own. IDLE users (default 1,000) are then synced for one day from a server that
answers "no calls" after 50 ms. Seconds and MB are of this machine; the limits are the product's.
"""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import dagster as dg
import psutil
import requests
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET

DAYS: Final = 3 * 365
FULL_DAYS: Final = 30
"""Days that every user has in the ledger; before them, every tenth user."""

KEY: Final = "bench:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
LATENCY: Final = 0.05
PORT: Final = 23977
TICKS: Final = 12
TODAY: Final = datetime.now(UTC).date()
FIRST: Final = TODAY - timedelta(days=DAYS)

HEALTH: Final = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions
        }
      }
    }
  }
}
"""
"""What the partitions page of the webserver waits for, as its JavaScript writes it."""

Row = tuple[str, float, str, float | None]
"""What, how much, in which unit, and the limit."""


# The world ---------------------------------------------------------------------------------------


@contextmanager
def world(users: int) -> Iterator[EmbeddedPostgres]:
    """Both databases, filled, and the environment that names them."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = stack.enter_context(EmbeddedPostgres.hold(home, durable=False))
        for name in ("voiceai", "dagster"):
            server.create_database(name)
        os.environ.update(
            VOICEAI_HOME=str(home),
            VOICEAI_DATABASE_URL=server.url("voiceai"),
            VOICEAI_TOKEN_KEYS=KEY,
            VOICEAI_START_DATE=FIRST.isoformat(),
            DAGSTER_POSTGRES_URL=server.url("dagster", driver="psycopg2"),
            DAGSTER_HOME=str(PROJECT),
            HIGHLEVEL_CLIENT_ID=SANDBOX_CLIENT_ID,
            HIGHLEVEL_CLIENT_SECRET=SANDBOX_CLIENT_SECRET,
            PYTHONWARNINGS="ignore",  # Dagster's, of what is beta in it
        )
        os.chdir(home)  # dagster.yaml keeps its files in a relative folder
        engine = open_engine(Secret(server.url("voiceai")))
        migrate.upgrade(engine)
        fill(engine, users)
        engine.dispose()
        yield server


def fill(engine: sa.Engine, users: int) -> None:
    """Users with a location and a token each, and what was synced for them."""
    vault = TokenVault({"bench": b"k" * 32})
    ids = [UUID(int=(4 << 76) | (8 << 60) | n) for n in range(1, users + 1)]
    with engine.begin() as db:
        db.execute(
            sa.text("INSERT INTO users (id, business_name) VALUES (:id, :name)"),
            [{"id": one, "name": f"Business {n:05}"} for n, one in enumerate(ids)],
        )
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, name, service, access_token, refresh_token, "
                "token_expires_at, location_id, is_active, connection_state, scope, user_type, "
                "refresh_at) VALUES (:id, :id, 'HighLevel', 'highlevel', :access, :refresh, "
                "now() + interval '20 hours', :place, true, 'connected', "
                "'voice-ai-dashboard.readonly', 'Location', now() + interval '19 hours')"
            ),
            [
                {
                    "id": one,
                    "place": f"Loc{n:017}",
                    "access": vault.encrypt(Secret(f"access-{n}"), "access_token", one),
                    "refresh": vault.encrypt(Secret(f"refresh-{n}"), "refresh_token", one),
                }
                for n, one in enumerate(ids)
            ],
        )
        db.execute(
            sa.text(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, message, read_until, "
                "api_total, stored, pages, run_id, started_at, finished_at) "
                "SELECT k.user_id, k.location_id, d::date, 'complete', '', d + interval '1 day', "
                "5, 5, 1, gen_random_uuid(), d + interval '1 day', d + interval '25 hours' "
                "FROM api_keys k, generate_series(CAST(:first AS timestamptz), "
                "     CAST(:last AS timestamptz), interval '1 day') d "
                "WHERE d >= CAST(:full AS timestamptz) OR k.location_id LIKE '%0'"
            ),
            {
                "first": f"{FIRST}T00:00Z",
                "last": f"{TODAY - timedelta(days=1)}T00:00Z",
                "full": f"{TODAY - timedelta(days=FULL_DAYS)}T00:00Z",
            },
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text("VACUUM ANALYZE"))


def record_history() -> None:
    """Three years of materialized days, and a cell for every user: one event each by Dagster, the
    others copied from it by SQL."""
    with dg.DagsterInstance.get() as instance:
        for asset, key in (
            ("call_logs", FIRST.isoformat()),
            ("sync_status", FIRST.isoformat()),
            ("user_tokens", "USER"),
        ):
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    copy = (
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, "
        "asset_key, partition) SELECT e.run_id, replace(e.event, e.partition, k.key), "
        "e.dagster_event_type, e.timestamp, e.step_key, e.asset_key, k.key FROM event_logs e, ({}) "
        "k(key) WHERE e.asset_key = :asset AND e.partition = :first AND k.key <> :first"
    )
    days = (
        "SELECT to_char(d, 'YYYY-MM-DD') FROM generate_series(CAST(:start AS timestamptz), "
        "CAST(:stop AS timestamptz), interval '1 day') d"
    )
    keys = "SELECT partition FROM dynamic_partitions"
    with engine.begin() as db:
        span = {"start": f"{FIRST}T00:00Z", "stop": f"{TODAY - timedelta(days=1)}T00:00Z"}
        for asset in ("call_logs", "sync_status"):
            values = {"asset": f'["{asset}"]', "first": FIRST.isoformat(), **span}
            db.execute(sa.text(copy.format(days)), values)
        values = {"asset": '["user_tokens"]', "first": "USER"}
        db.execute(sa.text(copy.format(keys)), values)
        db.execute(sa.text("DELETE FROM event_logs WHERE partition = 'USER'"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    engine.dispose()


# The parts, each in a process of its own ----------------------------------------------------------


def memory() -> float:
    """The most this process has ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(part: Callable[..., list[Row]], *args: Any) -> list[Row]:
    """What ``part`` measures in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, part, args))
    process.start()
    sender.close()
    try:
        rows: list[Row] = receiver.recv()
    except EOFError:
        rows = [(f"{part.__name__}: failed", float("nan"), "", None)]
    process.join()
    return rows


def _report(sender: Any, part: Callable[..., list[Row]], args: Any) -> None:
    sender.send(part(*args))


def load() -> list[Row]:
    """The code location, as a server loads it: the package, and the snapshot it hands out."""
    began = time.perf_counter()
    from dagster._core.remote_representation.external_data import RepositorySnap

    from voiceai_pipeline.definitions import defs

    RepositorySnap.from_def(defs.get_repository_def())
    return [
        ("code location loads", time.perf_counter() - began, "s", 10),
        ("  memory", memory(), "MB", 500),
    ]


def ticks() -> list[Row]:
    """Sensors while nothing is due, and while everything is, for everybody."""
    from voiceai_pipeline.definitions import defs
    from voiceai_pipeline.defs import partitions

    repository = defs.get_repository_def()
    resources = repository.get_top_level_resources()
    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    rows: list[Row] = []

    def tick(name: str, times: int = TICKS) -> Any:
        sensor = repository.get_sensor_def(name)
        took = []
        for _ in range(times):
            with dg.DagsterInstance.get() as instance:
                needed = {key: resources[key] for key in sensor.required_resource_keys}
                began = time.perf_counter()
                with dg.build_sensor_context(
                    instance=instance, resources=needed, definitions=defs
                ) as context:
                    data = sensor.evaluate_tick(context)
                took.append(time.perf_counter() - began)
        return sorted(took)[round(0.95 * (times - 1))], data

    def due(label: str, name: str, times: int = TICKS) -> Any:
        p95, data = tick(name, times)
        asked = len(data.run_requests)
        rows.append((f"{name}, {label} ({asked} runs)", p95, "s p95", 5))
        return data

    first = due("everybody unlisted", "new_users", 1)
    for request in first.dynamic_partitions_requests:
        began = time.perf_counter()
        with dg.DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(partitions.USERS, request.partition_keys)
        rows.append(("  the daemon adds their partitions", time.perf_counter() - began, "s", 50))
    for name in ("new_users", "expiring_tokens", "connection_alerts", "failed_user_syncs"):
        due("nothing due", name)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET refresh_at = now()"))
        db.execute(
            sa.text(
                "UPDATE sync_ledger SET state = 'failed', failure_class = 'provider_error', "
                "attempt = 1 WHERE day = :day"
            ),
            {"day": TODAY - timedelta(days=1)},
        )
        db.execute(
            sa.text(
                "INSERT INTO connection_alerts (subject, user_id, reason, opened_at) "
                "SELECT 'user:' || id, id, 'refresh_rejected', now() FROM users"
            )
        )
    for name in ("expiring_tokens", "connection_alerts", "failed_user_syncs"):
        due("everybody due", name)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE sync_ledger SET state = 'waiting' WHERE state = 'failed'"))
    due("everybody is back", "new_users")
    with engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET refresh_at = now() + interval '19 hours'"))
        db.execute(sa.text("UPDATE sync_ledger SET state = 'complete' WHERE state = 'waiting'"))
        db.execute(sa.text("TRUNCATE connection_alerts"))
    rows.append(("  memory of all sensors", memory(), "MB", 500))
    return rows


def report(days: int) -> list[Row]:
    """What a run of ``days`` days asks of the ledger when it ends, and what the UI is shown."""
    from voiceai_pipeline.calls.queries import Talk
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.defs import metadata
    from voiceai_pipeline.pipeline import open_pipeline

    settings = Settings.load(os.environ)
    with open_pipeline(settings) as pipeline:
        before = memory()
        began = time.perf_counter()
        reports = pipeline.sync.report([TODAY - timedelta(days=n) for n in range(1, days + 1)])
        took = time.perf_counter() - began
        began = time.perf_counter()
        for one in reports:
            metadata.of_calls(one, Talk())
            metadata.of_status(one, settings.page, Talk(), is_open=False)
        shown = time.perf_counter() - began
    return [
        (f"Sync.report, {days} days", took, "s", None),
        (f"  what the UI is shown of {days} days", shown, "s", None),
        ("  memory on top", memory() - before, "MB", None),
        ("  memory", memory(), "MB", 500),
    ]


def people() -> list[Row]:
    """The list of everybody: on the command line and on the Connections page."""
    began = time.perf_counter()
    program = Path(sys.executable).parent / "voiceai-pipeline"
    listed = subprocess.run([program, "users", "--json"], capture_output=True, check=True)
    took = time.perf_counter() - began
    rows: list[Row] = [
        (f"voiceai-pipeline users ({len(json.loads(listed.stdout))})", took, "s", None)
    ]
    from voiceai_pipeline.connections import queries as connections

    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    began = time.perf_counter()
    with engine.begin() as db:
        connections.all_connections(db)
    rows.append(("everyone and how they stand", time.perf_counter() - began, "s", None))
    os.environ["VOICEAI_PAGE_PORT"] = str(PORT + 1)
    page = subprocess.Popen([sys.executable, "-m", "voiceai_pipeline.web"], cwd=PROJECT)
    url = f"http://127.0.0.1:{PORT + 1}"
    try:
        while not _answers(f"{url}/health"):
            time.sleep(0.2)
        for how in ("first look", "again"):
            began = time.perf_counter()
            size = len(requests.get(url, timeout=120).content)
            label = f"Connections page ({size / 1e6:.1f} MB), {how}"
            rows.append((label, time.perf_counter() - began, "s", None))
        rows += _memory_of(page.pid, "page")
    finally:
        page.terminate()
        page.wait(30)
    return rows


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


class Nothing(BaseHTTPRequestHandler):
    """A HighLevel in which nobody calls."""

    protocol_version = "HTTP/1.1"
    # One packet per answer: the second of two waits 40 ms until the first is acknowledged.
    wbufsize = -1
    body = b'{"callLogs": [], "total": 0}'
    asked = 0

    def do_GET(self) -> None:
        """No calls, after a while."""
        time.sleep(LATENCY)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def serve(ready: Any) -> None:
    """Answer until killed."""
    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    ready.send(server.server_port)
    server.serve_forever()


def idle(users: int, url: str) -> list[Row]:
    """The daily run of users without calls: one request each."""
    from voiceai_pipeline.calls.sync import WORKERS, Mode
    from voiceai_pipeline.connections import queries as connections
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.pipeline import open_pipeline

    os.environ["HIGHLEVEL_API_URL"] = url
    with open_pipeline(Settings.load(os.environ)) as pipeline:
        with pipeline.engine.begin() as db:
            chosen = [one.user.id for one in connections.all_connections(db)[:users]]
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = pipeline.sync.sync_days(
            [TODAY - timedelta(days=1)], user_ids=chosen, mode=Mode.REREAD
        )
        took, spent = time.perf_counter() - began, time.process_time() - cpu
    done = sum(outcome.state.value == "complete" for outcome in outcomes)
    bound = users * LATENCY / WORKERS
    return [
        (f"daily run of {done} idle users", took, "s", 1.5 * bound),
        ("  bound: one request each, by latency and workers", bound, "s", None),
        ("  our CPU", 1000 * spent / users, "ms a user", None),
        ("  memory", memory(), "MB", 500),
    ]


# The webserver ------------------------------------------------------------------------------------


def pages() -> list[Row]:
    """The partitions pages of a real webserver, cold and warm."""
    began = time.perf_counter()
    with Path(os.environ["VOICEAI_HOME"], "webserver.log").open("w") as log:
        program = Path(sys.executable).parent / "dagster-webserver"
        server = subprocess.Popen(
            [program, "-h", "127.0.0.1", "-p", str(PORT), "-w", str(PROJECT / "workspace.yaml")],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{PORT}/graphql"
    rows: list[Row] = []
    try:
        while not _loaded(url):
            time.sleep(0.2)
            if server.poll() is not None or time.perf_counter() - began > 180:
                return [("webserver does not start", float("nan"), "", None)]
        rows.append(("webserver and code location are up", time.perf_counter() - began, "s", None))
        for asset in ("call_logs", "user_tokens"):
            for how in ("first look", "again"):
                asked = time.perf_counter()
                answer = _ask(url, HEALTH, {"assetKey": {"path": [asset]}})
                took = time.perf_counter() - asked
                node = answer["data"]["assetNodeOrError"]
                keys = len(node["partitionKeysByDimension"][0]["partitionKeys"])
                label = f"partitions page of {asset}, {keys:,} partitions, {how}"
                rows.append((label, took, "s", 3))
        rows += _memory_of(server.pid)
    finally:
        server.terminate()
        server.wait(30)
    return rows


def _memory_of(pid: int, name: str = "webserver") -> list[Row]:
    program = psutil.Process(pid)
    family = [(name, program), *(("code server", p) for p in program.children())]
    return [(f"  memory of the {n}", p.memory_info().rss / 2**20, "MB", 500) for n, p in family]


def _loaded(url: str) -> bool:
    try:
        answer = _ask(
            url, "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        )
    except requests.RequestException:
        return False
    return bool(answer.get("data", {}).get("repositoriesOrError", {}).get("nodes"))


def _ask(url: str, query: str, variables: Any = None) -> Any:
    return requests.post(
        url, json={"query": query, "variables": variables or {}}, timeout=120
    ).json()


# The table ----------------------------------------------------------------------------------------


def show(rows: list[Row]) -> None:
    """Print what was measured beside its limit."""
    for what, value, unit, limit in rows:
        bound = "" if limit is None else f"<= {limit:g}"
        verdict = "" if limit is None else ("ok" if value <= limit else "TOO MUCH")
        sys.stdout.write(f"{what:62}{value:10.2f} {unit:10}{bound:>8}  {verdict}\n")
    sys.stdout.flush()


def main(users: int, idle_users: int) -> None:
    """Measure and print part by part."""
    with world(users):
        show(apart(load))
        with dg.DagsterInstance.get():
            pass  # creates Dagster's tables
        show(apart(ticks))
        record_history()
        show(pages())
        show(apart(report, 1))
        show(apart(report, 31))
        show(people())
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        highlevel = context.Process(target=serve, args=(sender,), daemon=True)
        highlevel.start()
        show(apart(idle, idle_users, f"http://127.0.0.1:{receiver.recv()}"))
        highlevel.kill()


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] + [10_000, 1_000][len(sys.argv) - 1 :]
    main(*sizes)

"""What 10,000 users and three years of days cost the orchestration, against its limits.

    python -m benchmarks.orchestration [USERS] [IDLE]

It starts a database server and a Dagster instance, filled by SQL: USERS (default 10,000) connected
users, a ledger of 30 days of all users and earlier days of every tenth, three years of daily
materializations, and a partition of ``user_tokens`` for each user. Every part runs in a process of
its own, as in production, so its memory is its own. Then IDLE users (default 1,000) are synced for
one day from a server that answers "no calls" after 50 ms. Seconds and MB depend on this machine;
the limits are the product's.
"""

import multiprocessing
import os
import sys
import time
from datetime import timedelta
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from benchmarks.idle_highlevel import LATENCY, serve
from benchmarks.measured import Row, apart, memory, show
from benchmarks.orchestration_pages import pages, user_lists
from benchmarks.orchestration_world import TODAY, record_history, world
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine

TICKS: Final = 12


def load() -> list[Row]:
    """Load the code location as a code server does: the package, and the snapshot it serves."""
    started = time.perf_counter()
    from dagster._core.remote_representation.external_data import RepositorySnap

    from voiceai_pipeline.definitions import defs

    RepositorySnap.from_def(defs.get_repository_def())
    return [
        ("code location loads", time.perf_counter() - started, "s", 10),
        ("  memory", memory(), "MB", 500),
    ]


def ticks(times: int = TICKS) -> list[Row]:
    """Tick the sensors while nothing is due, and while everything is due for all users."""
    from voiceai_pipeline.definitions import defs
    from voiceai_pipeline.defs import partitions

    repository = defs.get_repository_def()
    resources = repository.get_top_level_resources()
    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    rows: list[Row] = []

    def tick(name: str, times: int = times) -> Any:
        sensor = repository.get_sensor_def(name)
        took = []
        for _ in range(times):
            with dg.DagsterInstance.get() as instance:
                needed = {key: resources[key] for key in sensor.required_resource_keys}
                started = time.perf_counter()
                with dg.build_sensor_context(
                    instance=instance, resources=needed, definitions=defs
                ) as context:
                    data = sensor.evaluate_tick(context)
                took.append(time.perf_counter() - started)
        return sorted(took)[round(0.95 * (times - 1))], data

    def due(label: str, name: str, times: int = times) -> Any:
        p95, data = tick(name, times)
        asked = len(data.run_requests)
        rows.append((f"{name}, {label} ({asked} runs)", p95, "s p95", 5))
        return data

    first = due("all users unlisted", "new_users", 1)
    for request in first.dynamic_partitions_requests:
        started = time.perf_counter()
        with dg.DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(partitions.USERS, request.partition_keys)
        rows.append(("  the daemon adds their partitions", time.perf_counter() - started, "s", 50))
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
        due("all users due", name)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE sync_ledger SET state = 'waiting' WHERE state = 'failed'"))
    due("all users reconnected", "new_users")
    with engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET refresh_at = now() + interval '19 hours'"))
        db.execute(sa.text("UPDATE sync_ledger SET state = 'complete' WHERE state = 'waiting'"))
        db.execute(sa.text("TRUNCATE connection_alerts"))
    rows.append(("  memory of all sensors", memory(), "MB", 500))
    return rows


def report(days: int) -> list[Row]:
    """Read what a run of ``days`` days reads from the ledger at its end, and compute what the UI
    shows of it."""
    from voiceai_pipeline.calls.queries import Talk
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.defs import numbers
    from voiceai_pipeline.pipeline import open_pipeline

    settings = Settings.load(os.environ)
    with open_pipeline(settings) as pipeline:
        before = memory()
        started = time.perf_counter()
        reports = pipeline.sync.report([TODAY - timedelta(days=n) for n in range(1, days + 1)])
        took = time.perf_counter() - started
        started = time.perf_counter()
        for one in reports:
            numbers.of_calls(one, Talk(), settings.timezone)
            numbers.of_status(one, settings.page, Talk(), is_open=False)
        shown = time.perf_counter() - started
    return [
        (f"Sync.report, {days} days", took, "s", None),
        (f"  what the UI is shown of {days} days", shown, "s", None),
        ("  memory on top", memory() - before, "MB", None),
        ("  memory", memory(), "MB", 500),
    ]


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
        started, cpu = time.perf_counter(), time.process_time()
        outcomes = pipeline.sync.sync_days(
            [TODAY - timedelta(days=1)], user_ids=chosen, mode=Mode.REREAD
        )
        took, spent = time.perf_counter() - started, time.process_time() - cpu
    done = sum(outcome.state.value == "complete" for outcome in outcomes)
    bound = users * LATENCY / WORKERS
    return [
        (f"daily run of {done} idle users", took, "s", 1.5 * bound),
        ("  bound: one request each, by latency and workers", bound, "s", None),
        ("  our CPU", 1000 * spent / users, "ms a user", None),
        ("  memory", memory(), "MB", 500),
    ]


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
        show(user_lists())
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        highlevel = context.Process(target=serve, args=(sender,), daemon=True)
        highlevel.start()
        show(apart(idle, idle_users, f"http://127.0.0.1:{receiver.recv()}"))
        highlevel.kill()


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] + [10_000, 1_000][len(sys.argv) - 1 :]
    main(*sizes)

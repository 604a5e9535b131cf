"""How much Dagster's own database grows by a run of each kind, and in a day.

    python benchmarks/dagster_growth.py [USERS]

It starts a database server, a sandbox with USERS users (default 100) and a Dagster instance. Every
kind of run is executed twice in this process. Measured is what the second one left in the tables,
plus LAUNCHING for the way from the queue to a process. Bytes are those of the rows as PostgreSQL
stores them; indexes and half-empty pages take more, by the ratio printed last.
"""

import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import dagster as dg
import requests
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    DemoUser,
    make_location,
)
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World

TABLES = ("event_logs", "asset_check_executions", "runs", "run_tags")
LAUNCHING = (8, 5_000)
"""Rows and bytes that launching a run adds: `purge_old_runs` left 19 rows (17 KB) when a daemon
launched it, and 11 rows (12 KB) in a process that was running already."""


@contextmanager
def product(users: int) -> Iterator[tuple[Pipeline, dg.DagsterInstance, sa.Engine]]:
    """All parts, with ``users`` connected users who have one location each."""
    locations = [
        make_location(f"Business {number}", number, "shop", "UTC", 12) for number in range(users)
    ]
    cast = tuple(
        DemoUser(str(uuid4()), "A", f"B{n}", location.name, location.id, location.company_id)
        for n, location in enumerate(locations)
    )
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = stack.enter_context(EmbeddedPostgres.hold(home, durable=False))
        server.create_database("voiceai")
        server.create_database("dagster")
        world = World(users=cast, locations=tuple(locations))
        sandbox = stack.enter_context(running(world, limits=False))
        os.environ.update(
            VOICEAI_HOME=str(home),
            VOICEAI_DATABASE_URL=server.url("voiceai"),
            VOICEAI_TOKEN_KEYS="bench:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
            DAGSTER_POSTGRES_URL=server.url("dagster", driver="psycopg2"),
            HIGHLEVEL_CLIENT_ID=SANDBOX_CLIENT_ID,
            HIGHLEVEL_CLIENT_SECRET=SANDBOX_CLIENT_SECRET,
            HIGHLEVEL_AUTH_URL=f"{sandbox.url}/v2/oauth/chooselocation",
            HIGHLEVEL_TOKEN_URL=f"{sandbox.url}/oauth/token",
            HIGHLEVEL_API_URL=sandbox.url,
        )
        pipeline = stack.enter_context(open_pipeline(Settings.load(os.environ)))
        migrate.upgrade(pipeline.engine)
        with pipeline.engine.begin() as db:
            for user in cast:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
        with requests.Session() as browser:
            for user in cast:
                callback = authorize(
                    browser, pipeline.client.authorize_url("state"), user.installs_on
                )
                code = Secret(parse_qs(urlsplit(callback).query)["code"][0])
                pipeline.consent.connect(UUID(user.id), code)
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(PROJECT)))
        tables = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
        stack.callback(tables.dispose)
        yield pipeline, instance, tables


def measure(tables: sa.Engine, run_id: str) -> tuple[int, int]:
    """Rows and bytes of a run in all tables."""
    rows = size = 0
    with tables.begin() as db:
        for table in TABLES:
            query = f"SELECT count(*), coalesce(sum(pg_column_size(t.*)), 0) FROM {table} t"  # noqa: S608
            found = db.execute(sa.text(f"{query} WHERE run_id = :run"), {"run": run_id}).one()
            rows, size = rows + found[0], size + int(found[1])
    return rows, size


def main(users: int) -> None:
    """Print the table."""
    from voiceai_pipeline.definitions import defs
    from voiceai_pipeline.defs import partitions

    logging.disable(logging.CRITICAL)
    today = datetime.now(UTC).date()
    # A token is refreshed about every 22 hours; the sensor requests a run every 10 minutes at most.
    due_tokens = users * 24 / 22
    refreshes = 144 * (1 - math.exp(-due_tokens / 144))
    with product(users) as (pipeline, instance, tables):
        with pipeline.engine.begin() as db:
            ids = [str(one.user.id) for one in connections.all_connections(db)]

        def run(job: str, **options: Any) -> str:
            quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            options["run_config"] = {**quiet, **options.get("run_config", {})}
            result = defs.resolve_job_def(job).execute_in_process(instance=instance, **options)
            return result.run_id

        def sync(first: date, last: date, *, reread: bool) -> str:
            return run(
                "sync_calls",
                tags=partitions.range_tags(first, last),
                run_config={"ops": {"call_logs": {"config": {"reread": reread}}}},
            )

        def refresh(number: int) -> str:
            config = {"user_ids": ids[:number]}
            return run(
                "refresh_tokens",
                run_config={"ops": {"refresh_due_tokens": {"config": config}}},
            )

        yesterday, first = today - timedelta(days=1), today - timedelta(days=4)
        kinds: list[tuple[str, float, Callable[[], str]]] = [
            ("sync_calls, four days", 1, lambda: sync(first, yesterday, reread=True)),
            ("sync_calls, today", 12, lambda: sync(today, today, reread=False)),
            (
                f"refresh_tokens, {due_tokens / refreshes:.1f} users",
                refreshes,
                lambda: refresh(round(due_tokens / refreshes)),
            ),
            ("inspect_connections, all", 1, lambda: run("inspect_connections")),
            ("update_directory", 1, lambda: run("update_directory")),
            ("purge_old_runs", 1, lambda: run("purge_old_runs")),
        ]
        total_rows = total_bytes = 0.0
        sys.stdout.write(f"{'run':32}{'a day':>8}{'rows':>8}{'KB':>8}{'KB a day':>10}\n")
        for name, per_day, kind in kinds:
            kind()
            rows, size = (a + b for a, b in zip(measure(tables, kind()), LAUNCHING, strict=True))
            total_rows += per_day * rows
            total_bytes += per_day * size
            line = f"{name:32}{per_day:8.0f}{rows:8}{size / 1e3:8.0f}{per_day * size / 1e3:10.0f}"
            sys.stdout.write(f"{line}\n")
        ratio = overhead(tables)
        per_day = total_bytes * ratio
        sys.stdout.write(
            f"a day: {total_rows:,.0f} rows, {per_day / 1e6:.1f} MB with indexes (x {ratio:.1f}); "
            f"90 days: {90 * per_day / 1e6:,.0f} MB\n"
        )


def overhead(tables: sa.Engine) -> float:
    """How many bytes the tables take on disk, including indexes, per byte of their rows."""
    with tables.begin() as db:
        disk = stored = 0
        for table in TABLES:
            db.execute(sa.text(f"ANALYZE {table}"))
            query = (
                f"SELECT pg_total_relation_size('{table}'), sum(pg_column_size(t.*)) FROM {table} t"  # noqa: S608
            )
            found = db.execute(sa.text(query)).one()
            disk, stored = disk + found[0], stored + int(found[1])
    return disk / stored


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)

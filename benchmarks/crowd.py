"""Many users or calls: what ticks, reports, pages, a night's planning and a day's marts take.

    python -m benchmarks.crowd [--users 100000] [--days 20] [--calls 1]

Every user has a location, a token, 30 complete days in the ledger and CALLS calls on each of the
last DAYS days, so the default is two million calls. How times grow with the calls that are stored
(REQUIREMENTS P8) shows in two runs with other DAYS. Each part runs in a process of its own and
prints its peak memory. No sync of a hundred thousand idle users is run: its time follows from the
CPU time of one idle user (``benchmarks.orchestration``) and the latency.
"""

import argparse
import multiprocessing
import os
import sys
import time
from datetime import timedelta
from itertools import islice
from typing import Any

import dagster as dg
import requests
import sqlalchemy as sa

from benchmarks.call_pages import median, serving
from benchmarks.figures import measured
from benchmarks.measured import Row, apart, show
from benchmarks.orchestration import report, ticks
from benchmarks.orchestration_pages import user_lists
from benchmarks.orchestration_world import FULL_DAYS, TODAY, world
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine

YESTERDAY = TODAY - timedelta(days=1)

_CALLS = """
INSERT INTO call_logs (location_id, call_id, agent_id, contact_id, from_number, started_at,
  duration_seconds, is_trial, is_agent_deleted, summary, transcript, executed_call_actions,
  extracted_data, raw, content_hash, first_seen_at, last_changed_at)
SELECT k.location_id, md5(k.location_id || ' ' || n || ' ' || :day), 'agent',
  'contact' || k.location_id, '+15550000000',
  CAST(:day AS timestamptz) + make_interval(secs => hashtext(k.location_id || n) & 65535),
  60, false, false, 'A caller asked a question.',
  repeat(E'bot:How can I help you today, please?\\nhuman:An appointment on Monday.\\n', 15),
  '[]'::jsonb, NULL, '{}'::jsonb, '', now(), now()
FROM api_keys k, generate_series(1, :calls) n
"""

_WORDS = (
    "INSERT INTO call_words (location_id, call_id, started_at, changed_at, words) "
    "SELECT location_id, call_id, started_at, last_changed_at, '' FROM call_logs"
)
"""Indexes all calls, without their words: nothing is searched for here."""

_PAGES = {
    "/": "",
    "/insights": "insights",
    "/calls": "calls",
    "/calls of one location": "calls?location=Loc00000000000000007",
    "/calls by duration": "calls?sort=duration",
    "/calls by first seen": "calls?sort=seen",
    "/calls changed since yesterday": f"calls?changed={YESTERDAY}",
    "/calls of all days": "calls?days=all",
    "/calls of all days of one location": "calls?days=all&location=Loc00000000000000007",
}


def fill_calls(days: int, calls: int) -> None:
    """Store ``calls`` calls of every user on each of the last ``days`` days."""
    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    for ago in range(1, days + 1):
        with engine.begin() as db:
            db.execute(sa.text(_CALLS), {"day": str(TODAY - timedelta(days=ago)), "calls": calls})
    with engine.begin() as db:
        db.exec_driver_sql(_WORDS)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as db:
        db.exec_driver_sql("VACUUM ANALYZE call_logs, call_words")
    engine.dispose()


def marts() -> list[Row]:
    """Build the marts of yesterday, for all locations."""
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.pipeline import open_pipeline

    with open_pipeline(Settings.load(os.environ)) as pipeline, measured() as figures:
        built = pipeline.marts.build([YESTERDAY])
    wrong = [*built.failures, *built.disagreements]
    if wrong:
        sys.stdout.write(f"{wrong[0]}\n")
    return [
        (f"marts of a day, {built.locations} locations", figures.seconds, "s", None),
        ("  of them wrong", len(wrong), "", 0),
        ("  memory", figures.peak_mb, "MB", 500),
    ]


def rereads() -> list[Row]:
    """What a re-read of yesterday asks the database for, before its request and after it."""
    from voiceai_pipeline.calls import call_store
    from voiceai_pipeline.calls.location_queue import Task
    from voiceai_pipeline.calls.read_ahead import ReadsAhead
    from voiceai_pipeline.calls.sync import WORKERS
    from voiceai_pipeline.connections import queries
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.database.shared_clock import SharedClock
    from voiceai_pipeline.pipeline import open_pipeline

    with open_pipeline(Settings.load(os.environ)) as pipeline:
        with pipeline.engine.begin() as db:
            all_connections = islice(queries.to_sync(db, None), 1_600)
            tasks = [Task(str(one.location_id), [one], [YESTERDAY]) for one in all_connections]
        clock = SharedClock(pipeline.engine, None)
        ahead = ReadsAhead(pipeline.engine, pipeline.tokens, clock, pipeline.zone)
        window = Window.of_day(YESTERDAY, pipeline.zone)
        with measured() as figures:
            for start in range(0, len(tasks), WORKERS):
                some = tasks[start : start + WORKERS]
                ahead.of(some)
                with pipeline.engine.begin() as db:
                    call_store.count(db, [(task.location_id, window) for task in some])
    return [("re-read of yesterday, a location", figures.seconds / len(tasks) * 1e3, "ms", None)]


def pages() -> list[Row]:
    """Pages over HTTP, with a warm cache."""
    with serving(os.environ) as (url, _), requests.Session() as session:
        return [(name, *median(session, f"{url}/{path}")) for name, path in _PAGES.items()]


def _plan(answer: Any) -> None:
    from voiceai_pipeline.calls.sync import Mode
    from voiceai_pipeline.core.settings import Settings
    from voiceai_pipeline.pipeline import open_pipeline

    os.environ.update(VOICEAI_HELPERS="1", HIGHLEVEL_API_URL="http://127.0.0.1:9")
    with open_pipeline(Settings.load(os.environ)) as pipeline:
        answer.send(None)
        days = [YESTERDAY - timedelta(days=ago) for ago in range(4)]
        pipeline.sync.sync_days(days, mode=Mode.REREAD, run_id="night")


def planning() -> list[Row]:
    """From the start of a night's run to its first request: until all its units are offered."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    run = multiprocessing.get_context("spawn").Process(target=_plan, args=(theirs,), daemon=True)
    run.start()
    ours.recv()
    started = time.perf_counter()
    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    offered = 0
    while not offered:
        time.sleep(0.05)
        with engine.begin() as db:
            offered = db.execute(sa.text("SELECT count(*) FROM work_units")).scalar_one()
    took = time.perf_counter() - started
    with open(f"/proc/{run.pid}/status") as status:  # noqa: PTH123 - not a file
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    run.kill()
    run.join()
    with engine.begin() as db:
        db.execute(sa.text("TRUNCATE work_units"))
    return [
        (f"a night's planning, {offered} locations, 4 days", took, "s", None),
        ("  memory", int(peak) / 1000, "MB", 200),
    ]


def main() -> None:
    """Fill, then measure and print part by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--calls", type=int, default=1, help="of a user on a day")
    args = parser.parse_args()
    started = time.perf_counter()
    with world(args.users, TODAY - timedelta(days=FULL_DAYS)):
        fill_calls(args.days, args.calls)
        show([("filling", time.perf_counter() - started, "s", None)])
        with dg.DagsterInstance.get():
            pass  # creates Dagster's tables
        show(apart(planning))
        show(apart(report, 1))
        show(apart(report, 4))
        show(apart(marts))
        show(apart(rereads))
        show(apart(pages))
        show(apart(ticks, 1))
        show(user_lists())


if __name__ == "__main__":
    main()

"""How long the marts of a million calls take to build, and how much memory.

    python benchmarks/marts.py [CALLS [LOCATIONS [DAYS]]]

It starts a database server with CALLS invented calls (default 1,000,000, transcripts of about 1 KB)
in LOCATIONS locations (default 100) over DAYS days (default 30). The build runs in a process of its
own, whose time and peak memory (RSS) are printed; then the time of the UI's queries of the marts.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import sqlalchemy as sa

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database import mart_tables, migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.marts import queries as mart_queries
from voiceai_pipeline.marts.build import Marts

LAST = date(2026, 10, 31)

_FILL = r"""
INSERT INTO call_logs (location_id, call_id, agent_id, contact_id, from_number, started_at,
  duration_seconds, is_trial, is_agent_deleted, summary, transcript, executed_call_actions,
  extracted_data, raw, content_hash, first_seen_at, last_changed_at)
SELECT 'Loc' || n % :locations, md5(n::text), 'agent' || n % 3, 'contact' || h % 50000,
  '+1555' || lpad((h % 50000)::text, 7, '0'),
  CAST(:first AS timestamptz) + make_interval(secs => h % (86400 * :days)),
  h % 600, h % 25 = 0, false, 'A caller asked a question.',
  repeat(E'bot:Hello, this is the virtual receptionist. How can I help you today, please?\n'
         'human:I would like to book an appointment on Monday at half past nine.\n', (h % 12)::int),
  CASE WHEN h % 2 = 0 THEN '[]'::jsonb ELSE jsonb_build_array(jsonb_build_object(
    'actionType', (ARRAY['CALL_TRANSFER','SMS','APPOINTMENT_BOOKING'])[1 + h % 3],
    'actionName', 'Do it', 'executedAt', '2026-10-01T10:00:05.000Z',
    'triggerReceivedAt', '2026-10-01T10:00:03.500Z')) END,
  CASE WHEN h % 3 = 0 THEN NULL ELSE '{"name": "Pat", "reason": "visit", "note": ""}'::jsonb END,
  '{}', '', now(), now()
FROM generate_series(CAST(:start AS bigint), CAST(:stop AS bigint)) AS n,
  LATERAL (SELECT abs(hashint8(n)::bigint) AS h) AS dice
"""

_LEDGER = """
INSERT INTO sync_ledger (user_id, location_id, day, state, read_until, finished_at)
SELECT u.id, u.business_name, d::date, 'complete', d + interval '1 day', d + interval '25 hours'
FROM users u, generate_series(CAST(:first AS timestamptz), CAST(:last AS timestamptz),
  interval '1 day') AS d
"""


def fill(engine: sa.Engine, calls: int, locations: int, days: int) -> None:
    first = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) - timedelta(days=days - 1)
    for start in range(0, calls, 100_000):
        with engine.begin() as db:
            db.execute(sa.text(_FILL), {
                "start": start, "stop": min(start + 100_000, calls) - 1, "locations": locations,
                "days": days, "first": first,
            })  # fmt: skip
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO users (id, business_name) SELECT gen_random_uuid(), 'Loc' || n "
                "FROM generate_series(0, :last) n"
            ),
            {"last": locations - 1},
        )
        last = first + timedelta(days=days + 1)
        db.execute(sa.text(_LEDGER), {"first": first - timedelta(days=15), "last": last})
        db.execute(
            sa.text(
                "INSERT INTO locations SELECT 'Loc' || n, 'Shop ' || n, (ARRAY["
                "'America/New_York','Europe/Berlin','Asia/Kolkata','UTC'])[1 + n % 4], NULL, "
                "now(), now() FROM generate_series(0, :last) n"
            ),
            {"last": locations - 1},
        )
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as db:
        db.exec_driver_sql("VACUUM ANALYZE")


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def server_seconds(home: Path) -> float:
    """CPU seconds of the server's processes so far."""
    pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    postmaster = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in (postmaster, *postmaster.children()))


def build(url: str, days: int) -> None:
    engine = open_engine(Secret(url))
    wanted = [LAST - timedelta(days=ago) for ago in range(days)]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    built = Marts(engine, ZoneInfo("UTC"), MetricRules()).build(wanted)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    tell(
        f"built {len(built.days)} days of {built.locations} locations in {seconds:.1f} s "
        f"({peak.ru_utime + peak.ru_stime:.1f} s of CPU here); peak RSS "
        f"{peak.ru_maxrss / unit:.0f} MB, {before / unit:.0f} MB of it before the first call; "
        f"disagreements: {len(built.disagreements)}"
    )


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    calls, locations, days = [*given, *(1_000_000, 100, 30)[len(given) :]]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        EmbeddedPostgres.hold(Path(home), durable=False) as server,
    ):
        server.create_database("marts")
        url = server.url("marts")
        engine = open_engine(Secret(url))
        migrate.upgrade(engine)
        started = time.perf_counter()
        fill(engine, calls, locations, days)
        tell(f"{calls:,} calls in {locations} locations over {days} days; filled in "
              f"{time.perf_counter() - started:.0f} s")  # fmt: skip
        process = multiprocessing.get_context("spawn").Process(target=build, args=(url, days))
        before = server_seconds(Path(home))
        process.start()
        process.join()
        tell(f"{server_seconds(Path(home)) - before:.1f} s of CPU in the server")
        started = time.perf_counter()
        with engine.begin() as db:
            for table in mart_tables.MARTS:
                names = [column.name for column in table.columns]
                rows = mart_queries.read_rows(db, table, LAST - timedelta(days=27), LAST, names)
                tell(f"{table.name}: 28 days are {len(rows):,} rows, read in "
                      f"{time.perf_counter() - started:.2f} s")  # fmt: skip
                started = time.perf_counter()
        engine.dispose()


if __name__ == "__main__":
    main()

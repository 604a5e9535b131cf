"""What deleting calls that are no longer kept costs: time, size, and what a reader feels of it.

    python -m benchmarks.old_calls [CALLS [LOCATIONS [DAYS]]]

A server of its own with CALLS invented calls (default 300,000, transcripts of about 1 KB) in
LOCATIONS locations (default 100) over DAYS days (default 420), their words and facts: about 2 GB of
disk, deleted at the end. A limit of 60 days is set on them, while a page of calls is asked for over
HTTP. Then months pass: a month of new calls comes, the oldest goes, and the tables are measured.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import requests
import sqlalchemy as sa

from benchmarks.call_pages import add_calls, fill, index, pages
from voiceai_pipeline.calls.deleted_months import OldCalls
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres

KEEP_DAYS: Final = 60
MONTHS: Final = 6

_FACTS: Final = """
INSERT INTO call_facts (location_id, call_id, started_at, agent_id, caller, is_counted,
  has_transcript, is_engaged, is_goal_reached, is_transferred, is_data_captured, outcome,
  rules_version, row_version)
SELECT location_id, call_id, started_at, agent_id, hashtext(contact_id), true, true, true, false,
  false, false, 'answered', '', 0 FROM call_logs ON CONFLICT DO NOTHING
"""
_SIZES: Final = """
SELECT relname, pg_total_relation_size(oid) / 1048576.0 FROM pg_class
WHERE relname IN ('call_logs', 'call_words', 'call_facts') ORDER BY 1
"""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def derive(engine: sa.Engine) -> None:
    index(engine)
    with engine.begin() as db:
        db.execute(sa.text(_FACTS))


def sizes(engine: sa.Engine) -> str:
    with engine.begin() as db:
        found = [(name, float(size)) for name, size in db.execute(sa.text(_SIZES))]
        calls = db.scalar(sa.text("SELECT count(*) FROM call_logs"))
    return f"{calls:>9,} calls  " + "  ".join(f"{name} {size:,.0f} MB" for name, size in found)


class Reader:
    """Asks for a page of calls again and again."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/calls?days=7d&location=LocBenchmark00000007"
        self._stop = threading.Event()
        self.taken: list[float] = []

    def read(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                started = time.perf_counter()
                session.get(self._url, timeout=60).raise_for_status()
                self.taken.append((time.perf_counter() - started) * 1000)

    @contextmanager
    def reading(self) -> Iterator[None]:
        thread = threading.Thread(target=self.read)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def __str__(self) -> str:
        return (
            f"median {statistics.median(self.taken):.0f} ms, longest {max(self.taken):.0f} ms, "
            f"{len(self.taken)} pages"
        )


def delete(engine: sa.Engine, now: datetime) -> str:
    """Delete what is too old at ``now``; what it took."""
    last = started = time.perf_counter()
    batches: list[float] = []

    def show(_month: date, _calls: int) -> None:
        nonlocal last
        batches.append(time.perf_counter() - last)
        last = time.perf_counter()

    old = OldCalls(engine, ZoneInfo("UTC"), KEEP_DAYS, show=show, now=lambda: now)
    found = old.delete(lambda _first, _before: True)
    took = time.perf_counter() - started
    return (
        f"{found.calls:,} calls of {len(found.months)} months in {took:.1f} s, "
        f"{found.calls / took:,.0f} a second; a batch: median {statistics.median(batches):.2f} s, "
        f"longest {max(batches):.2f} s"
    )


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    calls, locations, days = [*given, *(300_000, 100, 420)[len(given) :]]
    last = datetime.now(UTC)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        EmbeddedPostgres.hold(Path(home)) as server,
    ):
        server.create_database("calls")
        with pages(Path(home), server.url("calls")) as (url, engine):
            migrate.upgrade(engine)
            fill(engine, calls, locations, days, last)
            derive(engine)
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as db:
                db.exec_driver_sql("VACUUM ANALYZE")
            say(f"before:   {sizes(engine)}")
            idle, busy = Reader(url), Reader(url)
            with idle.reading():
                time.sleep(10)
            with busy.reading():
                say(f"deleted:  {delete(engine, last)}")
            say(f"a reader alone:     {idle}\na reader meanwhile: {busy}")
            say(f"after:    {sizes(engine)}")
            month = calls * 31 // days
            for number in range(1, MONTHS + 1):
                numbers = range(calls + (number - 1) * month, calls + number * month)
                add_calls(engine, numbers, calls, locations, days, last)
                derive(engine)
                taken = delete(engine, last + number * timedelta(days=31))
                say(f"month {number}:  {sizes(engine)}\n          {taken}")


if __name__ == "__main__":
    main()

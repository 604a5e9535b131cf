"""How long the pages of calls take with a million calls.

    python -m benchmarks.call_pages [CALLS [LOCATIONS [DAYS]]]

It starts a database server with CALLS invented calls (default 1,000,000, transcripts of about 1 KB)
in LOCATIONS locations (default 100) over DAYS days (default 365). That takes about 4 GB of disk,
deleted at the end. The pages are requested over HTTP, as by a browser, with a warm database cache.
It prints the median of each page beside its limit, and the cost of indexing the words.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import requests
import sqlalchemy as sa

from benchmarks.measured import Row, show
from voiceai_pipeline.calls import call_words
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline.web.app import create_app
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline.web.site import open_site

LIMIT: Final = 300.0
"""Milliseconds that a page may take at the median (REQUIREMENTS C10)."""

ROUNDS: Final = 9

PAGES: Final = {
    "the list": "",
    "today": "days=today",
    "one location": "location=LocBenchmark00000007",
    "an agent": "agent=agent7-1",
    "an action": "action=SMS&days=7d",
    "an action, 30 days": "action=SMS",
    "an outcome, 7 days": "outcome=goal&days=7d",
    "an outcome": "outcome=goal",
    "a rare outcome": "outcome=unclear",
    "not final yet": "outcome=not_final",
    "engaged calls": "has=engaged",
    "test calls": "show=test",
    "sorted by duration": "sort=duration",
    "sorted by first seen": "sort=seen",
    "changed since": "changed={week}",
    "all days": "days=all",
    "all days, one location by duration": "days=all&location=LocBenchmark00000007&sort=duration",
    "a rare word, all days": "days=all&q=order{rare}",
    "a common word": "q=appointment",
    "a common word, all days": "days=all&q=appointment",
    "two words": "q=invoice refund",
    "a number": "days=all&q=+15550012345",
}

_FILL = r"""
INSERT INTO call_logs (location_id, call_id, agent_id, contact_id, from_number, started_at,
  duration_seconds, is_trial, is_agent_deleted, summary, transcript, executed_call_actions,
  extracted_data, raw, content_hash, first_seen_at, last_changed_at)
SELECT 'LocBenchmark' || lpad((n % :locations)::text, 8, '0'), left(md5(n::text), 24),
  'agent' || n % :locations || '-' || n % 3, 'contact' || h % 50000,
  '+1555' || lpad((h % 50000)::text, 7, '0'), start, h % 600, h % 25 = 0, false,
  'A caller asked. ' || s[1 + h % 5000] || ' Order' || n || '.',
  'bot:Hello, how can I help you today?' || E'\nhuman:' || s[1 + h * 7 % 5000]
    || E'\nbot:' || s[1 + h * 11 % 5000] || E'\nhuman:' || s[1 + h * 13 % 5000]
    || E'\nbot:' || s[1 + h * 17 % 5000] || E'\nhuman:' || s[1 + h * 19 % 5000],
  CASE WHEN h % 2 = 0 THEN '[]'::jsonb ELSE jsonb_build_array(jsonb_build_object(
    'actionType', (ARRAY['CALL_TRANSFER','SMS','APPOINTMENT_BOOKING'])[1 + h % 3])) END,
  CASE WHEN h % 3 = 0 THEN NULL ELSE '{"name": "Pat", "reason": "visit", "note": ""}'::jsonb END,
  '{}', '', start + interval '3 minutes', start + interval '3 minutes'
FROM generate_series(CAST(:start AS bigint), CAST(:stop AS bigint)) AS n,
  LATERAL (SELECT abs(hashint8(n)::bigint) AS h) AS dice,
  LATERAL (SELECT CAST(:last AS timestamptz)
    - make_interval(secs => (:calls - n) * 86400.0 * :days / :calls + h % 60) AS start) AS t,
  (SELECT CAST(:sentences AS text[]) AS s) AS x
"""

_FACTS = """
INSERT INTO call_facts (location_id, call_id, started_at, agent_id, duration_seconds, caller,
  is_counted, has_transcript, caller_turns, is_engaged, is_goal_reached, is_transferred,
  is_data_captured, outcome, rules_version, row_version, timezone, local_day, local_hour)
SELECT c.location_id, call_id, started_at, agent_id, duration_seconds,
  hashtextextended(contact_id, 0), NOT is_trial, true, 3, duration_seconds >= 10, kind = 'goal',
  kind = 'transferred', extracted_data IS NOT NULL,
  CASE WHEN duration_seconds < 2 THEN 'unclear' WHEN duration_seconds < 10 THEN 'no_conversation'
  ELSE kind END, '', 0, l.timezone, (started_at AT TIME ZONE l.timezone)::date,
  extract(hour FROM started_at AT TIME ZONE l.timezone)
FROM call_logs c JOIN locations l USING (location_id), LATERAL (SELECT CASE
  executed_call_actions #>> '{0,actionType}' WHEN 'APPOINTMENT_BOOKING' THEN 'goal'
  WHEN 'CALL_TRANSFER' THEN 'transferred' WHEN 'SMS' THEN 'follow_up'
  ELSE 'answered' END AS kind) AS k
"""

_AROUND = (
    "INSERT INTO locations SELECT 'LocBenchmark' || lpad(n::text, 8, '0'), 'Shop ' || n, (ARRAY["
    "'America/New_York','Europe/Berlin','Asia/Kolkata','UTC'])[1 + n % 4], NULL, now(), now() "
    "FROM generate_series(0, :locations - 1) n",
    "INSERT INTO users (id, business_name) SELECT gen_random_uuid(), 'LocBenchmark' || "
    "lpad(n::text, 8, '0') FROM generate_series(0, :locations - 1) n",
    "INSERT INTO voiceai_agents SELECT 'LocBenchmark' || lpad(n::text, 8, '0'), "
    "'agent' || n || '-' || k, 'Agent ' || k, NULL, '{}', now(), now(), NULL "
    "FROM generate_series(0, :locations - 1) n, generate_series(0, 2) k",
    "INSERT INTO sync_ledger (user_id, location_id, day, state, read_until) "
    "SELECT u.id, u.business_name, d::date, 'complete', d + interval '1 day' FROM users u, "
    "generate_series(CAST(:first AS timestamptz), CAST(:last AS timestamptz), '1 day') AS d",
)


def sentences() -> list[str]:
    """What callers say: a few words are frequent, most are rare."""
    dice = random.Random(1)  # noqa: S311 - invented text
    syllables = [one + other for one in "bcdfghklmnprstw" for other in "aeiou"]
    words = ["".join(dice.choices(syllables, k=2 + n % 3)) for n in range(8_000)]
    words[40:45] = ["appointment", "monday", "refund", "delivery", "invoice"]
    weights = [1 / (n + 1) for n in range(len(words))]
    return [" ".join(dice.choices(words, weights, k=22)).capitalize() for _ in range(5_000)]


def add_calls(
    engine: sa.Engine, numbers: range, calls: int, locations: int, days: int, last: datetime
) -> None:
    """Store the calls of these numbers: of ``calls``, evenly over ``days`` up to ``last``. A higher
    number is a later call."""
    said = sentences()
    for start in range(numbers.start, numbers.stop, 50_000):
        with engine.begin() as db:
            db.execute(sa.text(_FILL), {
                "start": start, "stop": min(start + 50_000, numbers.stop) - 1,
                "locations": locations, "days": days, "calls": calls, "last": last,
                "sentences": said,
            })  # fmt: skip


def fill(engine: sa.Engine, calls: int, locations: int, days: int, last: datetime) -> None:
    add_calls(engine, range(calls), calls, locations, days, last)
    values = {"locations": locations, "first": last - timedelta(days=days), "last": last}
    with engine.begin() as db:
        for statement in _AROUND:
            names = [name for name in values if f":{name}" in statement]
            db.execute(sa.text(statement), {name: values[name] for name in names})
        db.execute(sa.text(_FACTS))


def index(engine: sa.Engine) -> float:
    """Index every call, as the web process does; returns the seconds it took."""
    started = time.perf_counter()
    more = True
    while more:
        with engine.begin() as db:
            more = call_words.keep(db) > 0
    return time.perf_counter() - started


def pages(home: Path, database: str) -> AbstractContextManager[tuple[str, sa.Engine]]:
    return serving(
        {
            "VOICEAI_HOME": str(home),
            "VOICEAI_DATABASE_URL": database,
            "VOICEAI_TOKEN_KEYS": "k1:" + "A" * 43 + "=",
        }
    )


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[tuple[str, sa.Engine]]:
    """The pages of an installation: their address, and its database."""
    listener = listen("127.0.0.1", 0)
    settings = Settings.load({**environment, "VOICEAI_PAGE_PORT": str(listener.getsockname()[1])})
    with (
        open_pipeline(settings) as pipeline,
        serve_in_thread(create_app(open_site(settings, pipeline)), listener, "page") as url,
    ):
        yield url, pipeline.engine


def measure(url: str, calls: int, last: datetime) -> list[Row]:
    rows: list[Row] = []
    with requests.Session() as session:
        for name, query in PAGES.items():
            week = (last - timedelta(days=7)).date()
            asked = query.format(rare=calls // 3, week=week).replace("+", "%2B")
            rows.append((name, *median(session, f"{url}/calls?{asked}")))
            page = session.get(f"{url}/calls?{asked}", timeout=60).text
            if name == "all days":
                following = page.partition('rel="next" href="')[2].partition('"')[0]
                rows.append(("its next page", *median(session, url + _plain(following))))
                one = page.partition('class="open" href="')[2].partition('"')[0]
                rows.append(("one call", *median(session, url + _plain(one))))
    return rows


def _plain(address: str) -> str:
    return address.replace("&amp;", "&")


def median(session: requests.Session, address: str) -> tuple[float, str, float]:
    """Milliseconds of a page, their unit and their limit."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        answer = session.get(address, timeout=60)
        taken.append((time.perf_counter() - started) * 1000)
        if answer.status_code != 200:
            return float("nan"), f"HTTP {answer.status_code}", LIMIT
    return statistics.median(taken), "ms", LIMIT


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    calls, locations, days = [*given, *(1_000_000, 100, 365)[len(given) :]]
    last = datetime.now(UTC)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        EmbeddedPostgres.hold(Path(home), durable=False) as server,
    ):
        server.create_database("calls")
        with pages(Path(home), server.url("calls")) as (url, engine):
            migrate.upgrade(engine)
            started = time.perf_counter()
            fill(engine, calls, locations, days, last)
            filled = time.perf_counter() - started
            rows: list[Row] = [("filling, a call", filled / calls * 1e6, "us", None)]
            rows.append(("indexing its words, a call", index(engine) / calls * 1e6, "us", None))
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as db:
                db.exec_driver_sql("VACUUM ANALYZE")
            show(rows + measure(url, calls, last))


if __name__ == "__main__":
    main()

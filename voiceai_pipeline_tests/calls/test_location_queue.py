"""Two runs at once over the same users: real processes that share nothing but PostgreSQL and the
HighLevel they ask.
"""

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from multiprocessing.queues import Queue
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import leases
from voiceai_pipeline.calls.location_queue import Task, Terms
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.sync_processes import processes
from voiceai_pipeline_tests.support.synced_calls import UTC_ZONE, digest, location_of

DAYS = [date(2025, 11, 18), date(2025, 11, 19), date(2025, 11, 20)]

QUICK = Terms(
    lease=timedelta(seconds=3),
    silence=timedelta(seconds=20),
    patience=timedelta(seconds=40),
    poll=0.1,
)
"""A minute's waiting in seconds."""

SINCE = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

DAY = date(2026, 11, 18)

MINUTE = timedelta(minutes=1)

Results = list[tuple[str, str, date, str]]


def sync_in_a_process(
    database: str,
    url: str,
    mode: Mode,
    days: list[date],
    terms: Terms,
    name: str,
    answers: "Queue[Any]",
) -> None:
    engine = open_engine(Secret(database))
    with HighLevelClient(highlevel_settings(url)) as client:
        sync = Sync(engine, Tokens(engine, TokenVault(KEYS), client), client, UTC_ZONE, terms=terms)
        results = sync.sync_days(days, mode=mode, run_id=name)
    engine.dispose()
    answers.put((name, [(r.user.name, r.state.value, r.day, r.message) for r in results]))


@dataclass
class Runs:
    """Real processes over one database and one sandbox."""

    database: Secret
    sandbox: RunningSandbox
    engine: sa.Engine
    answers: "Queue[Any]" = field(default_factory=lambda: processes.Queue())
    started: list[ForkServerProcess] = field(default_factory=list)

    def start(self, name: str, mode: Mode = Mode.RESUME, terms: Terms = QUICK) -> int:
        """Start a sync in a process of its own; returns the process id."""
        process = processes.Process(
            target=sync_in_a_process,
            args=(self.database.reveal(), self.sandbox.url, mode, DAYS, terms, name, self.answers),
        )
        process.start()
        self.started.append(process)
        assert process.pid is not None
        return process.pid

    def results(self) -> dict[str, Results]:
        """What the next run to finish reports, by its name."""
        name, results = self.answers.get(timeout=60)
        return {name: results}

    def holders(self) -> dict[str, str | None]:
        with self.engine.begin() as db:
            query = sa.text("SELECT location_id, run_id FROM location_leases")
            return {row.location_id: row.run_id for row in db.execute(query)}

    def until(self, happens: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not happens():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def asked(self) -> list[tuple[str | None, str, str]]:
        """Location and bounds of every request for calls."""
        return [
            (r.location_id, r.query["startDate"], r.query["endDate"])
            for r in self.sandbox.requests
            if r.path == CALL_LOGS
        ]

    def statuses(self) -> Counter[int]:
        return Counter(r.status for r in self.sandbox.requests)

    def end(self) -> None:
        for process in self.started:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
            process.join(120)
            process.close()


@contextmanager
def connected(database: Secret, engine: sa.Engine, *names: str) -> Iterator[Runs]:
    """A sandbox with its limits on, and these demo users connected to it."""
    with running(World()) as sandbox:
        with HighLevelClient(highlevel_settings(sandbox.url)) as client:
            consent = Consent(engine, TokenVault(KEYS), client)
            connector = Connector(engine, client, consent)
            for name in names:
                connector(name)
            connector.browser.close()
        sandbox.world.clear_requests()
        runs = Runs(database, sandbox, engine)
        yield runs
        runs.end()


@pytest.fixture
def runs(database: Secret, engine: sa.Engine) -> Iterator[Runs]:
    """One location, in which every page takes a while."""
    with connected(database, engine, "Harbor Dental") as runs:
        runs.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.2))
        yield runs


CONNECTED = [user.business_name for user in DEMO_USERS if user.role != "never_connected"]


def ledger(engine: sa.Engine) -> list[tuple[Any, ...]]:
    """The ledger without times, runs and what depends on which run was first."""
    query = (
        "SELECT user_id, location_id, day, state, api_total, stored FROM sync_ledger ORDER BY 1,2,3"
    )
    with engine.connect() as db:
        return [tuple(row) for row in db.execute(sa.text(query))]


def test_two_concurrent_runs_read_every_window_once_and_leave_the_same_tables(
    database: Secret, engine: sa.Engine
) -> None:
    with connected(database, engine, *CONNECTED) as runs:
        runs.start("alone")
        (alone,) = runs.results().values()
        expected, windows = (digest(engine), ledger(engine)), Counter(runs.asked())
        with engine.begin() as db:
            db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))
        runs.sandbox.world.clear_requests()
        # Both at the same moment, and slow enough to meet everywhere.
        runs.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.05))

        runs.start("backfill")
        runs.start("schedule")
        both = runs.results() | runs.results()

        assert (digest(engine), ledger(engine)) == expected
        assert Counter(runs.asked()) == windows
        assert set(runs.statuses()) == {200}
        assert runs.holders() == {}
    everything = [row[:3] for row in alone]
    first, second = sorted(both.values(), key=len, reverse=True)
    assert [row[:3] for row in first] == everything
    # The later run does not report what was complete when it was requested.
    assert {row[:3] for row in second} <= set(everything)


def test_two_concurrent_rereads_run_one_after_the_other(
    runs: Runs,
) -> None:
    """A read that started before a re-read was requested does not satisfy it."""
    runs.start("first")
    runs.results()
    once = len(runs.asked())
    runs.sandbox.world.clear_requests()
    # Long enough for two processes to start in, also on a busy machine.
    runs.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=1))
    runs.start("second", Mode.REREAD)
    runs.until(runs.asked)
    runs.start("third", Mode.REREAD)
    runs.start("fourth", Mode.REREAD)
    ended = runs.results() | runs.results() | runs.results()
    assert ended.keys() == {"second", "third", "fourth"}
    # The third and fourth were requested after the second started: one read serves both.
    assert len(runs.asked()) == 2 * once
    starts = [int(start) for _, start, _ in runs.asked()]
    assert starts == sorted(starts[:once]) * 2  # page by page, one run and then the other


def test_a_killed_runs_location_is_taken_over_when_its_lease_expires(runs: Runs) -> None:
    victim = runs.start("killed")
    runs.until(runs.asked)
    os.kill(victim, signal.SIGKILL)
    runs.start("heir")
    assert runs.holders() == {location_of("Harbor Dental"): "killed"}
    ((name, results),) = runs.results().items()
    assert name == "heir"
    assert {state for _, state, _, _ in results} == {"complete"}


def test_a_suspended_run_stops_once_another_run_may_be_reading(runs: Runs) -> None:
    sleeper = runs.start("sleeper")
    runs.until(runs.asked)
    os.kill(sleeper, signal.SIGSTOP)
    before = len(runs.asked())
    runs.start("heir")
    assert runs.results().keys() == {"heir"}
    asked = len(runs.asked())
    assert asked > before
    os.kill(sleeper, signal.SIGCONT)
    ((name, results),) = runs.results().items()
    assert name == "sleeper"
    # It reports what the other has read, and asks for nothing more than what it had begun.
    assert {state for _, state, _, _ in results} == {"complete"}
    assert len(runs.asked()) - asked <= 1


def test_a_run_that_hangs_in_a_request_loses_its_lease(runs: Runs) -> None:
    runs.sandbox.world.add_fault(Fault("stall", path=CALL_LOGS, seconds=25, times=1))
    runs.start("hung", terms=replace(QUICK, silence=timedelta(seconds=1)))
    runs.until(lambda: runs.holders() == {location_of("Harbor Dental"): "hung"})
    runs.start("heir")
    ((name, results),) = runs.results().items()
    assert name == "heir"
    assert {state for _, state, _, _ in results} == {"complete"}


def test_a_location_that_another_run_holds_for_too_long_is_reported_with_that_run(
    database: Secret, engine: sa.Engine
) -> None:
    with connected(database, engine, "Harbor Dental", "Pine Realty") as runs:
        with engine.begin() as db:
            kept = [location_of("Harbor Dental")]
            leases.acquire(db, kept, uuid4(), "endless", timedelta(hours=1))
        with HighLevelClient(highlevel_settings(runs.sandbox.url)) as client:
            tokens = Tokens(engine, TokenVault(KEYS), client)
            terms = Terms(patience=timedelta(seconds=0.5), poll=0.1)
            sync = Sync(engine, tokens, client, UTC_ZONE, terms=terms)
            results = sync.sync_days(DAYS)
            (report, *_) = sync.report(DAYS)
        assert {location for location, _, _ in runs.asked()} == {location_of("Pine Realty")}
    by_user: defaultdict[str, list[DayResult]] = defaultdict(list)
    for result in results:
        by_user[result.user.name].append(result)
    assert {r.state for r in by_user["Pine Realty"]} == {DayState.COMPLETE}
    (failure,) = {(r.state, r.failure, r.message) for r in by_user["Harbor Dental"]}
    assert failure[:2] == (DayState.FAILED, FailureClass.BUSY)
    assert "Another run is reading this location (run endless, since " in failure[2]
    assert [row.user.name for row in report.failed] == ["Harbor Dental"]


def test_a_database_restart_costs_the_reads_in_progress_and_fails_no_user(
    database: Secret, engine: sa.Engine, postgres: EmbeddedPostgres
) -> None:
    with connected(database, engine, *CONNECTED[:3]) as runs:
        runs.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.1))
        runs.start("steadfast")
        runs.until(runs.asked)
        name = str(sa.make_url(database.reveal()).database)
        admin = sa.create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as db:  # what a restart looks like from outside, for this one alone
            db.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            db.execute(sa.text(end), {"name": name})
            time.sleep(1)
            db.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        admin.dispose()
        ((_, results),) = runs.results().items()
    assert {state for _, state, _, _ in results} == {"complete"}
    assert len(results) == 3 * len(DAYS)
    assert {state for _, _, _, state, _, _ in ledger(engine)} == {"complete"}


@pytest.mark.parametrize(
    ("began", "ended", "read_until", "known", "counts"),
    [
        (-MINUTE, MINUTE, None, False, True),  # begun before, ended after: it was not there before
        (-MINUTE, MINUTE, None, True, False),  # to be read again: that read began too early
        (MINUTE, 2 * MINUTE, None, True, True),
        (-2 * MINUTE, -MINUTE, None, False, False),  # over before: the ledger was asked already
        (MINUTE, 2 * MINUTE, SINCE - timedelta(days=2), False, False),  # half of the day
    ],
)
def test_only_days_that_satisfy_the_request_are_taken_over(
    began: timedelta, ended: timedelta, read_until: datetime | None, known: bool, counts: bool
) -> None:
    user = DEMO["Harbor Dental"]
    with_id = UUID(user.id)
    row = _row(with_id, DAY, SINCE + began, SINCE + ended, read_until)
    task = _task(with_id, {(with_id, DAY)} if known else set())
    after = task.after([row], SINCE, UTC_ZONE)
    assert (after.days, after.taken_over) == (([], (row,)) if counts else ([DAY], ()))


def test_today_counts_if_it_was_read_beyond_the_moment_of_the_request() -> None:
    today, user_id = SINCE.date(), uuid4()
    for beyond, left in ((MINUTE, []), (-MINUTE, [today])):
        row = _row(user_id, today, SINCE + beyond, SINCE + 2 * MINUTE, SINCE + beyond)
        assert _task(user_id, set(), today).after([row], SINCE, UTC_ZONE).days == left


def _row(
    user_id: UUID, day: date, began: datetime, ended: datetime, read_until: datetime | None
) -> DayResult:
    return DayResult(
        User(user_id, "Harbor Dental"),
        "Loc",
        day,
        DayState.COMPLETE,
        read_until=read_until or Window.of_day(day, UTC_ZONE).end,
        started_at=began,
        finished_at=ended,
    )


def _task(user_id: UUID, known: set[tuple[UUID, date]], day: date = DAY) -> Task:
    connection = Connection(
        User(user_id, "Harbor Dental"), ConnectionState.CONNECTED, location_id="Loc"
    )
    return Task("Loc", [connection], [day], known)

"""Completeness end to end, through HTTP and PostgreSQL: whatever calls do while they are read, in
whatever order and company days are synced, wherever a process is killed, and on the days on which
the clocks change. The read alone, with a thousand schedules, is in ``highlevel/test_window.py``.
"""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import TRAILING_DAYS, DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.redaction import redact
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.calls.test_sync import digest, place, table
from voiceai_pipeline_tests.conftest import (
    DEMO,
    KEYS,
    Clock,
    Connector,
    highlevel_settings,
    open_client,
)

UTC_ZONE = ZoneInfo("UTC")
MS = timedelta(milliseconds=1)
DAY = date(2026, 11, 18)
DAYS = [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)]
HARBOR, QUIET = place("Harbor Dental"), place("Quiet Law")

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


class Moving(World):
    """A HighLevel in which something happens whenever calls are asked for, before the answer."""

    meanwhile: Callable[[], None] | None = None

    def fire_faults(
        self, location_ids: set[str], path: str, window: tuple[float, float] | None
    ) -> list[Fault]:
        if path == CALL_LOGS and self.meanwhile is not None:
            self.meanwhile()
        return super().fire_faults(location_ids, path, window)

    @contextmanager
    def while_asked(self, happens: Callable[[], None]) -> Iterator[None]:
        self.meanwhile = happens
        try:
            yield
        finally:
            self.meanwhile = None


@pytest.fixture
def world(clock: Clock) -> Moving:
    return Moving(clock=clock, history_start=date(2000, 1, 1))


@pytest.fixture
def sandbox(world: Moving) -> Iterator[RunningSandbox]:
    with running(world, limits=False) as sandbox:
        yield sandbox


@pytest.fixture
def syncs(
    engine: sa.Engine, vault: TokenVault, sandbox: RunningSandbox, clock: Clock
) -> Iterator[dict[str, Sync]]:
    """One for each API version."""
    with open_client(sandbox.url, clock) as dated, open_client(sandbox.url, clock, "v3") as v3:
        yield {
            name: Sync(engine, Tokens(engine, vault, one, now=clock), one, UTC_ZONE, now=clock)
            for name, one in {"dated": dated, "v3": v3}.items()
        }


def listed(world: World, location_id: str, window: Window) -> dict[str, dict[str, Any]]:
    """What HighLevel has right now, redacted, by id."""
    items = world.calls.between(location_id, window.start, window.end)
    return {item["id"]: redact(item) for item in items}


def stored(engine: sa.Engine, location_id: str, window: Window) -> dict[str, dict[str, Any]]:
    """The rows of a window, by id, with the version of each."""
    query = sa.text(
        "SELECT *, xmin::text AS written FROM call_logs WHERE location_id = :place "
        "AND started_at >= :start AND started_at < :end"
    )
    values = {"place": location_id, "start": window.start, "end": window.end}
    with engine.connect() as db:
        return {row["call_id"]: dict(row) for row in db.execute(query, values).mappings()}


def holds_exactly(rows: dict[str, dict[str, Any]], there: dict[str, dict[str, Any]]) -> None:
    assert {i: row["raw"] for i, row in rows.items() if row["missing_since"] is None} == there


# Calls that come and go ---------------------------------------------------------------------------


@dataclass
class Churn:
    """Calls of one day that vanish, arrive, change and come back while they are listed.

    Attributes:
        throughout: the calls that were there during the whole of the sync under way.
        ever: every call that has ever been there, as it was when it came.
    """

    world: Moving
    window: Window
    chance: random.Random
    within: int

    def __post_init__(self) -> None:
        self.ever: dict[str, dict[str, Any]] = {}
        self.throughout: set[str] = set()
        self.schedule: list[tuple[int, int, int, int]] = []

    def arrive(self, number: int) -> None:
        span = min(self.within, (self.window.end - self.window.start) // MS)
        for _ in range(number):
            at = self.window.start + self.chance.randrange(span) * MS
            item = self.world.calls.add(QUIET, at)
            self.ever[item["id"]] = item

    def now(self) -> set[str]:
        return set(listed(self.world, QUIET, self.window))

    def begin(self, schedule: list[tuple[int, int, int, int]]) -> None:
        self.schedule, self.throughout = list(schedule), self.now()

    def __call__(self) -> None:
        """What happens before one answer."""
        if not self.schedule:
            return
        vanish, arrive, change, back = self.schedule.pop(0)
        there = sorted(self.now())
        for call_id in self.chance.sample(there, min(vanish, len(there))):
            self.world.calls.remove(QUIET, call_id)
        self.arrive(arrive)
        there = sorted(self.now())
        for call_id in self.chance.sample(there, min(change, len(there))):
            self.world.calls.change(QUIET, call_id, summary=f"Said {self.chance.random()}")
        gone = sorted(set(self.ever) - set(there))
        for call_id in self.chance.sample(gone, min(back, len(gone))):
            item = self.ever[call_id]
            self.world.calls.add(QUIET, datetime.fromisoformat(item["createdAt"]), **item)
        self.throughout &= self.now()


_some_days = count()
few = st.integers(0, 3)
schedules = st.lists(st.tuples(few, few, few, few), max_size=7)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    number=st.sampled_from([0, 3, 49, 50, 51, 120]),
    within=st.sampled_from([40, 5_000, 86_400_000]),
    seed=st.integers(0, 2**32),
    rounds=st.lists(schedules, min_size=1, max_size=3),
    api=st.sampled_from(["dated", "v3"]),
    ends=st.sampled_from(["inclusive", "exclusive"]),
)
def test_whatever_calls_do_meanwhile_the_table_is_complete_or_as_it_was(
    connect: Connector,
    engine: sa.Engine,
    world: Moving,
    syncs: dict[str, Sync],
    clock: Clock,
    number: int,
    within: int,
    seed: int,
    rounds: list[list[tuple[int, int, int, int]]],
    api: str,
    ends: Any,
) -> None:
    nth = next(_some_days)
    if nth == 0:
        connect("Quiet Law")
    # A day of its own for each schedule: a database of its own would take longer than the test.
    day = DAY - timedelta(days=nth)
    window = Window.of_day(day, UTC_ZONE)
    world.date_ends = ends
    churn = Churn(world, window, random.Random(seed), within)  # noqa: S311
    churn.arrive(number)
    sync = syncs[api]
    for schedule in rounds:
        before = stored(engine, QUIET, window)
        clock.now += timedelta(minutes=1)
        churn.begin(schedule)
        with world.while_asked(churn):
            (result,) = sync.sync_days([day], mode=Mode.REREAD)
        after = stored(engine, QUIET, window)
        if result.state is DayState.FAILED:
            assert result.failure is FailureClass.INCOMPLETE
            assert any(map(any, schedule))
            assert after == before
            continue
        current = {i for i, row in after.items() if row["missing_since"] is None}
        assert churn.throughout <= current <= set(churn.ever)
        assert result.stored == result.api_total == len(current)
        assert not churn.throughout & (set(after) - current)
    clock.now += timedelta(minutes=1)
    (result,) = sync.sync_days([day], mode=Mode.REREAD)
    assert result.state is DayState.COMPLETE
    before = stored(engine, QUIET, window)
    holds_exactly(before, listed(world, QUIET, window))
    (result,) = sync.sync_days([day], mode=Mode.REREAD)
    assert (result.new, result.changed, result.missing) == (0, 0, 0)
    assert stored(engine, QUIET, window) == before


# Late fields --------------------------------------------------------------------------------------


def test_the_trailing_window_finds_what_is_filled_in_late_and_writes_it_once(
    connect: Connector, engine: sa.Engine, world: Moving, sync: Sync, clock: Clock
) -> None:
    connect("Harbor Dental")
    window = Window.of_day(DAY, UTC_ZONE)
    late = {
        "summary": "It came later.",
        "transcript": "bot:It came later.\nhuman:It did.",
        "executedCallActions": [{"actionType": "SMS", "actionName": "It came later"}],
        "extractedData": {"late": True},
    }
    clock.now = window.end + timedelta(minutes=15)
    final: dict[str, dict[str, Any]] = {}
    versions: dict[str, list[str]] = {}
    first: dict[str, dict[str, Any]] = {}
    changed_at: dict[str, datetime] = {}
    for night in range(1 + TRAILING_DAYS):
        today = clock.now.date()
        sync.sync_days(
            [today - timedelta(days=ago) for ago in range(1 + TRAILING_DAYS, 0, -1)],
            mode=Mode.REREAD,
        )
        rows = stored(engine, HARBOR, window)
        final = listed(world, HARBOR, window)
        holds_exactly(rows, final)
        first = first or final
        for call_id, row in rows.items():
            versions.setdefault(call_id, [])
            if row["written"] not in versions[call_id]:
                versions[call_id].append(row["written"])
                changed_at[call_id] = clock.now
            assert row["last_changed_at"] == changed_at[call_id]
        # One field a day, each of another call which was whole before.
        whole = [i for i, item in sorted(first.items()) if item.get("transcript")]
        name = list(late)[night]
        world.calls.change(HARBOR, whole[night], **{name: late[name]})
        clock.now += timedelta(days=1)
    filled_in = {i for i, item in final.items() if item != first[i]}
    assert len(filled_in) > TRAILING_DAYS  # those of the sandbox itself too
    assert all(len(versions[call_id]) == 2 for call_id in filled_in)
    assert all(len(versions[call_id]) == 1 for call_id in set(first) - filled_in)


# The same again, by several processes -------------------------------------------------------------


def sync_in_a_process(database: str, url: str, now: str, days: list[date], times: int) -> None:
    engine = open_engine(Secret(database))
    fixed = datetime.fromisoformat(now)
    with HighLevelClient(highlevel_settings(url)) as client:
        tokens = Tokens(engine, TokenVault(KEYS), client, now=lambda: fixed)
        sync = Sync(engine, tokens, client, UTC_ZONE, now=lambda: fixed)
        for _ in range(times):
            sync.sync_days(days, mode=Mode.REREAD)
    engine.dispose()


def test_processes_that_sync_overlapping_days_at_once_and_out_of_order_leave_one_table(
    connect: Connector,
    engine: sa.Engine,
    database: Secret,
    sync: Sync,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    for name in ("Harbor Dental", "Maple Plumbing", "Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    sync.sync_days(DAYS)
    once = digest(engine)
    with engine.begin() as db:
        db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))
    assert digest(engine) == "None"
    ranges = [DAYS, DAYS[1:], DAYS[:2], [DAYS[2], DAYS[0]]]
    several = [
        processes.Process(
            target=sync_in_a_process,
            args=(database.reveal(), sandbox.url, clock.now.isoformat(), days, 3),
        )
        for days in ranges
    ]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
        assert one.exitcode == 0
        one.close()
    assert digest(engine) == once
    assert all(report.is_green for report in sync.report(DAYS))
    clock.now += timedelta(hours=1)
    rows = table(engine)
    sync.sync_days(DAYS, mode=Mode.REREAD)
    assert table(engine) == rows


# Killed at every page and in the commit -----------------------------------------------------------

WRITTEN = ("call_logs", "sync_ledger", "sync_status")
WAITERS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def hold_up_writes(engine: sa.Engine) -> None:
    """Let whoever writes a table wait for a lock of its name, and who commits for "commit"."""
    with engine.begin() as db:
        db.execute(
            sa.text(
                "CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_advisory_xact_lock(hashtext(TG_ARGV[0])); RETURN NULL; END $$"
            )
        )
        for name in WRITTEN:
            db.execute(
                sa.text(
                    f"CREATE TRIGGER held_up AFTER INSERT OR UPDATE ON {name} "
                    f"FOR EACH STATEMENT EXECUTE FUNCTION wait_for_lock('{name}')"
                )
            )
        db.execute(
            sa.text(
                "CREATE CONSTRAINT TRIGGER held_up_at_commit AFTER INSERT OR UPDATE ON sync_status "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
                "EXECUTE FUNCTION wait_for_lock('commit')"
            )
        )


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@dataclass
class Victim:
    """Starts a sync in a process of its own and kills it with SIGKILL."""

    engine: sa.Engine
    database: Secret
    sandbox: RunningSandbox
    world: Moving
    clock: Clock

    def start(self) -> Any:
        now = self.clock.now.isoformat()
        process = processes.Process(
            target=sync_in_a_process, args=(self.database.reveal(), self.sandbox.url, now, DAYS, 1)
        )
        process.start()
        return process

    def die_before_answer(self, number: int) -> bool:
        """Die when the n-th page is asked for; False if there is no such page."""
        asked = count(1)
        started, killed = threading.Event(), threading.Event()
        process = None

        def kill() -> None:
            if next(asked) == number:
                started.wait(30)
                os.kill(process.pid, signal.SIGKILL)
                killed.set()

        with self.world.while_asked(kill):
            process = self.start()
            started.set()
            process.join(60)
        self._gone(process)
        return killed.is_set()

    def die_in(self, lock: str) -> None:
        """Die while the writing of a table, or the commit, waits."""
        with self.engine.connect() as holder, self.engine.connect() as db:
            watcher = db.execution_options(isolation_level="AUTOCOMMIT")
            holder.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:lock))"), {"lock": lock})
            process = self.start()
            until(lambda: watcher.execute(sa.text(WAITERS)).scalar_one() > 0)
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            holder.rollback()
            self._gone(process)

    def _gone(self, process: Any) -> None:
        """Also what it had begun in the database has ended."""
        assert process.exitcode in (-signal.SIGKILL, 0)
        process.close()
        query = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state <> 'idle' AND pid <> pg_backend_pid()"
        )
        with self.engine.connect() as db:
            watcher = db.execution_options(isolation_level="AUTOCOMMIT")
            until(lambda: watcher.execute(query).scalar_one() == 0)
            # The minute that a dead run keeps its location is test_location_queue.py's subject.
            watcher.execute(sa.text("DELETE FROM location_leases"))


def everything(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """The three tables that change together."""
    with engine.connect() as db:
        return {
            name: [
                dict(row)
                for row in db.execute(sa.text(f"SELECT * FROM {name} ORDER BY 1, 2, 3")).mappings()  # noqa: S608
            ]
            for name in WRITTEN
        }


def agree(engine: sa.Engine, harbor: UUID) -> list[DayResult]:
    """Ledger and status say what the table holds; returns the ledger's rows."""
    with engine.connect() as db:
        rows = ledger.results(db, days=DAYS)
        status = ledger.statuses(db)[harbor]
    held = Counter(
        row["started_at"].date()
        for row in stored(
            engine,
            HARBOR,
            Window(
                Window.of_day(DAYS[0], UTC_ZONE).start,
                Window.of_day(DAYS[-1], UTC_ZONE).end,
            ),
        ).values()
        if row["missing_since"] is None
    )
    assert {row.day: row.stored for row in rows} == dict(held)
    assert {row.state for row in rows} == {DayState.COMPLETE}
    assert status.status == "success"
    assert status.records_synced == held.total()
    assert {row.finished_at for row in rows} == {status.last_sync_at}
    return rows


def test_a_sync_killed_at_any_page_or_in_the_commit_leaves_old_or_new_and_the_rerun_completes(
    connect: Connector,
    engine: sa.Engine,
    database: Secret,
    sync: Sync,
    sandbox: RunningSandbox,
    world: Moving,
    clock: Clock,
) -> None:
    harbor = connect("Harbor Dental").user.id
    window = Window(Window.of_day(DAYS[0], UTC_ZONE).start, Window.of_day(DAYS[-1], UTC_ZONE).end)
    sync.sync_days(DAYS)
    hold_up_writes(engine)
    victim = Victim(engine, database, sandbox, world, clock)
    there = sorted(listed(world, HARBOR, window))
    fresh = iter(there)

    def something_new() -> None:
        """Something changes, vanishes and arrives in each of the days, so old is never new."""
        clock.now += timedelta(hours=1)
        for day in DAYS:
            world.calls.change(HARBOR, next(fresh), summary=f"Said at {clock.now}")
            world.calls.remove(HARBOR, next(fresh))
            world.calls.add(HARBOR, Window.of_day(day, UTC_ZONE).end - timedelta(minutes=1))

    def rerun() -> None:
        clock.now += timedelta(hours=1)
        results = sync.sync_days(DAYS, mode=Mode.REREAD)
        assert {result.state for result in results} == {DayState.COMPLETE}
        holds_exactly(stored(engine, HARBOR, window), listed(world, HARBOR, window))
        agree(engine, harbor)

    pages = 0
    while True:
        something_new()
        old = everything(engine)
        if not victim.die_before_answer(pages + 1):
            break  # it had come to the end
        assert everything(engine) == old
        agree(engine, harbor)
        pages += 1
        rerun()
    assert pages >= 4  # 180 calls
    assert everything(engine) != old
    rerun()
    for lock in WRITTEN:
        something_new()
        old = everything(engine)
        victim.die_in(lock)
        assert everything(engine) == old, lock
        agree(engine, harbor)
        rerun()
    something_new()
    old = everything(engine)
    victim.die_in("commit")  # the commit had arrived: it is done, whoever asked for it
    assert everything(engine) != old
    agree(engine, harbor)
    holds_exactly(stored(engine, HARBOR, window), listed(world, HARBOR, window))
    rerun()


# Days on which the clocks change ------------------------------------------------------------------

SHIFTS = {
    "America/New_York": {date(2026, 3, 8): 23.0, date(2026, 11, 1): 25.0},
    "Europe/Berlin": {date(2026, 3, 29): 23.0, date(2026, 10, 25): 25.0},
    "Australia/Lord_Howe": {date(2026, 4, 5): 24.5, date(2026, 10, 4): 23.5},
}


@pytest.mark.parametrize("name", SHIFTS)
def test_where_the_clocks_change_each_call_is_in_one_day_and_the_days_add_up_to_the_range(
    name: str,
    both_dialects: str,
    connect: Connector,
    engine: sa.Engine,
    vault: TokenVault,
    sandbox: RunningSandbox,
    world: Moving,
    clock: Clock,
) -> None:
    connect("Quiet Law")
    zone = ZoneInfo(name)
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        sync = Sync(engine, tokens, client, zone, now=clock)
        for shift, hours in SHIFTS[name].items():
            days = [shift + timedelta(days=n) for n in (-1, 0, 1)]
            # Midnights by the zone's rules, not by ours.
            edges = [
                datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
                for day in [*days, days[-1] + timedelta(days=1)]
            ]
            assert (edges[2] - edges[1]) / timedelta(hours=1) == hours
            for edge in edges:
                for at in (edge - timedelta(seconds=1), edge - MS, edge, edge + MS):
                    world.calls.add(QUIET, at)
            for minutes in range(0, int(hours * 60), 17):  # both of an hour that comes twice
                world.calls.add(QUIET, edges[1] + timedelta(minutes=minutes))
            there = world.calls.between(QUIET, edges[0], edges[-1])
            expected = Counter(
                datetime.fromisoformat(item["createdAt"]).astimezone(zone).date() for item in there
            )
            assert expected[shift] == len(range(0, int(hours * 60), 17)) + 4
            alone = [result for day in days for result in sync.sync_days([day])]
            assert {r.day: r.stored for r in alone} == {day: expected[day] for day in days}
            assert {r.state for r in alone} == {DayState.COMPLETE}
            for result, end in zip(alone, edges[1:], strict=True):
                assert result.read_until == end
            rows = stored(engine, QUIET, Window(edges[0], edges[-1]))
            together = sync.sync_days(days, mode=Mode.REREAD)
            assert {r.day: r.stored for r in together} == {day: expected[day] for day in days}
            assert sum(r.new + r.changed + r.missing for r in together) == 0
            assert stored(engine, QUIET, Window(edges[0], edges[-1])) == rows
            assert set(rows) == {item["id"] for item in there}
            asked = (QUIET, edges[0], edges[-1] - MS)
            total = tokens.spend(
                UUID(DEMO["Quiet Law"].id),
                lambda token, asked=asked: client.call_total(token, *asked),
            )
            assert total == sum(r.stored or 0 for r in alone) == len(there)

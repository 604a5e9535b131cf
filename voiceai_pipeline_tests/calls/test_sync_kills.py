"""A sync killed at every page, at every table it writes and in the commit."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.sync_processes import processes, sync_in_a_process
from voiceai_pipeline_tests.support.synced_calls import (
    DAYS,
    HARBOR,
    UTC_ZONE,
    holds_exactly,
    listed_calls,
    stored_calls,
)

WRITTEN = ("call_logs", "sync_ledger", "sync_status")

WAITERS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def world(clock: Clock) -> Moving:
    return Moving(clock=clock, history_start=date(2000, 1, 1))


def hold_up_writes(engine: sa.Engine) -> None:
    """Let a write to a table wait for a lock of its name, and a commit for "commit"."""
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
    deadline = time.monotonic() + 120
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
        """Die when the n-th page is requested; False if there is no such page."""
        asked = count(1)
        started, killed = threading.Event(), threading.Event()
        process = None

        def kill() -> None:
            if next(asked) == number:
                started.wait(120)
                os.kill(process.pid, signal.SIGKILL)
                killed.set()

        with self.world.while_asked(kill):
            process = self.start()
            started.set()
            process.join(60)
        self._gone(process)
        return killed.is_set()

    def die_in(self, lock: str) -> None:
        """Die while the write of a table, or the commit, waits."""
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
        """Wait until its database sessions are gone too."""
        assert process.exitcode in (-signal.SIGKILL, 0)
        process.close()
        query = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state <> 'idle' AND pid <> pg_backend_pid()"
        )
        with self.engine.connect() as db:
            watcher = db.execution_options(isolation_level="AUTOCOMMIT")
            until(lambda: watcher.execute(query).scalar_one() == 0)
            # That a dead run holds its lease for a minute is tested in test_location_queue.py.
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
        for row in stored_calls(
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
    there = sorted(listed_calls(world, HARBOR, window))
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
        holds_exactly(stored_calls(engine, HARBOR, window), listed_calls(world, HARBOR, window))
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
    victim.die_in("commit")  # the commit had arrived, so it is done although its client is dead
    assert everything(engine) != old
    agree(engine, harbor)
    holds_exactly(stored_calls(engine, HARBOR, window), listed_calls(world, HARBOR, window))
    rerun()

"""Several processes, killed or at once: each location is old or new, and there is one table."""

import os
import random
import signal
import time
from collections import Counter
from datetime import timedelta

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.sync_processes import processes, sync_in_a_process
from voiceai_pipeline_tests.support.synced_calls import (
    DAYS,
    HEALTHY,
    digest,
    expected_calls,
    expire_leases,
    ledger_rows,
    location_of,
    read_requests,
    table,
)


def test_a_killed_sync_leaves_each_location_old_or_new(
    all_connections: list[Connection],
    engine: sa.Engine,
    database: Secret,
    sync: Sync,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.03))
    with engine.begin() as db:  # a slow write, so that kills meet it
        db.execute(
            sa.text(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END $$"
            )
        )
        for name in ("call_logs", "sync_ledger", "sync_status"):
            db.execute(
                sa.text(
                    f"CREATE TRIGGER slow AFTER INSERT OR UPDATE ON {name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION slow()"
                )
            )
    chance = random.Random(4711)  # noqa: S311 - the same kills every time
    expected = {
        location_of(name): len(expected_calls(sandbox, name, DAYS[0], DAYS[-1])) for name in HEALTHY
    }
    seen: set[int] = set()
    kills = 0
    # Until the kills hit different moments, however fast the machine is.
    while kills < 4 or len(seen) < 2:
        kills += 1
        assert kills < 50, seen
        sandbox.world.clear_requests()
        victim = processes.Process(
            target=sync_in_a_process,
            args=(database.reveal(), sandbox.url, clock.now.isoformat(), DAYS),
            kwargs={"mode": Mode.RESUME, "workers": 3},
        )
        victim.start()
        deadline = time.monotonic() + 120
        while victim.is_alive() and not read_requests(sandbox):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.2))
        if victim.pid is not None and victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
        victim.join(120)
        victim.close()
        expire_leases(engine)
        done = {row.location_id for row in ledger_rows(engine)}
        stored = Counter(row["location_id"] for row in table(engine))
        for location_id, number in expected.items():
            assert stored[location_id] == (number if location_id in done else 0)
        with engine.connect() as db:
            assert set(ledger.statuses(db)) == {row.user.id for row in ledger_rows(engine)}
        assert {row.state for row in ledger_rows(engine)} <= {DayState.COMPLETE}
        seen.add(len(done))
    sync.sync_days(DAYS)
    assert all(report.is_green for report in sync.report(DAYS))
    for name in HEALTHY:
        assert len(table(engine, name)) == expected[location_of(name)]


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

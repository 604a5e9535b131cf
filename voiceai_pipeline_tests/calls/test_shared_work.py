"""A sync and its helpers: the days are complete and exact, whichever helper dies or lags behind."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import work_units
from voiceai_pipeline.calls.location_queue import Task, Terms
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.synced_calls import (
    DAYS,
    HEALTHY,
    UTC_ZONE,
    digest,
    location_of,
    read_requests,
)

QUICK = Terms(lease=timedelta(seconds=1), poll=0.05, linger=0.05)
LEADER = "leader"
PLACES = {location_of(name) for name in HEALTHY}

NewSync = Callable[[int], Sync]


@pytest.fixture
def new_sync(
    engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> Callable[[int], Sync]:
    """A sync as another process has it, with so many helpers allowed."""

    def make(helpers: int) -> Sync:
        return Sync(
            engine, tokens, client, UTC_ZONE, now=clock, workers=2, terms=QUICK, helpers=helpers
        )

    return make


def units(engine: sa.Engine) -> int:
    with engine.begin() as db:
        return db.execute(sa.text("SELECT count(*) FROM work_units")).scalar_one()


def work_of(connections: list[Connection]) -> list[Task]:
    shared = connection_queries.by_location(connections)
    return [Task(location_id, users, DAYS) for location_id, users in shared.items()]


def numbers(results: list[DayResult]) -> Counter[tuple[str, object, str, int | None]]:
    return Counter((row.user.name, row.day, row.state.value, row.stored) for row in results)


def test_helpers_take_their_share_and_the_leader_answers_for_all(
    all_connections: list[Connection],
    new_sync: NewSync,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    alone = numbers(new_sync(0).sync_days(DAYS, run_id="before"))
    once, asked = digest(engine), read_requests(sandbox)
    with engine.begin() as db:
        db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))
    sandbox.world.clear_requests()
    # Long enough that helpers find work on a busy machine, too.
    sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.3))
    with ThreadPoolExecutor(3) as threads:
        leading = threads.submit(new_sync(2).sync_days, DAYS, run_id=LEADER)
        wait_until(lambda: units(engine), pause=0.01)
        helping = [
            threads.submit(new_sync(0).help, LEADER, f"helper {n}", lambda: True) for n in range(2)
        ]
        done = sum(one.result() for one in helping)
        results = leading.result()
    assert done > 0
    assert numbers(results) == alone
    assert digest(engine) == once
    assert read_requests(sandbox) == asked
    assert units(engine) == 0
    with engine.begin() as db:  # the run asked for these days, not a helper
        assert set(db.execute(sa.text("SELECT run_id FROM sync_ledger")).scalars()) == {LEADER}


def test_the_leader_needs_no_helper_and_takes_over_from_one_that_died(
    all_connections: list[Connection],
    new_sync: NewSync,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.1))
    with ThreadPoolExecutor(1) as threads:
        leading = threads.submit(new_sync(2).sync_days, DAYS, run_id=LEADER, mode=Mode.REREAD)
        wait_until(lambda: units(engine), pause=0.01)
        with engine.begin() as db:
            dead = work_units.take(db, LEADER, uuid4(), 2, QUICK.lease, "")
        results = leading.result()
    assert {row.state for row in results} == {DayState.COMPLETE}
    assert {row.location_id for row in results} == PLACES
    assert {unit.location_id for unit in dead} <= PLACES
    assert set(read_requests(sandbox)) == PLACES


def test_a_helper_ends_when_its_leader_has_and_what_it_held_is_free(
    all_connections: list[Connection],
    new_sync: NewSync,
    engine: sa.Engine,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.5))
    with engine.begin() as db:
        work_units.post(db, LEADER, work_of(all_connections), clock.now)
    is_led = threading.Event()
    is_led.set()
    with ThreadPoolExecutor(1) as threads:
        helping = threads.submit(new_sync(0).help, LEADER, "helper", is_led.is_set)
        wait_until(lambda: read_requests(sandbox), pause=0.01)
        is_led.clear()
        done = helping.result()
    assert done < len(PLACES)
    with engine.begin() as db:
        assert work_units.free(db) == {LEADER: len(PLACES) - done}
    assert new_sync(0).help(LEADER, "helper", is_led.is_set) == 0
    assert new_sync(0).help("no such run", "helper", lambda: True) == 0

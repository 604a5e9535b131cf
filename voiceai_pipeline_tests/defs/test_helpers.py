"""Helpers of a sync: when they are started, and that a day is the same with them."""

import os
import signal
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import work_units
from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import helpers, partitions, sensors
from voiceai_pipeline.sandbox.cast import DemoUser, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.dagster_runs import execute, tick
from voiceai_pipeline_tests.support.helper_runs import processes, run_in_a_process
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.product import LOCATION, Product

SHOPS = [make_location(f"Shop {number:02}", number, "shop", "UTC", 3) for number in range(96)]
USERS = tuple(
    DemoUser(str(UUID(int=1 + n)), "Kim", "Doe", shop.name, shop.id, shop.company_id)
    for n, shop in enumerate(SHOPS)
)


@pytest.fixture
def world() -> World:
    """Many times as many shops as one run reads at once."""
    return World(users=USERS, locations=tuple(SHOPS))


def created(product: Product, job: str, status: dg.DagsterRunStatus, **tags: str) -> str:
    run = product.instance.create_run_for_job(
        defs.resolve_job_def(job), status=status, tags={**LOCATION, **tags}
    )
    return run.run_id


def offer(product: Product, leader: str, count: int) -> None:
    somebody = [Connection(User(UUID(int=1), "Kim"), ConnectionState.CONNECTED)]
    tasks = [Task(f"location {n}", somebody, [product.yesterday]) for n in range(count)]
    with product.pipeline.engine.begin() as db:
        work_units.post(db, leader, tasks, database_now(db))


def keys(product: Product, allowed: int = 2) -> list[str | None]:
    with product.pipeline.engine.begin() as db:
        found = helpers.requests(product.instance, db, allowed)
    return [request.run_key for request in found]


@pytest.mark.usefixtures("world")
def test_a_started_sync_with_enough_work_gets_helpers_and_a_dead_one_is_replaced(
    product: Product,
) -> None:
    leader = created(product, "sync_calls", dg.DagsterRunStatus.STARTED)
    offer(product, leader, 3 * helpers.WORTH_A_HELPER)
    assert keys(product, allowed=0) == []
    assert keys(product) == [f"help {leader} 0", f"help {leader} 1"]
    helper = {helpers.HELPS: leader}
    created(product, "help_sync", dg.DagsterRunStatus.STARTING, **helper)
    created(product, "help_sync", dg.DagsterRunStatus.STARTED, **helper)
    assert keys(product) == []
    assert keys(product, allowed=9) == [f"help {leader} 2"]  # there is work for three
    created(product, "help_sync", dg.DagsterRunStatus.FAILURE, **helper)
    assert keys(product, allowed=9) == [f"help {leader} 3"]
    for _ in range(2 * helpers.STARTS):
        created(product, "help_sync", dg.DagsterRunStatus.FAILURE, **helper)
    assert keys(product) == []


def test_helpers_of_several_syncs_share_one_allowance(product: Product) -> None:
    leaders = [created(product, "sync_calls", dg.DagsterRunStatus.STARTED) for _ in range(2)]
    for leader in leaders:
        offer(product, leader, 2 * helpers.WORTH_A_HELPER)
    found = keys(product, allowed=3)
    assert sorted(str(key).split()[1] for key in found) == sorted([*leaders, leaders[0]])


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        (dg.DagsterRunStatus.STARTING, True),
        (dg.DagsterRunStatus.CANCELING, True),
        (dg.DagsterRunStatus.FAILURE, False),
        (dg.DagsterRunStatus.SUCCESS, False),
    ],
)
def test_only_a_started_sync_is_helped_and_the_work_of_one_that_ended_goes(
    product: Product, status: dg.DagsterRunStatus, kept: bool
) -> None:
    leader = created(product, "sync_calls", status)
    offer(product, leader, 200)
    assert keys(product) == []
    with product.pipeline.engine.begin() as db:
        assert (leader in work_units.free(db)) is kept


def test_the_sensor_starts_none_by_default_and_says_so(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = created(product, "sync_calls", dg.DagsterRunStatus.STARTED)
    offer(product, leader, 200)
    assert "more helpers" in str(tick(product, sensors.open_work).skip_reason)
    monkeypatch.setenv("VOICEAI_HELPERS", "1")
    (request,) = tick(product, sensors.open_work).run_requests or []
    assert request.tags == {helpers.HELPS: leader}
    assert request.run_config == {"ops": {"help_leader": {"config": {"run_id": leader}}}}


def test_a_day_read_by_a_leader_and_two_helpers_of_which_one_is_killed_is_as_if_read_by_one(
    product: Product,
) -> None:
    for shop in SHOPS:
        product.connect(shop.name)
    day = product.yesterday
    assert product.sync([day]).success
    alone, events = product.calls(), asset_events(product)
    execute(product, "TRUNCATE call_logs, sync_ledger, sync_status")
    product.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=8))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("VOICEAI_", "HIGHLEVEL_", "DAGSTER_"))
    } | {"VOICEAI_HELPERS": "2"}

    def start(job: str, tags: Mapping[str, str], config: dict[str, Any]) -> Any:
        process = processes.Process(
            target=run_in_a_process, args=(environment, job, tags, config), daemon=True
        )
        process.start()
        return process

    leading = start("sync_calls", partitions.range_tags(day, day), {})
    wait_until(lambda: rows(product, "SELECT FROM work_units"), pause=0.05)
    (leader,) = rows(product, "SELECT DISTINCT leader FROM work_units")
    config = {"ops": {"help_leader": {"config": {"run_id": leader}}}}
    victim, other = (start("help_sync", {helpers.HELPS: leader}, config) for _ in range(2))
    working = "SELECT DISTINCT run_id FROM location_leases WHERE run_id <> :leader"
    wait_until(
        lambda: len(rows(product, working, leader=leader)) == 2 or not leading.is_alive(),
        pause=0.05,
    )
    assert leading.is_alive()
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    product.sandbox.world.clear_faults()  # the rest need not be slow
    of_victim = "SELECT run_id FROM run_heartbeats WHERE process LIKE :process"
    (dead,) = rows(product, of_victim, process=f"process {victim.pid} on %")
    # What the dead one held expires, as after a minute and three.
    for statement in (
        "UPDATE work_units u SET expires_at = '-infinity' FROM location_leases l "
        "WHERE l.location_id = u.location_id AND l.run_id = :dead RETURNING 1",
        "UPDATE location_leases SET expires_at = '-infinity' WHERE run_id = :dead RETURNING 1",
    ):
        assert rows(product, statement, dead=dead)
    for process in (leading, other):
        process.join(120)
        assert process.exitcode == 0
    assert product.calls() == alone
    (report,) = product.pipeline.sync.report([day])
    assert report.is_green
    assert len(report.complete) == len(SHOPS)
    assert rows(product, "SELECT DISTINCT run_id FROM sync_ledger") == [leader]
    assert rows(product, "SELECT FROM work_units") == []
    assert asset_events(product) == {kind: 2 * count for kind, count in events.items()}


def rows(product: Product, query: str, **values: Any) -> list[Any]:
    with product.pipeline.engine.begin() as db:
        return [row[0] if row else None for row in db.execute(sa.text(query), values)]


def asset_events(product: Product) -> dict[dg.DagsterEventType, int]:
    """How many events of assets and checks there are; those of helpers would be among them."""
    kinds = {
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        dg.DagsterEventType.ASSET_OBSERVATION,
    }
    types = [
        record.event_log_entry.dagster_event_type
        for run in product.instance.get_runs()
        for record in product.instance.get_records_for_run(run.run_id, of_type=kinds).records
    ]
    return {kind: types.count(kind) for kind in kinds}

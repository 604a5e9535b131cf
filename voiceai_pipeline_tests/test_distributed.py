"""`make distributed`: a day of many users on a real Celery engine, of which a machine is lost.

Not in `make test`: it takes minutes, a Redis server, and the packages of the extra ``celery``.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.embedded_server import SOCKET
from voiceai_pipeline.defs import helpers, partitions
from voiceai_pipeline.sandbox.cast import DemoUser, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.celery_engine import CeleryEngine, celery_engine
from voiceai_pipeline_tests.support.dagster_runs import execute
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.sockets import forwarding_to

pytestmark = pytest.mark.skipif(
    "VOICEAI_DISTRIBUTED" not in os.environ, reason="takes minutes: make distributed"
)

FIVE_MINUTES = 300
TWO_MINUTES = 120
SHOPS = [make_location(f"Shop {number:03}", number, "shop", "UTC", 3) for number in range(200)]
USERS = tuple(
    DemoUser(str(UUID(int=1 + n)), "Kim", "Doe", shop.name, shop.id, shop.company_id)
    for n, shop in enumerate(SHOPS)
)


@pytest.fixture
def world() -> World:
    return World(users=USERS, locations=tuple(SHOPS))


@pytest.fixture
def engine_at_work(product: Product, tmp_path: Path) -> Iterator[CeleryEngine]:
    """Two workers, everybody connected, and HighLevel so slow that one run takes a minute."""
    for shop in SHOPS:
        product.connect(shop.name)
    # Not new any more, so that nobody fills their first days meanwhile.
    execute(
        product,
        "INSERT INTO sync_ledger (user_id, location_id, day, state, message, attempt, pages) "
        "SELECT user_id, location_id, CURRENT_DATE - 40, 'complete', '', 0, 0 FROM api_keys",
    )
    product.sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=6))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("VOICEAI_", "HIGHLEVEL_"))
    }
    folder = str(sa.make_url(environment["VOICEAI_DATABASE_URL"]).query["host"])
    with forwarding_to(Path(folder, SOCKET)) as port:
        for name in ("VOICEAI_DATABASE_URL", "DAGSTER_POSTGRES_URL"):
            url = sa.make_url(os.environ[name]).set(host="127.0.0.1", port=port, query={})
            environment[name] = url.render_as_string(hide_password=False)
        with celery_engine(tmp_path / "engine", environment | {"VOICEAI_HELPERS": "1"}) as engine:
            yield engine


def rows(product: Product, query: str, **values: Any) -> list[Any]:
    with product.pipeline.engine.begin() as db:
        return [row[0] if row else None for row in db.execute(sa.text(query), values)]


def pid_of(product: Product, run_id: str) -> int:
    """The process that gives a run's signs of life."""
    query = "SELECT process FROM run_heartbeats WHERE run_id = :run_id"
    wait_until(lambda: rows(product, query, run_id=run_id))
    (process,) = rows(product, query, run_id=run_id)
    return int(re.findall(r"process (\d+) on", process)[0])


@pytest.mark.parametrize("lost", ["leader", "helper"])
def test_a_lost_worker_costs_a_day_of_many_users_minutes_and_nothing_else(
    product: Product, engine_at_work: CeleryEngine, lost: str
) -> None:
    day = product.yesterday
    started = time.monotonic()
    engine_at_work.launch("sync_calls", json.dumps(partitions.range_tags(day, day)))
    wait_until(lambda: rows(product, "SELECT leader FROM work_units LIMIT 1"))
    (leader,) = rows(product, "SELECT DISTINCT leader FROM work_units")
    of_helper = dg.RunsFilter(tags={helpers.HELPS: leader}, statuses=[dg.DagsterRunStatus.STARTED])
    wait_until(lambda: product.instance.get_runs(of_helper), FIVE_MINUTES)
    (helper,) = product.instance.get_runs(of_helper)
    victim = leader if lost == "leader" else helper.run_id
    worker = engine_at_work.worker_of(pid_of(product, victim))
    with_it = {
        run
        for run in (leader, helper.run_id)
        if engine_at_work.worker_of(pid_of(product, run)) is worker
    }
    of_day = "SELECT 1 FROM sync_ledger WHERE day = :day"
    wait_until(lambda: rows(product, of_day, day=day))
    engine_at_work.kill(worker)
    killed = time.monotonic()
    done_before = len(rows(product, of_day, day=day))
    assert 0 < done_before < len(SHOPS)

    wait_until(
        lambda: product.instance.get_runs(
            dg.RunsFilter(run_ids=list(with_it), statuses=[dg.DagsterRunStatus.FAILURE])
        ),
        FIVE_MINUTES,
    )
    assert time.monotonic() - killed < TWO_MINUTES
    wait_until(lambda: product.pipeline.sync.report([day])[0].is_green, FIVE_MINUTES)
    unfinished = dg.RunsFilter(
        job_name="sync_calls",
        statuses=[
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.STARTING,
        ],
    )
    wait_until(lambda: not product.instance.get_runs(unfinished), FIVE_MINUTES)
    assert time.monotonic() - started < FIVE_MINUTES

    (report,) = product.pipeline.sync.report([day])
    assert len(report.complete) == len(SHOPS)
    assert rows(product, "SELECT 1 FROM work_units") == []
    slots = product.instance.event_log_storage.get_concurrency_info("highlevel")
    assert slots.active_slot_count == 0
    assert day in product.days("call_logs")
    window = Window.of_day(day, product.pipeline.zone)
    expected = sum(
        len(product.sandbox.world.calls.between(shop.id, window.start, window.end))
        for shop in SHOPS
    )
    assert len(product.calls()) == expected

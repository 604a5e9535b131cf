"""Runs whose process is gone give their slots back, wherever they were started."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import sensors
from voiceai_pipeline.defs.dead_runs import SILENCE, fail_silent_runs
from voiceai_pipeline_tests.support.dagster_runs import execute, tick
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.product import LOCATION, Product

POOL = "highlevel"


def started(product: Product, status: dg.DagsterRunStatus) -> str:
    """A run of a machine that was lost, with a slot in the pool; its id."""
    job = defs.resolve_job_def("refresh_tokens")
    run = product.instance.create_run_for_job(job, status=status, tags=LOCATION)
    storage = product.instance.event_log_storage
    if POOL not in storage.get_concurrency_keys():
        storage.initialize_concurrency_limit_to_default(POOL)
    assert storage.claim_concurrency_slot(POOL, run.run_id, "a step").is_claimed
    execute(
        product,
        "INSERT INTO run_heartbeats VALUES ("  # noqa: S608
        f"'{run.run_id}', 'process 7 on lost.example.test', now() - interval '61 seconds')",
    )
    return run.run_id


def status(product: Product, run_id: str) -> dg.DagsterRunStatus:
    run = product.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def slots(product: Product) -> int:
    return product.instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


@pytest.fixture
def db(product: Product) -> Iterator[sa.Connection]:
    with product.pipeline.engine.begin() as db:
        yield db


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_a_run_of_a_lost_machine_ends_at_the_second_silent_tick_and_its_slot_is_free(
    product: Product, before: dg.DagsterRunStatus, after: dg.DagsterRunStatus
) -> None:
    run_id = started(product, before)
    assert slots(product) == 1
    with product.pipeline.engine.begin() as db:
        failed, suspected = fail_silent_runs(product.instance, db, None)
    assert failed == []
    assert status(product, run_id) is before
    with product.pipeline.engine.begin() as db:
        failed, suspected = fail_silent_runs(product.instance, db, suspected)
    assert (failed, suspected) == ([run_id], "{}")
    assert status(product, run_id) is after
    assert slots(product) == 0
    said = [record.message for record in product.instance.all_logs(run_id)]
    assert [text for text in said if "process 7 on lost.example.test was killed" in text]
    assert "gives signs of life" in str(tick(product, sensors.silent_runs).skip_reason)


def test_a_run_that_gives_a_sign_between_two_ticks_goes_on(product: Product) -> None:
    run_id = started(product, dg.DagsterRunStatus.STARTED)
    with product.pipeline.engine.begin() as db:
        _, suspected = fail_silent_runs(product.instance, db, None)
    execute(product, "UPDATE run_heartbeats SET seen_at = seen_at + interval '0.5 seconds'")
    with product.pipeline.engine.begin() as db:
        failed, suspected = fail_silent_runs(product.instance, db, suspected)
    assert failed == []
    assert run_id in suspected
    assert status(product, run_id) is dg.DagsterRunStatus.STARTED


def test_the_row_of_a_run_that_has_ended_or_was_deleted_goes_without_a_word(
    product: Product, db: sa.Connection
) -> None:
    ended = started(product, dg.DagsterRunStatus.SUCCESS)
    deleted = started(product, dg.DagsterRunStatus.STARTED)
    product.instance.delete_run(deleted)
    _, suspected = fail_silent_runs(product.instance, db, None)
    assert fail_silent_runs(product.instance, db, suspected) == ([], "{}")
    assert db.execute(sa.text("SELECT count(*) FROM run_heartbeats")).scalar_one() == 0
    assert status(product, ended) is dg.DagsterRunStatus.SUCCESS


def test_a_dead_run_is_failed_within_two_minutes() -> None:
    interval = sensors.silent_runs.minimum_interval_seconds
    assert interval is not None
    assert SILENCE + 2 * timedelta(seconds=interval) < timedelta(minutes=2)


def test_a_run_gives_signs_of_life_while_it_works(product: Product) -> None:
    seen: list[int] = []

    @dg.op
    def look(pipeline: dg.ResourceParam[object]) -> None:
        def rows() -> int:
            with product.pipeline.engine.begin() as db:
                return db.execute(sa.text("SELECT count(*) FROM run_heartbeats")).scalar_one()

        wait_until(rows)
        seen.append(rows())

    @dg.job(resource_defs={"pipeline": defs.resources["pipeline"]})  # type: ignore[index,dict-item]
    def looking() -> None:
        look()

    assert looking.execute_in_process(instance=product.instance).success
    assert seen == [1]

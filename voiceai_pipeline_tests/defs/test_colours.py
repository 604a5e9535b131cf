"""The colours of days follow the ledger, whatever happened to the runs; on a real instance."""

import os
from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.execution.api import create_execution_plan

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import colours, partitions, sensors
from voiceai_pipeline.defs.dagster_internals import AssetPartitionStatus, statuses_by_partition
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    cell,
    execute,
    failure_of,
    tick,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import LOCATION, Product

GREEN, RED = AssetPartitionStatus.MATERIALIZED, AssetPartitionStatus.FAILED
UNDER_WAY = AssetPartitionStatus.IN_PROGRESS


def colour(product: Product, day: date) -> AssetPartitionStatus | None:
    found = statuses_by_partition(product.instance, colours.CALL_LOGS, partitions.days)
    return found[str(day)]


def days_shown(product: Product, wanted: AssetPartitionStatus) -> list[date]:
    found = statuses_by_partition(product.instance, colours.CALL_LOGS, partitions.days)
    return [date.fromisoformat(key) for key, status in found.items() if status is wanted]


def correct(product: Product) -> dg.ExecuteInProcessResult:
    """Let the sensor look; it must ask for one run, and this is its result."""
    (request,) = tick(product, sensors.wrong_colours).run_requests or ()
    assert request.run_key is not None
    with product.requests() as asked:
        result = product.run("correct_colours")
    assert not asked
    assert not tick(product, sensors.wrong_colours).run_requests
    return result


def queued(product: Product, *days: date) -> dg.DagsterRun:
    """A sync of these days that is planned and has not begun, as a backfill launches it."""
    job = defs.resolve_job_def("sync_calls")
    tags = LOCATION | partitions.range_tags(days[0], days[-1])
    plan = create_execution_plan(job, tags=tags)
    return product.instance.create_run_for_job(job, execution_plan=plan, tags=tags)


@pytest.fixture
def healthy(demo: Product) -> Product:
    """A green week."""
    demo.sandbox.world.clear_faults()
    assert demo.sync(demo.week).success
    assert days_shown(demo, GREEN) == demo.week
    return demo


@pytest.fixture
def cached() -> Iterator[sa.Engine]:
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    yield engine
    engine.dispose()


def fail(product: Product, *days: date) -> None:
    """Copper's days fail in the ledger, as a run that was cancelled half-way leaves them."""
    listed = ", ".join(f"'{day}'" for day in days)
    execute(
        product,
        "UPDATE sync_ledger SET state = 'failed', failure_class = 'provider_error', "  # noqa: S608
        "message = 'HighLevel has a problem' "
        f"WHERE user_id = '{DEMO[COPPER].id}' AND day IN ({listed})",
    )


def test_a_cancelled_backfill_leaves_exactly_the_incomplete_days_red(healthy: Product) -> None:
    cancelled = queued(healthy, *healthy.week)
    assert days_shown(healthy, UNDER_WAY) == healthy.week
    fail(healthy, *healthy.week[2:4])
    assert not tick(healthy, sensors.wrong_colours).run_requests
    healthy.instance.report_run_canceled(cancelled)
    assert days_shown(healthy, GREEN) == healthy.week

    verdict = correct(healthy)

    text = failure_of(verdict)
    assert text.startswith("dagster._core.definitions.events.Failure: 1 user failed on 2 days;")
    assert f"- {COPPER}, {healthy.week[2]} to {healthy.week[3]} (2 days): HighLevel has" in text
    assert days_shown(healthy, RED) == healthy.week[2:4]
    assert cell(healthy, "sync_status", healthy.week[2])["users_failed"] == 1
    wanted = dg.AssetRecordsFilter(colours.CALL_LOGS, asset_partitions=[str(healthy.week[2])])
    (seen, *_) = healthy.instance.fetch_observations(wanted, limit=1).records
    assert seen.run_id == verdict.run_id

    with healthy.requests() as asked:
        assert healthy.sync(healthy.week[2:4], only_failed=True).success
    assert {location for _, location in asked} == {DEMO[COPPER].location_id}
    assert days_shown(healthy, GREEN) == healthy.week


def test_a_run_that_is_killed_before_its_first_step_leaves_complete_days_green(
    healthy: Product,
) -> None:
    killed = queued(healthy, *healthy.week)
    healthy.instance.report_run_failed(killed)
    assert days_shown(healthy, RED) == healthy.week
    assert correct(healthy).success
    assert days_shown(healthy, GREEN) == healthy.week
    assert cell(healthy, "call_logs", healthy.week[0])["users_complete"] == 8


def test_a_red_day_stays_red_when_the_status_is_rebuilt_from_nothing(
    healthy: Product, cached: sa.Engine
) -> None:
    fail(healthy, healthy.bad_day)
    correct(healthy)
    with cached.begin() as db:
        db.execute(sa.text("UPDATE asset_keys SET cached_status_data = NULL"))
    assert days_shown(healthy, RED) == [healthy.bad_day]
    assert not tick(healthy, sensors.wrong_colours).run_requests


def test_a_verdict_during_a_running_backfill_leaves_its_days_in_progress(
    healthy: Product,
) -> None:
    running = queued(healthy, *healthy.week[:3])
    healthy.instance.report_run_failed(queued(healthy, healthy.week[-1]))
    fail(healthy, healthy.week[0], healthy.week[-2])
    correct(healthy)
    assert days_shown(healthy, UNDER_WAY) == healthy.week[:3]
    assert days_shown(healthy, RED) == [healthy.week[-2]]
    assert colour(healthy, healthy.week[-1]) is GREEN
    healthy.instance.report_run_failed(running)
    correct(healthy)
    assert days_shown(healthy, RED) == [healthy.week[0], healthy.week[-2]]


def test_a_failed_sync_of_some_users_is_red_at_once_also_where_nothing_was_materialized(
    healthy: Product,
) -> None:
    before, first = healthy.week[0] - timedelta(days=1), healthy.week[0]
    copper = DEMO[COPPER].id
    execute(
        healthy,
        "UPDATE api_keys SET access_token = 'enc:v1:gone:AAAA', "  # noqa: S608
        f"refresh_token = 'enc:v1:gone:AAAA' WHERE user_id = '{copper}'",
    )
    config = {"user_ids": [copper], "first": str(before), "last": str(first)}
    run = healthy.run("sync_users", run_config={"ops": {"read_user_days": {"config": config}}})
    assert "cannot be decrypted" in failure_of(run)
    assert days_shown(healthy, RED) == [before, first]
    assert days_shown(healthy, GREEN) == healthy.week[1:]


def test_a_red_day_that_was_never_materialized_says_who_and_why_where_the_ui_looks(
    demo: Product,
) -> None:
    assert not demo.sync([demo.bad_day]).success
    assert days_shown(demo, RED) == [demo.bad_day]
    assert demo.days("call_logs") == set()
    correct(demo)  # and then no other run is asked for
    assert days_shown(demo, RED) == [demo.bad_day]
    said = cell(demo, "call_logs", demo.bad_day)
    assert f"Missing: {COPPER}." in str(said["is_this_day_complete"])
    assert f"**{COPPER}** failed: HighLevel" in str(said["who_needs_something"])
    assert str(said["read_again"]).endswith(f"partition={demo.bad_day}")
    assert "calls" not in said  # it would be plotted


def test_a_user_who_is_connected_later_makes_the_days_red_that_were_not_read(
    healthy: Product,
) -> None:
    execute(healthy, "UPDATE api_keys SET connection_since = now() - interval '1 day'")
    juniper = healthy.connect("Juniper Fitness")
    assert juniper.state is ConnectionState.CONNECTED
    assert not tick(healthy, sensors.wrong_colours).run_requests
    days = healthy.week[-2:]
    assert healthy.sync(days, user_ids=[str(juniper.user.id)]).success
    text = failure_of(correct(healthy))
    assert "1 user is not complete on 5 days" in text
    assert (
        f"- Juniper Fitness, {healthy.week[0]} to {healthy.week[4]} (5 days): Not synced yet."
        in text
    )
    assert days_shown(healthy, RED) == healthy.week[:5]


def test_a_sync_of_no_users_is_refused_with_a_sentence_and_records_nothing(
    demo: Product,
) -> None:
    config = {"user_ids": [], "first": str(demo.week[0]), "last": str(demo.week[0])}
    run = demo.run("sync_users", run_config={"ops": {"read_user_days": {"config": config}}})
    assert "No user is named: enter the ids of the users to sync." in failure_of(run)
    assert not [event for event in run.all_events if event.is_asset_observation]
    assert demo.days("call_logs") == demo.days("sync_status") == set()


def test_a_day_that_no_run_has_planned_is_missing_and_left_alone(demo: Product) -> None:
    assert not tick(demo, sensors.wrong_colours).run_requests
    assert demo.run("correct_colours").success
    assert days_shown(demo, GREEN) == days_shown(demo, RED) == []


def test_where_users_and_days_are_very_many_old_days_take_turns_and_synced_ones_do_not_wait(
    healthy: Product,
) -> None:
    old, new = healthy.week[0], healthy.week[-1]
    execute(healthy, "UPDATE sync_ledger SET finished_at = now() - interval '1 hour'")
    fail(healthy, old, new)
    execute(healthy, f"UPDATE sync_ledger SET finished_at = now() WHERE day = '{new}'")  # noqa: S608
    with healthy.pipeline.engine.begin() as db:
        now = database_now(db)
        two_days = 2 * len(DEMO)
        found = [
            set(colours.wrong_days(healthy.instance, db, now, turn=turn, rows=two_days))
            for turn in range(4)
        ]
    assert found == [{old, new}, {new}, {new}, {new}]


def test_no_second_correction_is_asked_for_while_one_is_under_way(healthy: Product) -> None:
    fail(healthy, healthy.bad_day)
    job = defs.resolve_job_def("correct_colours")
    healthy.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "being corrected" in str(tick(healthy, sensors.wrong_colours).skip_reason)


def test_a_correction_waits_for_no_pool_and_goes_before_other_runs() -> None:
    job = defs.resolve_job_def("correct_colours")
    assert job.tags["dagster/priority"] == "20"
    assert job.tags["dagster/max_retries"] == "0"
    assert not [node.definition.pool for node in job.nodes if node.definition.pool]

"""What a purge deletes and what it may not change, on real runs that were made old in SQL."""

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.execution.api import create_execution_plan
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._serdes import serialize_value

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import checks, partitions, schedules
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import LOCATION, Product

COPPER = str(DEMO["Copper Kettle Catering"].location_id)
ASSETS = ("call_logs", "sync_status", "user_tokens", "agents")


@pytest.fixture
def tables() -> Iterator[sa.Engine]:
    """Dagster's own tables, of the ``product`` or ``demo`` that a test names before it."""
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    yield engine
    engine.dispose()


def _age(tables: sa.Engine, days: int = 91) -> None:
    """Make all that has happened so far older."""
    with tables.begin() as db:
        for statement in (
            "UPDATE runs SET create_timestamp = create_timestamp - :ago, "
            "update_timestamp = update_timestamp - :ago, "
            "start_time = start_time - :seconds, end_time = end_time - :seconds",
            "UPDATE event_logs SET timestamp = timestamp - :ago",
        ):
            ago = timedelta(days=days)
            db.execute(sa.text(statement), {"ago": ago, "seconds": ago.total_seconds()})


def _purge(product: Product, **config: int) -> str:
    """Run the job; what it said it did."""
    run_config = {"ops": {"delete_old_runs": {"config": config}}}
    result = product.run("purge_old_runs", run_config=run_config)
    assert result.success
    (text,) = [
        record.user_message
        for record in product.instance.all_logs(result.run_id)
        if record.user_message.startswith("Deleted")
    ]
    return text


def _shown(instance: dg.DagsterInstance) -> dict[str, Any]:
    """All that the UI reads about the assets, to the byte; nothing from its cache."""
    graph = defs.get_repository_def().asset_graph
    storage = instance.event_log_storage
    shown: dict[str, Any] = {}
    for name in ASSETS:
        key = dg.AssetKey(name)
        (record,) = storage.get_asset_records([key])
        shown[name] = {
            "status": _status(instance, name),
            "materialized": sorted(instance.get_materialized_partitions(key)),
            "materializations": _last(instance.fetch_materializations(key, limit=9_999).records),
            "observations": _last(instance.fetch_observations(key, limit=9_999).records),
            "record": serialize_value(record.asset_entry.last_materialization_record),
            "last_run": record.asset_entry.last_run_id,
        }
    latest = storage.get_latest_asset_check_execution_by_key(sorted(graph.asset_check_keys))
    assert len(latest) > 3
    for check, execution in sorted(latest.items()):
        run = instance.get_run_by_id(execution.run_id)
        assert run is not None
        shown[str(check)] = (execution.id, execution.status, run.status, execution.event)
    return shown


def _status(instance: dg.DagsterInstance, asset: str) -> str:
    """Which partitions are green, red and under way, as the status bar shows them."""
    key = dg.AssetKey(asset)
    instance.event_log_storage.wipe_asset_cached_status(key)
    partitions_def = defs.get_repository_def().asset_graph.get(key).partitions_def
    status = get_and_update_asset_status_cache_value(instance, key, partitions_def)
    assert status is not None
    return serialize_value(status)


def _last(records: Any) -> Mapping[str | None, str]:
    """The newest record of each partition."""
    newest_last = sorted(records, key=lambda record: record.storage_id)
    return {record.partition_key: serialize_value(record) for record in newest_last}


def _check_connections(product: Product) -> dg.ExecuteInProcessResult:
    """Execute the check alone, as an operator can in the UI: nothing is materialized."""
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(),
        asset_check_selection={checks.no_connection_needs_a_person.check_key},
    )
    return job.execute_in_process(instance=product.instance, tags=LOCATION)


def _run_ids(product: Product) -> set[str]:
    return {run.run_id for run in product.instance.get_runs() if run.job_name != "purge_old_runs"}


def _count(tables: sa.Engine, table: str, run_id: str) -> int:
    with tables.begin() as db:
        return db.execute(
            sa.text(f"SELECT count(*) FROM {table} WHERE run_id = :run"),  # noqa: S608
            {"run": run_id},
        ).scalar_one()


def test_after_a_purge_every_asset_and_check_shows_exactly_what_it_showed_before(
    demo: Product, tables: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    superseded = demo.sync(demo.week)
    demo.sandbox.world.heal(COPPER)
    green = demo.sync(demo.week, reread=True)
    green_alone = demo.sync([demo.bad_day], reread=True)
    demo.sandbox.world.add_fault(Fault("server_error", COPPER, day=demo.bad_day, status=503))
    red = demo.sync([demo.bad_day], reread=True)
    with monkeypatch.context() as broken:
        broken.setenv("VOICEAI_TOKEN_KEYS", "of no use")
        red_at_once = demo.run("update_sync_status", partition_key=str(demo.week[0]))
    green_again = demo.sync(demo.week[-1:])
    looked = demo.run("inspect_connections")
    alerted = demo.run("send_alerts")
    looked_again = demo.run("inspect_connections")
    checked = _check_connections(demo)
    named = demo.run("update_directory")
    reds = (superseded, red, red_at_once)
    others = (green, green_alone, green_again, looked, alerted, looked_again, checked, named)
    assert not any(run.success for run in reds)
    assert all(run.success for run in others)
    _age(tables)
    before = _shown(demo.instance)

    said = _purge(demo)

    assert _shown(demo.instance) == before
    gone = {superseded.run_id, looked.run_id}
    assert _run_ids(demo) == {run.run_id for run in (*reds, *others)} - gone
    assert said.startswith("Deleted 2 runs that ended more than 90 days ago and kept 9 of that age")
    for run_id in gone:
        for table in ("runs", "run_tags", "event_logs", "asset_check_executions"):
            assert _count(tables, table, run_id) == 0, table


def test_a_failed_day_that_a_cancelled_run_planned_again_does_not_turn_red_by_a_purge(
    demo: Product, tables: sa.Engine
) -> None:
    """Dagster shows the outcome of the last plan; without it, that of the one before."""
    red = demo.sync([demo.bad_day])
    job = defs.resolve_job_def("sync_calls")
    tags = LOCATION | partitions.range_tags(demo.bad_day, demo.bad_day)
    cancelled = demo.instance.create_run_for_job(
        job, execution_plan=create_execution_plan(job, tags=tags), tags=tags
    )
    demo.instance.report_run_canceled(cancelled)
    later = demo.sync(demo.week[-1:])
    _age(tables)
    before = _status(demo.instance, "call_logs")
    _purge(demo)
    assert _status(demo.instance, "call_logs") == before
    assert _run_ids(demo) == {red.run_id, cancelled.run_id, later.run_id}


def test_the_run_that_keeps_an_incomplete_day_red_survives_a_purge(
    demo: Product, tables: sa.Engine
) -> None:
    demo.sandbox.world.heal(COPPER)
    green = demo.sync(demo.week)
    with demo.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE sync_ledger SET state = 'failed' WHERE day = :day"),
                   {"day": demo.bad_day})  # fmt: skip
    verdict = demo.run("correct_colours")
    assert not verdict.success
    _age(tables)
    before = _status(demo.instance, "call_logs")
    _purge(demo)
    assert _status(demo.instance, "call_logs") == before
    assert _run_ids(demo) == {green.run_id, verdict.run_id}


def test_runs_of_the_last_90_days_runs_under_way_and_other_peoples_runs_are_left_alone(
    product: Product, tables: sa.Engine
) -> None:
    @dg.job
    def theirs() -> None:
        pass

    elsewhere = {".dagster/repository": "__repository__@their_location"}
    foreign = theirs.execute_in_process(instance=product.instance, tags=elsewhere)
    alerts = defs.resolve_job_def("send_alerts")
    queued = product.instance.create_run_for_job(
        alerts, tags=LOCATION, status=dg.DagsterRunStatus.STARTED
    )
    old = product.run("send_alerts")
    _age(tables, days=2)
    recent = product.run("send_alerts")
    _age(tables, days=89)

    said = _purge(product)

    assert _run_ids(product) == {foreign.run_id, queued.run_id, recent.run_id}
    assert said.startswith("Deleted 1 runs that ended more than 90 days ago")
    assert product.instance.get_run_by_id(old.run_id) is None


def test_a_purge_of_more_than_its_share_deletes_the_oldest_and_says_that_there_are_more(
    product: Product, tables: sa.Engine
) -> None:
    runs = [product.run("send_alerts").run_id for _ in range(3)]
    _age(tables)
    assert "There are more" in _purge(product, at_most=2)
    assert _run_ids(product) == set(runs[2:])
    assert "There are more" not in _purge(product, at_most=2)
    assert _run_ids(product) == set()


def test_a_purge_that_was_cut_off_is_finished_by_the_next(
    product: Product, tables: sa.Engine
) -> None:
    run_id = product.run("send_alerts").run_id
    product.instance.event_log_storage.delete_events(run_id)
    _age(tables)
    _purge(product)
    assert _run_ids(product) == set()


def test_what_a_run_printed_goes_with_it(
    product: Product, tables: sa.Engine, tmp_path: Path
) -> None:
    printed = tmp_path / "dagster" / "compute_logs"
    run_id = product.run("send_alerts").run_id
    assert (printed / run_id).is_dir()
    _age(tables)
    _purge(product)
    assert not (printed / run_id).exists()


def test_the_purge_runs_every_night_between_the_nightly_sync_and_the_morning() -> None:
    schedule = schedules.old_runs_every_night
    assert schedule.job_name == "purge_old_runs"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "15 2 * * *"

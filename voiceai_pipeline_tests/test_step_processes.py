"""Nothing assumes one process: the same runs with a process per step, as deploy/ offers it."""

import os

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.reconstruct import ReconstructableRepository

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import partitions
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import Product

HARBOR = DEMO["Harbor Dental"].id
ROWS = {
    "call_logs": "SELECT to_jsonb(t) - '{first_seen_at,last_changed_at}'::text[] FROM call_logs t",
    "sync_ledger": "SELECT to_jsonb(t) - '{run_id,started_at,finished_at,read_until}'::text[] "
    "FROM sync_ledger t",
    "sync_status": "SELECT to_jsonb(t) - '{id,last_sync_at,created_at,updated_at}'::text[] "
    "FROM sync_status t",
    "locations": "SELECT to_jsonb(t) - '{first_seen_at,last_seen_at}'::text[] FROM locations t",
}
"""Every row that these assets write, without the ids and times that each run has of its own."""


DEPLOYED = ReconstructableRepository.for_file(
    str(PROJECT / "deploy" / "step_processes.py"), "defs", str(PROJECT)
)
"""As a code server hands it on: every process loads the file for itself."""


def _materialize(product: Product, partition: str | None, *assets: str) -> set[int]:
    """Materialize with a process per step; which processes these were."""
    with dg.execute_job(
        DEPLOYED.get_reconstructable_job("__ASSET_JOB"),
        instance=product.instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={"dagster/partition": partition} if partition else {},
    ) as result:
        assert result.success
        starts = product.instance.all_logs(result.run_id, dg.DagsterEventType.STEP_START)
    return {pid for start in starts if (pid := start.get_dagster_event().pid)}


def _tables(product: Product) -> dict[str, list[str]]:
    with product.pipeline.engine.begin() as db:
        return {
            name: sorted(str(row) for row in db.execute(sa.text(query)).scalars())
            for name, query in ROWS.items()
        }


def test_a_process_per_step_writes_the_same_tables_and_colours_as_one_process(
    product: Product,
) -> None:
    product.connect("Harbor Dental")
    product.connect("Pine Realty")
    product.instance.add_dynamic_partitions(partitions.USERS, [HARBOR])
    yesterday = product.week[-1]
    assert product.sync([yesterday]).success
    assert product.run("update_directory").success
    expected = _tables(product)
    assert all(expected.values())
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text(f"TRUNCATE {', '.join(ROWS)}"))

    processes = _materialize(product, str(yesterday), "call_logs")
    processes |= _materialize(product, HARBOR, "user_tokens")
    processes |= _materialize(product, None, "agents", "locations")

    assert _tables(product) == expected
    assert len(processes - {os.getpid()}) == 4
    for asset, partition in (
        ("call_logs", str(yesterday)),
        ("sync_status", str(yesterday)),
        ("user_tokens", HARBOR),
    ):
        shown = product.instance.get_materialized_partitions(dg.AssetKey(asset))
        assert shown == {partition}


def test_the_deployment_with_step_processes_holds_the_same_definitions() -> None:
    ours, theirs = defs.get_repository_def(), DEPLOYED.get_definition()
    assert theirs.asset_graph.asset_check_keys == ours.asset_graph.asset_check_keys
    assert set(theirs.assets_defs_by_key) == set(ours.assets_defs_by_key)
    assert set(theirs.job_names) == set(ours.job_names)
    assert {one.name for one in theirs.schedule_defs} == {one.name for one in ours.schedule_defs}
    assert {one.name for one in theirs.sensor_defs} == {one.name for one in ours.sensor_defs}
    assert theirs.get_top_level_resources().keys() == ours.get_top_level_resources().keys()

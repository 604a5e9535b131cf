"""The check on connections: recorded whenever they are, and about all users."""

import dagster as dg

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import checks, partitions
from voiceai_pipeline_tests.support.dagster_runs import (
    EXPIRE,
    execute,
    refresh_of,
)
from voiceai_pipeline_tests.support.product import Product


def test_the_check_on_connections_is_recorded_whenever_they_are(product: Product) -> None:
    pine, larch, willow = map(product.connect, ("Pine Realty", "Larch Auto Care", "Willow Spa"))
    assert product.run("inspect_connections").success
    (first,) = _recorded(product)
    assert first.passed
    assert first.description == "No connection needs action."

    product.sandbox.world.revoke(str(larch.location_id))
    product.sandbox.world.pause(str(willow.location_id))
    execute(product, EXPIRE)
    assert product.run("refresh_tokens", run_config=refresh_of(pine.user.id)).success
    assert product.run("refresh_tokens").success
    latest, before, _ = _recorded(product)
    assert before.passed  # the others have not been recorded yet
    assert not latest.passed
    assert latest.severity is dg.AssetCheckSeverity.WARN
    assert "- Larch Auto Care: Failed to refresh token (the app was removed in HighLevel" in str(
        latest.description
    )
    assert "- Willow Spa: HighLevel has paused the location" in str(latest.description)
    assert "Pine Realty" not in str(latest.description)
    assert latest.metadata["need_a_person"].value == 2
    assert latest.metadata["never_connected"].value == 9


def test_the_check_on_connections_covers_all_users_when_one_users_cell_is_materialized(
    product: Product,
) -> None:
    pine, larch = map(product.connect, ("Pine Realty", "Larch Auto Care"))
    product.sandbox.world.revoke(str(larch.location_id))
    execute(product, EXPIRE)
    product.run("refresh_tokens", run_config=refresh_of(larch.user.id))
    product.instance.add_dynamic_partitions(partitions.USERS, [str(pine.user.id)])
    asset = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey("user_tokens")},
        asset_check_selection={checks.no_connection_needs_a_person.check_key},
    )
    assert asset.execute_in_process(
        instance=product.instance, partition_key=str(pine.user.id)
    ).success
    # The asset records it, and Dagster executes the check: one record of the run, not two.
    assert [check.passed for check in _recorded(product)] == [False, False]


def _recorded(product: Product) -> list[dg.AssetCheckEvaluation]:
    """What the check on connections has found, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey("user_tokens"), "no_connection_needs_a_person")
    records = product.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    found = []
    for record in records:
        assert record.event is not None
        assert record.event.dagster_event is not None
        found.append(record.event.dagster_event.asset_check_evaluation_data)
    return found

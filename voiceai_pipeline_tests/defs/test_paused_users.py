"""A paused user in Dagster: no red, a warning that says so, no retries, and days filled after."""

from datetime import timedelta

import dagster as dg

from voiceai_pipeline.defs import sensors
from voiceai_pipeline_tests.support.dagster_runs import cell, checks_of, execute, tick
from voiceai_pipeline_tests.support.product import Product


def test_a_day_of_a_paused_user_is_green_with_a_warning_and_filled_after_the_pause(
    product: Product,
) -> None:
    pine, quiet = map(product.connect, ("Pine Realty", "Quiet Law"))
    product.pipeline.pauses.pause([pine.user.id], "not for Dagster")
    result = product.sync([product.yesterday], reread=True)
    assert result.success
    checks = checks_of(result)
    waits = checks["no_user_waits_for_a_person"]
    assert (waits.passed, waits.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "1 users are paused:" in str(waits.description)
    assert "Pine Realty: An operator has paused the user's syncs (since " in str(waits.description)
    assert waits.metadata["paused"].value == 1
    assert checks["every_connected_user_is_complete"].passed
    with product.pipeline.engine.connect() as db:
        logs = db.exec_driver_sql("SELECT string_agg(message, '') FROM sync_ledger").scalar_one()
    assert "not for Dagster" not in str(logs)

    def planned() -> list[dg.RunRequest]:
        requests = tick(product, sensors.new_users).run_requests or ()
        return [one for one in requests if one.job_name == "resync_failed_users"]

    def users(request: dg.RunRequest) -> list[str]:
        named: list[str] = request.run_config["ops"]["call_logs"]["config"]["user_ids"]
        return named

    assert [user for one in planned() for user in users(one)] == []
    product.pipeline.pauses.resume([pine.user.id])
    (fill,) = planned()
    assert users(fill) == [str(pine.user.id)]
    first = fill.tags["dagster/asset_partition_range_start"]
    assert first == str(product.today - timedelta(days=30)), "never read: as a new user"
    assert quiet.can_sync


def test_failed_days_of_a_paused_user_are_not_retried_and_the_sensor_says_why(
    product: Product,
) -> None:
    pine = product.connect("Pine Realty")
    execute(
        product,
        "INSERT INTO sync_ledger "
        "(user_id, location_id, day, state, failure_class, attempt, finished_at) "
        "SELECT user_id, location_id, current_date - 1, 'failed', 'provider_error', 1, "
        "now() - interval '1 hour' FROM api_keys",
    )
    assert tick(product, sensors.failed_user_syncs).run_requests
    product.pipeline.pauses.pause([pine.user.id])
    result = tick(product, sensors.failed_user_syncs)
    assert not result.run_requests
    assert "Not read, because their syncs are paused: 1 users." in str(result.skip_reason)


def test_the_check_on_connections_passes_for_a_paused_user_and_counts_it(
    product: Product,
) -> None:
    cedar = product.connect("Cedar Vets")  # without the scope that calls need
    product.pipeline.pauses.pause([cedar.user.id], "not for Dagster")
    assert product.run("inspect_connections").success
    shown = cell(product, "user_tokens", cedar.user.id)
    assert "syncs paused" in shown["state"]
    assert "|Syncs paused by an operator|" in shown["history"]
    assert "not for Dagster" not in str(shown)
    key = dg.AssetCheckKey(dg.AssetKey("user_tokens"), "no_connection_needs_a_person")
    (record,) = product.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    assert record.event is not None
    assert record.event.dagster_event is not None
    found = record.event.dagster_event.asset_check_evaluation_data
    assert found.passed
    assert found.metadata["syncs_paused"].value == 1

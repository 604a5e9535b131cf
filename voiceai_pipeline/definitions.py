"""Everything Dagster loads, by name: a table of contents. No logic and no I/O here."""

import dagster as dg

from voiceai_pipeline.defs import (
    assets,
    checks,
    freshness_check,
    helpers,
    jobs,
    mart_assets,
    resources,
    schedules,
    sensors,
)

defs = dg.Definitions(
    assets=[
        assets.user_tokens,
        assets.refreshed_credentials,
        assets.call_logs,
        assets.sync_status,
        assets.reconciliation,
        assets.agents,
        assets.locations,
        mart_assets.marts,
    ],
    asset_checks=[
        checks.no_connection_needs_a_person,
        freshness_check.every_connected_user_is_up_to_date,
    ],
    jobs=[
        jobs.sync_calls,
        jobs.sync_users,
        jobs.resync_failed_users,
        jobs.refresh_tokens,
        jobs.inspect_connections,
        jobs.send_alerts,
        jobs.reconcile,
        jobs.build_marts,
        jobs.update_directory,
        jobs.update_sync_status,
        jobs.correct_colours,
        helpers.help_sync,
        jobs.purge_old_runs,
        jobs.purge_old_calls,
    ],
    schedules=[
        schedules.yesterday_and_trailing_window,
        schedules.today_so_far,
        schedules.reconciliation_every_night,
        schedules.directory_every_morning,
        schedules.connections_every_morning,
        schedules.old_runs_every_night,
        schedules.old_calls_every_night,
    ],
    sensors=[
        sensors.expiring_tokens,
        sensors.connection_alerts,
        sensors.failed_user_syncs,
        sensors.new_users,
        sensors.stale_marts,
        sensors.wrong_colours,
        sensors.silent_runs,
        sensors.open_work,
        freshness_check.stale_users,
    ],
    resources={
        "pipeline": resources.pipeline_resource,
        "database": resources.database_resource,
        "settings": resources.settings_resource,
    },
    # A process per step costs seconds, and the work waits for the network anyway.
    executor=dg.in_process_executor,
)

"""Everything Dagster loads, by name: a table of contents. No logic and no I/O here."""

import dagster as dg

from voiceai_pipeline.defs import assets, jobs, resources, schedules, sensors

defs = dg.Definitions(
    assets=[
        assets.user_tokens,
        assets.refreshed_credentials,
        assets.call_logs,
        assets.sync_status,
        assets.agents,
        assets.locations,
    ],
    jobs=[
        jobs.sync_calls,
        jobs.resync_failed_users,
        jobs.refresh_tokens,
        jobs.inspect_connections,
        jobs.update_directory,
        jobs.update_sync_status,
    ],
    schedules=[
        schedules.yesterday_and_trailing_window,
        schedules.today_so_far,
        schedules.directory_every_morning,
        schedules.connections_every_morning,
    ],
    sensors=[
        sensors.expiring_tokens,
        sensors.failed_user_syncs,
        sensors.new_users,
    ],
    resources={
        "pipeline": resources.pipeline_resource,
        "database": resources.database_resource,
    },
    # A process per step costs seconds, and the work waits for the network anyway.
    executor=dg.in_process_executor,
)

"""The schedules, in the pipeline's time zone."""

from datetime import datetime, timedelta

import dagster as dg

from voiceai_pipeline.core.days import TRAILING_DAYS
from voiceai_pipeline.defs import jobs, old_calls, partitions

_ALL_USERS = {"ops": {"call_logs": {"config": {"reread": True}}}}


def _range(first: datetime, last: datetime, moment: datetime) -> dg.RunRequest | dg.SkipReason:
    """One run over consecutive days, so that each location is read in one window."""
    start, end = max(first.date(), partitions.FIRST_DAY), last.date()
    if start > end:
        return dg.SkipReason(f"The first day that can be synced is {start}.")
    return dg.RunRequest(
        run_key=f"{moment:%Y-%m-%dT%H:%M}",
        run_config=_ALL_USERS,
        tags=partitions.range_tags(start, end),
    )


@dg.schedule(
    job=jobs.sync_calls,
    cron_schedule="15 0 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=f"Sync yesterday, and re-sync the {TRAILING_DAYS} days before it.",
)
def yesterday_and_trailing_window(
    context: dg.ScheduleEvaluationContext,
) -> dg.RunRequest | dg.SkipReason:
    moment = context.scheduled_execution_time
    return _range(moment - timedelta(days=1 + TRAILING_DAYS), moment - timedelta(days=1), moment)


@dg.schedule(
    job=jobs.sync_calls,
    cron_schedule="45 1-23/2 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Sync today so far, every two hours.",
)
def today_so_far(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    moment = context.scheduled_execution_time
    return _range(moment, moment, moment)


reconciliation_every_night = dg.ScheduleDefinition(
    name="reconciliation_every_night",
    job=jobs.reconcile,
    # After the nightly sync, so that late calls which that finds do not count as differences.
    cron_schedule="30 3 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Compare the stored calls of the last 30 days with HighLevel's totals.",
)

directory_every_morning = dg.ScheduleDefinition(
    name="directory_every_morning",
    job=jobs.update_directory,
    cron_schedule="30 4 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Update the names of agents and locations.",
)

connections_every_morning = dg.ScheduleDefinition(
    name="connections_every_morning",
    job=jobs.inspect_connections,
    cron_schedule="0 5 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Record the state of every user's connection.",
)


@dg.schedule(
    job=jobs.purge_old_calls,
    # Between the nightly sync and the comparison of totals.
    cron_schedule="45 2 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Delete calls that are no longer kept, if VOICEAI_KEEP_CALLS_DAYS is set.",
)
def old_calls_every_night(
    context: dg.ScheduleEvaluationContext,
) -> dg.RunRequest | dg.SkipReason:
    if partitions.KEEP_DAYS is None:
        return dg.SkipReason(old_calls.OFF)
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}")


old_runs_every_night = dg.ScheduleDefinition(
    name="old_runs_every_night",
    job=jobs.purge_old_runs,
    cron_schedule="15 2 * * *",
    execution_timezone=partitions.days.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Delete old runs from Dagster's own tables.",
)

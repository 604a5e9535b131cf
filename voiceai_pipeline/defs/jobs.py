"""The jobs and their ops: what an operator, a schedule or a sensor launches."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.sync import Mode
from voiceai_pipeline.connections import alert_channels, alert_delivery, alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_channels import Channel
from voiceai_pipeline.core.days import DayState, day_range
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.defs import (
    assets,
    colours,
    dagster_channel,
    mart_assets,
    old_calls,
    recording,
    retention,
    steps,
)
from voiceai_pipeline.defs.dagster_internals import REPOSITORY_LABEL_TAG
from voiceai_pipeline.pipeline import Pipeline

BY_COMMAND_LINE: Final = {"voiceai/launched_by": "command line"}
"""Tags of runs launched by the command line, which Dagster tags with no code location."""


class Users(dg.Config):
    """Which users."""

    user_ids: list[str] = Field(
        default=[],
        description="Ids. Empty: to refresh tokens, all users that are due; to record, all users.",
    )


class Memory(dg.Config):
    """How long runs are kept."""

    keep_days: int = Field(default=90, ge=1)
    """Runs that ended longer ago are deleted, unless an asset or a check still shows them."""
    at_most: int = Field(default=5_000, ge=1)
    """How many runs to delete at once: a few minutes of work."""


class UserDays(dg.Config):
    """Which users, and which days: from the first to the last."""

    user_ids: list[str] = Field(
        description="Ids of users, as the Connections page and `voiceai-pipeline users` show them."
    )
    first: str = Field(description="The first day to re-sync, YYYY-MM-DD.")
    last: str = Field(description="The last one, included; the same for a single day.")


@dg.op(pool=assets.POOL)
def read_user_days(
    context: dg.OpExecutionContext,
    config: UserDays,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Re-sync these days of these users."""
    try:
        first, last = date.fromisoformat(config.first), date.fromisoformat(config.last)
    except ValueError:
        raise dg.Failure("Write the days as YYYY-MM-DD.", allow_retries=False) from None
    users = steps.parse_users(config.user_ids)
    if not users:
        raise dg.Failure(
            "No user is named: enter the ids of the users to sync. To sync all users, materialize "
            "the days of call_logs.",
            allow_retries=False,
        )
    days = day_range(first, last)
    steps.refuse_if_none_is_kept(pipeline, days)
    outcomes, reports = steps.sync_and_record(
        context, pipeline, days, users, Mode.REREAD, settings.page
    )
    # This run does not execute the asset, so its failure alone would make no day red.
    colours.plan(context, sorted({o.day for o in outcomes if o.state is DayState.FAILED}))
    steps.fail_if_any_user_failed(outcomes, reports)


@dg.op(pool=assets.POOL)
def refresh_due_tokens(
    context: dg.OpExecutionContext,
    config: Users,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Refresh the tokens that are due, and retry paused connections."""
    user_ids = steps.parse_users(config.user_ids)
    if not user_ids:
        with pipeline.engine.begin() as db:
            due = connections.due_for_refresh(db, database_now(db))
        user_ids = [connection.user.id for connection in due]
    steps.refresh(context, pipeline, settings.page, user_ids)


@dg.op
def record_user_tokens(
    context: dg.OpExecutionContext,
    config: Users,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Record the state of connections; HighLevel is not called."""
    user_ids = steps.parse_users(config.user_ids) or None
    recording.record_connections(context, pipeline.engine, settings.page, user_ids)


@dg.op
def deliver_alerts(
    context: dg.OpExecutionContext,
    database: dg.ResourceParam[sa.Engine],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Deliver pending alerts to every channel, Dagster's UI first."""
    everywhere: list[Channel] = [
        dagster_channel.DagsterEvents(context),
        *alert_channels.channels(settings.alerts),
    ]
    with database.begin() as db:
        news = alerts.pending(db, dagster_channel.DAGSTER)
    deliveries = [
        alert_delivery.deliver(database, channel, settings.page) for channel in everywhere
    ]
    if users := sorted({notice.user.id for notice in news if notice.user}):
        # The users' partitions and the check still show the state before the alert.
        recording.record_connections(context, database, settings.page, users)
    steps.report_deliveries(context, deliveries)


@dg.op
def correct_days(
    context: dg.OpExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Record the state of each day whose colour does not match the ledger."""
    colours.correct(context, pipeline, settings.page)


@dg.op
def delete_old_runs(
    context: dg.OpExecutionContext, config: Memory, database: dg.ResourceParam[sa.Engine]
) -> None:
    """Delete the old runs of this code location that the UI no longer needs, with their events, and
    syncs of the same age from the users' histories."""
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    with database.begin() as db:
        user_syncs.purge(db, before)
    ours = [BY_COMMAND_LINE]
    if location := context.run.tags.get(REPOSITORY_LABEL_TAG):
        ours.append({REPOSITORY_LABEL_TAG: location})
    purged = retention.purge(
        context.instance,
        ours,
        before,
        config.at_most,
    )
    more = "" if purged.is_complete else " There are more; the next run deletes them."
    context.log.info(
        f"Deleted {purged.deleted} runs that ended more than {config.keep_days} days ago and kept "
        f"{purged.kept} of that age, because an asset or a check still shows them.{more}"
    )


@dg.op
def delete_old_calls(
    context: dg.OpExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Delete the calls of months that are older than VOICEAI_KEEP_CALLS_DAYS, with all that was
    derived from each call. The numbers of the marts stay."""
    old_calls.delete(context, pipeline, settings.page)


# Not an asset job: a run that succeeds for its users would clear the red of a day that is still red
# because of another user.
@dg.job(
    description="Re-sync days of some users now. The Connections page launches it; to launch it "
    "here, enter the ids and the days in the Launchpad.",
    # The Launchpad's initial config, to be replaced. Unchanged, it is refused.
    config={
        "ops": {
            "read_user_days": {
                "config": {"user_ids": ["USER ID"], "first": "YYYY-MM-DD", "last": "YYYY-MM-DD"}
            }
        }
    },
)
def sync_users() -> None:
    read_user_days()


@dg.job(description="Refresh the tokens that are due, for many users in one run.")
def refresh_tokens() -> None:
    refresh_due_tokens()


@dg.job(description="Record the state of every user's connection in user_tokens.")
def inspect_connections() -> None:
    record_user_tokens()


@dg.job(
    description="Send an alert, once, when a connection needs action or works again.",
    tags={"dagster/priority": "10"},  # a backfill of a year must not keep it waiting
)
def send_alerts() -> None:
    deliver_alerts()


@dg.job(
    description="Give days of call_logs the colour that matches the ledger, without calling "
    "HighLevel. The run fails if it finds days that are not complete: its failure makes them red, "
    "and says which users are missing and why.",
    tags={"dagster/priority": "20", "dagster/max_retries": "0"},
)
def correct_colours() -> None:
    correct_days()


@dg.job(description="Delete old runs and their events; what the assets show does not change.")
def purge_old_runs() -> None:
    delete_old_runs()


@dg.job(
    description="Delete calls that are no longer kept, for good and by whole months. Does nothing "
    "unless VOICEAI_KEEP_CALLS_DAYS is set. The numbers of the marts stay.",
    tags={"dagster/max_retries": "0"},  # the next night continues
)
def purge_old_calls() -> None:
    delete_old_calls()


sync_calls = dg.define_asset_job(
    "sync_calls",
    selection=["call_logs"],
    description="Sync the calls of a day or a range of days.",
)

resync_failed_users = dg.define_asset_job(
    "resync_failed_users",
    selection=["call_logs"],
    config={"ops": {"call_logs": {"config": {"only_failed": True}}}},
    description="Re-sync a day or a range for the users whose sync failed, and for no others.",
)

update_sync_status = dg.define_asset_job(
    "update_sync_status",
    selection=["sync_status"],
    description="Show the current state of the ledger, without calling HighLevel.",
)

reconcile = dg.define_asset_job(
    "reconcile",
    selection=["reconciliation"],
    description="Compare HighLevel's totals of the last 30 days with the stored calls; days "
    "that differ are re-synced.",
)

build_marts = dg.define_asset_job(
    "build_marts",
    selection=mart_assets.NAMES,
    description="Recompute the marts of a day or a range of days from the stored calls.",
)

update_directory = dg.define_asset_job(
    "update_directory",
    selection=["agents", "locations"],
    description="Read the names and time zones of agents and locations.",
)

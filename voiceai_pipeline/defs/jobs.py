"""The verbs: what a person looks for when they want something done."""

import dagster as dg

from voiceai_pipeline.defs import assets
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.storage import connections
from voiceai_pipeline.storage.engine import database_now
from voiceai_pipeline.tokens import PROACTIVE_MARGIN


class Users(dg.Config):
    """Which users; empty: all whom it concerns."""

    user_ids: list[str] = []


@dg.op(pool=assets.POOL)
def refresh_due_tokens(
    context: dg.OpExecutionContext, config: Users, pipeline: dg.ResourceParam[Pipeline]
) -> None:
    """Renew the tokens that expire soon, and try paused connections again."""
    user_ids = assets.parse_users(config.user_ids)
    if not user_ids:
        with pipeline.engine.begin() as db:
            now = database_now(db)
            due = connections.due_for_refresh(db, before=now + PROACTIVE_MARGIN, now=now)
        user_ids = [connection.user.id for connection in due]
    assets.refresh(context, pipeline, user_ids)


@dg.op
def record_user_tokens(
    context: dg.OpExecutionContext, config: Users, pipeline: dg.ResourceParam[Pipeline]
) -> None:
    """Record how connections stand; asks HighLevel nothing."""
    assets.record_connections(context, pipeline, assets.parse_users(config.user_ids) or None)


@dg.job(description="Renew tokens that expire soon, in one run for many users.")
def refresh_tokens() -> None:
    refresh_due_tokens()


@dg.job(description="Record in user_tokens how every user's connection stands.")
def inspect_connections() -> None:
    record_user_tokens()


sync_calls = dg.define_asset_job(
    "sync_calls",
    selection=["call_logs"],
    description="Sync the calls of a day or a range of days.",
)

resync_failed_users = dg.define_asset_job(
    "resync_failed_users",
    selection=["call_logs"],
    config={"ops": {"call_logs": {"config": {"only_failed": True}}}},
    description="Read a day or a range again for those whose sync failed, and for nobody else.",
)

update_sync_status = dg.define_asset_job(
    "update_sync_status",
    selection=["sync_status"],
    description="Show the ledger as it is now, without asking HighLevel.",
)

update_directory = dg.define_asset_job(
    "update_directory",
    selection=["agents", "locations"],
    description="Read the names and time zones of agents and locations.",
)

"""Hands the pipeline to Dagster as plain objects, opened when a run or a tick needs them, then
closed.

``pipeline`` is everything; ``database`` is for sensors, checks and jobs that never call HighLevel;
``settings`` is all settings.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import run_heartbeats
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.defs.dagster_internals import pool_connections
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline


@dg.resource(description="The pipeline's parts: tokens, HighLevel client, sync, database.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[Pipeline]:
    if context.instance is not None:
        pool_connections(context.instance)
    run_id = context.run.run_id if context.run else None
    settings = Settings.load(os.environ)
    with open_pipeline(settings, actor=Actor("dagster", run_id)) as pipeline:
        _require_tables(pipeline.engine, settings)
        with run_heartbeats.beating(pipeline.engine, run_id) if run_id else nullcontext():
            yield pipeline


@dg.resource(description="The pipeline's database, for what does not call HighLevel.")
def database_resource(_: dg.InitResourceContext) -> Iterator[sa.Engine]:
    settings = Settings.load(os.environ)
    with open_database(settings, pool_size=1) as engine:
        _require_tables(engine, settings)
        yield engine


@dg.resource(description="The settings: alert channels, addresses of links and others.")
def settings_resource(_: dg.InitResourceContext) -> Settings:
    return Settings.load(os.environ)


def _require_tables(engine: sa.Engine, settings: Settings) -> None:
    """Migrate the embedded database, because no other command may have done it. An operator
    migrates any other database (decision 2).

    Raises:
        dagster.Failure: another database has not been migrated.
    """
    try:
        with engine.begin() as db:
            is_behind = migrate.is_behind(db)
    except sa.exc.OperationalError:
        return  # the first query of the run or tick fails too, and is explained there
    if is_behind and settings.database_url is None:
        migrate.upgrade(engine)
    elif is_behind:
        raise dg.Failure(
            "The database that VOICEAI_DATABASE_URL names does not have our tables yet, or only "
            "older ones. Create them with: voiceai-pipeline migrate",
            allow_retries=False,
        )

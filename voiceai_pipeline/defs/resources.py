"""Hands the pipeline to Dagster as plain objects, opened when a run or a tick needs them, then
closed.

``pipeline`` is everything; ``database`` is for sensors, which read SQL and never ask HighLevel;
``settings`` are the alert channels and the addresses for links.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import run_heartbeats
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.defs.dagster_internals import pool_connections
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline


@dg.resource(description="The pipeline's parts: tokens, HighLevel client, sync, database.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[Pipeline]:
    if context.instance is not None:
        pool_connections(context.instance)
    run_id = context.run.run_id if context.run else None
    with (
        open_pipeline(Settings.load(os.environ), actor=Actor("dagster", run_id)) as pipeline,
        run_heartbeats.beating(pipeline.engine, run_id) if run_id else nullcontext(),
    ):
        yield pipeline


@dg.resource(description="The pipeline's database, for reading what there is to do.")
def database_resource(_: dg.InitResourceContext) -> Iterator[sa.Engine]:
    with open_database(Settings.load(os.environ), pool_size=1) as engine:
        yield engine


@dg.resource(description="The configured alert channels and link addresses.")
def settings_resource(_: dg.InitResourceContext) -> Settings:
    return Settings.load(os.environ)

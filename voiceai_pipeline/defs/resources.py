"""Hands the core to Dagster as plain objects; opened when a run or a tick needs them, then closed.

``pipeline`` is everything; ``database`` is for sensors, which read SQL and never ask HighLevel;
``settings`` is where people are told and find things.
"""

import os
from collections.abc import Iterator
from typing import Final

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline

STATEMENT_TIMEOUT: Final = 600_000
"""Milliseconds of a statement on Dagster's own tables in a run; without ours it has no limit."""


@dg.resource(description="The pipeline's parts: tokens, HighLevel client, sync, database.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[Pipeline]:
    if context.instance is not None:
        # A run's storage opens a connection, or four, for each event: a backfill of a year has a
        # thousand. Dagster's webserver holds one open, and what it calls for that serves a run too.
        context.instance.optimize_for_webserver(
            statement_timeout=STATEMENT_TIMEOUT, pool_recycle=3600, max_overflow=20
        )
    actor = Actor("dagster", context.run.run_id if context.run else None)
    with open_pipeline(Settings.load(os.environ), actor=actor) as pipeline:
        yield pipeline


@dg.resource(description="The pipeline's database, for reading what there is to do.")
def database_resource(_: dg.InitResourceContext) -> Iterator[sa.Engine]:
    with open_database(Settings.load(os.environ), pool_size=1) as engine:
        yield engine


@dg.resource(description="What is configured: channels of alerts, addresses for links.")
def settings_resource(_: dg.InitResourceContext) -> Settings:
    return Settings.load(os.environ)

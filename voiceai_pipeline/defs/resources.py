"""Hands the core to Dagster as plain objects; opened when a run or a tick needs them, then closed.

``pipeline`` is everything; ``database`` is for sensors, which read SQL and never ask HighLevel.
"""

import os
from collections.abc import Iterator

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline
from voiceai_pipeline.settings import Settings


@dg.resource(description="The pipeline's parts: tokens, HighLevel client, sync, database.")
def pipeline_resource(_: dg.InitResourceContext) -> Iterator[Pipeline]:
    with open_pipeline(Settings.load(os.environ)) as pipeline:
        yield pipeline


@dg.resource(description="The pipeline's database, for reading what there is to do.")
def database_resource(_: dg.InitResourceContext) -> Iterator[sa.Engine]:
    with open_database(Settings.load(os.environ), pool_size=1) as engine:
        yield engine

"""The Dagster adapters, thin: one file per Dagster noun."""

import warnings

import click
import dagster as dg

from voiceai_pipeline.core import installation

if reason := installation.obstacle():
    # Dagster's commands print it as a sentence.
    raise click.ClickException(reason)

# We rely on these beta parameters knowingly; an operator can do nothing about the warnings.
warnings.filterwarnings(
    "ignore",
    r"Parameter `(allow_nonexistent_upstream_partitions|backfill_policy|owners|pool)` ",
    dg.BetaWarning,
)

"""Runs of the product in processes of their own, to be killed or to work at the same time."""

import multiprocessing
import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.definitions import defs
from voiceai_pipeline_tests.support.product import LOCATION

processes = multiprocessing.get_context("forkserver")

processes.set_forkserver_preload(["voiceai_pipeline_tests.support.token_processes", __name__])


def run_in_a_process(
    environment: Mapping[str, str], job: str, tags: Mapping[str, str], config: dict[str, Any]
) -> None:
    """Execute a job on the instance that the environment names; exits with 1 if it fails."""
    os.environ.update(environment)
    with dg.DagsterInstance.from_config(str(PROJECT)) as instance:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, raise_on_error=False, tags={**LOCATION, **tags}, run_config=config
        )
    raise SystemExit(0 if result.success else 1)

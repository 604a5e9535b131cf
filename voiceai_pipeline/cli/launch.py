"""Runs a sync for the command line, as a Dagster run in this process.

The run shows in the UI like any other, and needs neither webserver nor daemon. This is the only
module of ``cli`` that imports Dagster, which takes seconds.
"""

from collections.abc import Sequence
from datetime import date
from uuid import UUID, uuid4

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import run_heartbeats
from voiceai_pipeline.core.days import DAYS_PER_RUN, days_to_sync, stretches
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import jobs, partitions


def days_between(first: date, last: date, today: date) -> list[date]:
    """The days from ``first`` to ``last``, inclusive.

    Args:
        today: in the pipeline's time zone.

    Raises:
        voiceai_pipeline.core.days.DaysError: one is in the future, before the first partition, or
            no longer kept.
    """
    return days_to_sync(
        first, last, earliest=partitions.FIRST_DAY, today=today, keep_days=partitions.KEEP_DAYS
    )


def sync_calls(
    engine: sa.Engine, days: Sequence[date], user_ids: Sequence[UUID] | None, *, only_failed: bool
) -> str | None:
    """Sync ``days`` in runs of at most ``DAYS_PER_RUN`` days.

    Args:
        engine: of our database, for the runs' signs of life.
        user_ids: the users to sync; None: all.
        only_failed: skip users whose day is complete.

    Returns:
        A sentence about the last run that failed; None if every run succeeded.
    """
    config = {
        "user_ids": [str(user_id) for user_id in user_ids or ()],
        "only_failed": only_failed,
    }
    failure: str | None = None
    with dg.DagsterInstance.get() as instance:
        for stretch in stretches(sorted(days), DAYS_PER_RUN):
            run_id = str(uuid4())
            # Starts before the run does: if this process is killed, the sensor silent_runs fails
            # the run.
            with run_heartbeats.beating(engine, run_id):
                result = defs.resolve_job_def(jobs.sync_calls.name).execute_in_process(
                    instance=instance,
                    run_id=run_id,
                    raise_on_error=False,
                    run_config={
                        "ops": {"call_logs": {"config": config}},
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    },
                    tags={
                        **partitions.range_tags(stretch[0], stretch[-1]),
                        **jobs.BY_COMMAND_LINE,
                    },
                )
            if not result.success:
                failure = f"Dagster run {result.run_id} failed; its page in the UI says why."
    return failure

"""Runs a sync as a Dagster run of this process, for the command line: it shows in the UI like any
other, and needs neither webserver nor daemon."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import dagster as dg

from voiceai_pipeline.calls.sync import SyncRequestError
from voiceai_pipeline.core.days import DAYS_PER_RUN, day_range, stretches
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import jobs, partitions


def days_between(first: date, last: date, today: date) -> list[date]:
    """The days from ``first`` to ``last``, both included.

    Raises:
        SyncRequestError: one lies in the future, or before the first partition.
    """
    if last > today:
        raise SyncRequestError(f"{last} lies in the future; today is {today}.")
    if first < partitions.FIRST_DAY:
        raise SyncRequestError(
            f"{first} lies before {partitions.FIRST_DAY}, the first day that can be synced. Set "
            "VOICEAI_START_DATE to an earlier one."
        )
    return day_range(first, last)


def sync_calls(
    days: Sequence[date], user_ids: Sequence[UUID] | None, *, only_failed: bool
) -> str | None:
    """Sync ``days`` in runs of at most 31; return why the last failed one did, or None."""
    config = {
        "user_ids": [str(user_id) for user_id in user_ids or ()],
        "only_failed": only_failed,
    }
    failure: str | None = None
    with dg.DagsterInstance.get() as instance:
        for stretch in stretches(sorted(days), DAYS_PER_RUN):
            result = defs.resolve_job_def(jobs.sync_calls.name).execute_in_process(
                instance=instance,
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

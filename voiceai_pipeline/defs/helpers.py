"""Helpers: runs that share the work of a sync, on whatever engine the instance launches runs.

A helper run executes no asset and plans no materialization, so it changes no colour, check or
backfill. The sync that it helps records the days, and finishes alone if no helper ever starts.
"""

from collections.abc import Mapping
from typing import Final

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from voiceai_pipeline.calls import work_units
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.defs.dagster_internals import FINISHED_STATUSES
from voiceai_pipeline.pipeline import Pipeline

HELPS: Final = "voiceai/helps"
"""A helper run's tag: the id of the run that it helps. ``dagster.yaml`` limits helpers by it."""

WORTH_A_HELPER: Final = 32
"""Unclaimed locations for each helper to start: fewer are read before it is up."""

STARTS: Final = 5
"""How often a sync's helpers are started, for each helper allowed at once: helpers that always die
must not be started forever."""


class Leader(dg.Config):
    """Which run to help."""

    run_id: str = Field(description="The id of a run that syncs calls now.")


# Not in the syncs' pool: the leader holds a slot there, for which its own helpers would wait.
@dg.op
def help_leader(
    context: dg.OpExecutionContext, config: Leader, pipeline: dg.ResourceParam[Pipeline]
) -> None:
    """Read locations that another run has not read yet."""

    def is_led() -> bool:
        run = context.instance.get_run_by_id(config.run_id)
        return run is not None and run.status is dg.DagsterRunStatus.STARTED

    try:
        done = pipeline.sync.help(config.run_id, context.run.run_id, is_led)
    except PipelineError as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    context.log.info(f"{done} locations read for run {cleaned(config.run_id)}.")


@dg.job(
    description="Read locations for a sync that has many. A sensor launches it if VOICEAI_HELPERS "
    "allows it; it ends with the sync, and changes no colour.",
    # The sensor starts another one if there is still enough to do.
    tags={"dagster/max_retries": "0"},
    # The Launchpad's initial config, to be replaced. Unchanged, the run has nothing to do.
    config={"ops": {"help_leader": {"config": {"run_id": "RUN ID"}}}},
)
def help_sync() -> None:
    help_leader()


def requests(instance: dg.DagsterInstance, db: sa.Connection, allowed: int) -> list[dg.RunRequest]:
    """Requests for the helpers to start now. Deletes the work units of runs that have ended.

    Args:
        allowed: how many helpers may run at once, for all syncs together.
    """
    found: list[dg.RunRequest] = []
    at_most = STARTS * allowed
    for leader, free in work_units.free(db).items():
        run = instance.get_run_by_id(leader)
        if run is None or run.status in FINISHED_STATUSES:
            work_units.forget(db, leader)
        elif run.status is dg.DagsterRunStatus.STARTED:
            started = instance.get_runs(dg.RunsFilter(tags={HELPS: leader}))
            alive = sum(one.status not in FINISHED_STATUSES for one in started)
            allowed -= alive
            wanted = min(free // WORTH_A_HELPER - alive, allowed, at_most - len(started))
            # A helper that died has used up its run key, so each start has its own.
            found += [_request(leader, len(started) + n) for n in range(wanted)]
            allowed -= max(wanted, 0)
    return found


def _request(leader: str, number: int) -> dg.RunRequest:
    config: Mapping[str, object] = {"ops": {"help_leader": {"config": {"run_id": leader}}}}
    return dg.RunRequest(f"help {leader} {number}", run_config=dict(config), tags={HELPS: leader})

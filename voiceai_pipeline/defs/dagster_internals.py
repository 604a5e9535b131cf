"""Everything of Dagster's private API that the product uses, each with its reason.

No other module imports from ``dagster._core`` or any other private package. Undocumented methods of
public objects are called here too. ``test_dagster_internals.py`` compares each name and signature
with its use here, so that it fails if a Dagster upgrade changes one.

What is used, why, and the public issue that would make it unnecessary (where one is known):

- ``REPOSITORY_LABEL_TAG``: which code location a run belongs to; the tag is not exported.
- ``GRPC_INFO_TAG``: where the server that started a run listens.
- ``DefaultRunLauncher``, ``CheckRunHealthResult``, ``WorkerStatus``: run monitoring asks a launcher
  whether a run's process is alive, and the default launcher does not answer.
- ``LocalArtifactStorage``, ``LocalComputeLogManager``, ``ConfigurableClassData``: ``dagster.yaml``
  cannot give a folder a default value, and our storages follow VOICEAI_HOME.
- ``FINISHED_STATUSES``: which runs a purge may delete (dagster-io/dagster#33785, #4100).
- ``get_latest_storage_id_by_partition``, ``get_asset_check_partition_info``: which events the UI
  still shows, so that a purge keeps their runs (the same issues).
- ``AssetCheckExecutionsTable``, ``SqlEventLogStorage``: deleting a run leaves the rows of its
  checks behind (the same issues).
- ``compute_log_manager.delete_logs``: deleting a run leaves its logs behind
  (dagster-io/dagster#4498).
- ``report_run_failed``, ``report_run_canceled``, ``free_concurrency_slots_for_run``: run monitoring
  fails only runs whose launcher can tell that their process is gone.
- ``BulkActionStatus``, ``get_backfills``: whether a backfill is about to sync.
- ``optimize_for_webserver``: pooled connections to Dagster's own database in a run
  (dagster-io/dagster#33935).
- ``AssetPartitionStatus``, ``get_status_by_partition``: the colours of partitions as the UI shows
  them.
- ``DagsterEvent``, ``AssetMaterializationPlannedData``, ``report_dagster_event``: a partition is
  red only if the run of its latest planned event failed, and only launching a run of the asset
  plans one.
- ``WorkspaceProcessContext``, ``WorkspaceRequestContext``, ``WorkspaceFileTarget``,
  ``configure_loggers``, ``setup_interrupt_handlers``: the parts that Dagster's web server command
  puts together; the command has no option for a role per request.
- ``log_event`` with an ``AssetCheckEvaluation``: it works, but the annotation refuses it.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Final

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.tags import GRPC_INFO_TAG, REPOSITORY_LABEL_TAG
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._serdes import ConfigurableClassData
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

__all__ = [
    "FINISHED_STATUSES",
    "GRPC_INFO_TAG",
    "REPOSITORY_LABEL_TAG",
    "AssetPartitionStatus",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DefaultRunLauncher",
    "LocalArtifactStorage",
    "LocalComputeLogManager",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "WorkspaceRequestContext",
    "configure_loggers",
    "delete_run_completely",
    "fail_run",
    "is_backfill_requested",
    "latest_check_runs",
    "latest_event_ids",
    "log_check",
    "plan_materialization",
    "pool_connections",
    "setup_interrupt_handlers",
    "statuses_by_partition",
]

STATEMENT_TIMEOUT: Final = 600_000
"""A run's statement time-out for Dagster's own tables, in milliseconds; Dagster sets none."""


def is_backfill_requested(instance: dg.DagsterInstance) -> bool:
    """Whether a backfill is under way, including one that has not launched a run yet."""
    return bool(instance.get_backfills(status=BulkActionStatus.REQUESTED, limit=1))


def pool_connections(instance: dg.DagsterInstance) -> None:
    """Keep a connection to Dagster's own database open, as its webserver does.

    Otherwise a run's storage opens one to four connections for each event, and a backfill of a year
    has a thousand events.
    """
    instance.optimize_for_webserver(
        statement_timeout=STATEMENT_TIMEOUT, pool_recycle=3600, max_overflow=20
    )


def fail_run(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    """End a run whose process is gone, and free the slots that it holds in pools."""
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message=message)
    else:
        instance.report_run_failed(run, message=message)
    if instance.event_log_storage.supports_global_concurrency_limits:
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def log_check(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, evaluation: dg.AssetCheckEvaluation
) -> None:
    """Record a check's result in a run that does not execute the check."""
    context.log_event(evaluation)  # type: ignore[arg-type]  # only the annotation refuses it


def statuses_by_partition(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions_def: dg.PartitionsDefinition[str]
) -> Mapping[str, AssetPartitionStatus | None]:
    """The status that the UI shows for every partition of an asset; None: it shows none."""
    keys = partitions_def.get_partition_keys()
    return instance.get_status_by_partition(asset, keys, partitions_def) or {}


def never_materialized(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Collection[str]
) -> set[str]:
    """Which of these partitions have no materialization. The UI shows no metadata for them, not
    even that of observations."""
    if not partitions:
        return set()
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    storage = instance.event_log_storage
    found = storage.get_latest_storage_id_by_partition(asset, kind, partitions=set(partitions))
    return set(partitions) - found.keys()


def plan_materialization(
    context: dg.OpExecutionContext, asset: dg.AssetKey, partition: str
) -> None:
    """Record that this run plans to materialize a partition, though it does not execute the asset.
    The UI shows the partition as in progress until the run ends, and red if the run fails."""
    planned = AssetMaterializationPlannedData(asset, partition=partition, partitions_subset=None)
    event = DagsterEvent.build_asset_materialization_planned_event(
        context.job_name, str(context.op_handle), planned
    )
    context.instance.report_dagster_event(event, context.run_id, logging.DEBUG)


def latest_event_ids(
    instance: dg.DagsterInstance, asset: dg.AssetKey, event_type: dg.DagsterEventType
) -> set[int]:
    """Storage ids of the last event of this type, for the asset and for each of its partitions."""
    storage = instance.event_log_storage
    of_any = storage.get_event_records(dg.EventRecordsFilter(event_type, asset_key=asset), limit=1)
    of_each_partition = storage.get_latest_storage_id_by_partition(asset, event_type)
    return {record.storage_id for record in of_any} | set(of_each_partition.values())


def latest_check_runs(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> set[str]:
    """Ids of the runs that planned or executed the check last, for each of its partitions."""
    found = instance.event_log_storage.get_asset_check_partition_info([check])
    return {info.latest_planned_run_id for info in found}


def delete_run_completely(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run with its events, check executions and logs.

    The run's own row is deleted last: if this is interrupted, the next purge still finds the run.
    """
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        executions = AssetCheckExecutionsTable
        with storage.index_connection() as db:
            db.execute(executions.delete().where(executions.c.run_id == run_id))
    # Where each run has its own machine, its logs are already gone with the machine.
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage.delete_events(run_id)
    instance.delete_run(run_id)

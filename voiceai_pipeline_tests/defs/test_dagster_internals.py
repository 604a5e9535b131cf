"""The contract with Dagster's private API: every name exists, with the signature that is used."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.compute_log_manager import ComputeLogManager
from dagster._core.storage.event_log.base import EventLogStorage

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.defs import dagster_internals

PRODUCT = sorted((PROJECT / "voiceai_pipeline").rglob("*.py"))


def _private_imports(path: Path) -> list[str]:
    modules = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    return [name for name in modules if name.startswith("dagster._")]


def test_only_one_module_imports_from_dagsters_private_packages() -> None:
    importers = {path.name for path in PRODUCT if _private_imports(path)}
    assert importers == {"dagster_internals.py"}


def test_every_private_name_is_listed_with_its_reason() -> None:
    source = (PROJECT / "voiceai_pipeline" / "defs" / "dagster_internals.py").read_text()
    imported = [
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._")
        for alias in node.names
    ]
    assert len(imported) == 20
    assert all(f"``{name}``" in str(dagster_internals.__doc__) for name in imported)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (dg.DagsterInstance.get_backfills, {"status": None, "limit": 1}),
        (
            dg.DagsterInstance.optimize_for_webserver,
            {"statement_timeout": 1, "pool_recycle": 1, "max_overflow": 1},
        ),
        (dg.DagsterInstance.delete_run, {"run_id": ""}),
        (dg.DagsterInstance.report_run_failed, {"dagster_run": None, "message": ""}),
        (dg.DagsterInstance.report_run_canceled, {"dagster_run": None, "message": ""}),
        (EventLogStorage.free_concurrency_slots_for_run, {"run_id": ""}),
        (
            dg.DagsterInstance.get_status_by_partition,
            {"asset_key": None, "partition_keys": [], "partitions_def": None},
        ),
        (
            dg.DagsterInstance.report_dagster_event,
            {"dagster_event": None, "run_id": "", "log_level": 0},
        ),
        (EventLogStorage.get_event_records, {"event_records_filter": None, "limit": 1}),
        (
            EventLogStorage.get_latest_storage_id_by_partition,
            {"asset_key": None, "event_type": None},
        ),
        (EventLogStorage.get_asset_check_partition_info, {"keys": []}),
        (EventLogStorage.delete_events, {"run_id": ""}),
        (ComputeLogManager.delete_logs, {"prefix": []}),
        (dagster_internals.DefaultRunLauncher.check_run_worker_health, {"run": None}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_private_method_takes_what_it_is_given(
    method: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    inspect.signature(method).bind(None, **arguments)


def test_the_launcher_and_its_answers_are_as_used() -> None:
    result = dagster_internals.CheckRunHealthResult(
        dagster_internals.WorkerStatus.FAILED, "The server that started it is gone."
    )
    assert result.status is dagster_internals.WorkerStatus.FAILED
    assert result.msg == "The server that started it is gone."
    assert isinstance(
        inspect.getattr_static(
            dagster_internals.DefaultRunLauncher, "supports_check_run_worker_health"
        ),
        property,
    )


def test_a_planned_event_names_run_asset_and_partition() -> None:
    data = dagster_internals.AssetMaterializationPlannedData(
        dg.AssetKey("call_logs"), partition="2026-11-24", partitions_subset=None
    )
    event = dagster_internals.DagsterEvent.build_asset_materialization_planned_event(
        "correct_colours", "correct_days", data
    )
    assert event.is_asset_materialization_planned
    assert (event.job_name, event.step_key) == ("correct_colours", "correct_days")
    assert (event.asset_key, event.partition) == (dg.AssetKey("call_logs"), "2026-11-24")


def test_the_tags_and_statuses_are_as_stored() -> None:
    assert [status.name for status in dagster_internals.AssetPartitionStatus] == [
        "MATERIALIZED",
        "IN_PROGRESS",
        "FAILED",
    ]
    assert dagster_internals.REPOSITORY_LABEL_TAG == ".dagster/repository"
    assert dagster_internals.GRPC_INFO_TAG == ".dagster/grpc_info"
    assert set(dagster_internals.FINISHED_STATUSES) == {
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    }

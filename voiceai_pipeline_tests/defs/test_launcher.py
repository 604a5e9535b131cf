"""A run whose process died together with its server is found out, and no other is."""

import json
import logging
import socket
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from voiceai_pipeline.definitions import defs
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.product import Product


def _monitored(product: Product, tags: dict[str, str]) -> dg.DagsterRunStatus:
    """What becomes of a run that has begun, once the daemon has looked after it."""
    run = product.instance.create_run_for_job(
        defs.resolve_job_def("sync_calls"), status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    record = product.instance.get_run_record_by_id(run.run_id)
    assert record is not None
    workspace = cast("Any", None)  # it is needed only to resume runs, which is not asked for
    monitor_started_run(product.instance, workspace, record, logging.getLogger("monitoring"))
    (found,) = product.instance.get_runs(dg.RunsFilter([run.run_id]))
    return found.status


@pytest.fixture
def here(product: Product) -> Product:
    assert product.instance.run_launcher.supports_check_run_worker_health  # as dagster.yaml says
    return product


def test_a_run_whose_server_is_gone_has_failed_and_one_whose_server_listens_has_not(
    here: Product, tmp_path: Path
) -> None:
    path, port = str(tmp_path / "s"), free_port()
    at_socket = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": path})}
    at_port = {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
    assert _monitored(here, at_socket) is dg.DagsterRunStatus.FAILURE  # no such file
    assert _monitored(here, at_port) is dg.DagsterRunStatus.FAILURE
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", port)):
        server.bind(path)
        server.listen()
        assert _monitored(here, at_socket) is dg.DagsterRunStatus.STARTED
        assert _monitored(here, at_port) is dg.DagsterRunStatus.STARTED
    assert _monitored(here, at_socket) is dg.DagsterRunStatus.FAILURE  # a file without a server


def test_a_run_of_the_command_line_has_no_server_and_is_left_alone(here: Product) -> None:
    assert _monitored(here, {}) is dg.DagsterRunStatus.STARTED

"""How long the lists of all users and the pages of the webserver take, measured on real
processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil
import requests

from benchmarks.measured import Row
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine

PORT: Final = 23977

HEALTH: Final = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions
        }
      }
    }
  }
}
"""
"""The query that the webserver's partitions page waits for, as its JavaScript writes it."""


def user_lists() -> list[Row]:
    """The list of all users: on the command line and on the Connections page."""
    started = time.perf_counter()
    program = Path(sys.executable).parent / "voiceai-pipeline"
    listed = subprocess.run([program, "users", "--json"], capture_output=True, check=True)
    took = time.perf_counter() - started
    rows: list[Row] = [
        (f"voiceai-pipeline users ({len(json.loads(listed.stdout))})", took, "s", None)
    ]
    from voiceai_pipeline.connections import queries as connections

    engine = open_engine(Secret(os.environ["VOICEAI_DATABASE_URL"]))
    started = time.perf_counter()
    with engine.begin() as db:
        connections.all_connections(db)
    rows.append(("all connections and their states", time.perf_counter() - started, "s", None))
    os.environ["VOICEAI_PAGE_PORT"] = str(PORT + 1)
    page = subprocess.Popen([sys.executable, "-m", "voiceai_pipeline.web"], cwd=PROJECT)
    url = f"http://127.0.0.1:{PORT + 1}"
    try:
        while not _answers(f"{url}/health"):
            time.sleep(0.2)
        for how in ("first look", "again"):
            started = time.perf_counter()
            answer = requests.get(url, timeout=120)
            took = time.perf_counter() - started
            label = f"Connections page ({len(answer.content) / 1e6:.1f} MB), {how}"
            rows.append((label, took, "s" if answer.ok else f"HTTP {answer.status_code}", 5))
        rows += _memory_of(page.pid, "page")
    finally:
        page.terminate()
        page.wait(30)
    return rows


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


# The webserver ------------------------------------------------------------------------------------


def pages() -> list[Row]:
    """The partitions pages of a real webserver, cold and warm."""
    started = time.perf_counter()
    with Path(os.environ["VOICEAI_HOME"], "webserver.log").open("w") as log:
        program = Path(sys.executable).parent / "dagster-webserver"
        server = subprocess.Popen(
            [program, "-h", "127.0.0.1", "-p", str(PORT), "-w", str(PROJECT / "workspace.yaml")],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{PORT}/graphql"
    rows: list[Row] = []
    try:
        while not _loaded(url):
            time.sleep(0.2)
            if server.poll() is not None or time.perf_counter() - started > 180:
                return [("webserver does not start", float("nan"), "", None)]
        rows.append(
            ("webserver and code location are up", time.perf_counter() - started, "s", None)
        )
        for asset in ("call_logs", "user_tokens"):
            for how in ("first look", "again"):
                asked = time.perf_counter()
                answer = _ask(url, HEALTH, {"assetKey": {"path": [asset]}})
                took = time.perf_counter() - asked
                node = answer["data"]["assetNodeOrError"]
                keys = len(node["partitionKeysByDimension"][0]["partitionKeys"])
                label = f"partitions page of {asset}, {keys:,} partitions, {how}"
                rows.append((label, took, "s", 3))
        rows += _memory_of(server.pid)
    finally:
        server.terminate()
        server.wait(30)
    return rows


def _memory_of(pid: int, name: str = "webserver") -> list[Row]:
    program = psutil.Process(pid)
    family = [(name, program), *(("code server", p) for p in program.children())]
    return [(f"  memory of the {n}", p.memory_info().rss / 2**20, "MB", 500) for n, p in family]


def _loaded(url: str) -> bool:
    try:
        answer = _ask(
            url, "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        )
    except requests.RequestException:
        return False
    return bool(answer.get("data", {}).get("repositoriesOrError", {}).get("nodes"))


def _ask(url: str, query: str, variables: Any = None) -> Any:
    return requests.post(
        url, json={"query": query, "variables": variables or {}}, timeout=120
    ).json()

"""A client for the GraphQL API of Dagster's webserver: launch a sync or a backfill, read a run.

For programs that do not import ``dagster``, which takes seconds. What a run does is in ``defs/``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import requests

from voiceai_pipeline.core import installation
from voiceai_pipeline.core.dagster_access import DAGSTER_PATH, KEY_HEADER, ROLE_HEADER, Role
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import is_local

_TIMEOUT: Final = 30.0
"""Seconds for one request. The first one to a code location is slow."""

_REPOSITORY: Final = {
    "repositoryLocationName": "voiceai_pipeline",
    "repositoryName": "__repository__",
}
_SYNC_JOB: Final = {**_REPOSITORY, "jobName": "sync_users"}

_LOADED: Final = "Check in its UI whether the code location is loaded, then try again."

ENDED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
"""Final statuses of a run."""


class DagsterError(RuntimeError):
    """Dagster did not respond, or refused; the text gives the reason and the fix."""


@dataclass(frozen=True)
class Run:
    """A run; ``status`` is Dagster's, such as QUEUED or SUCCESS."""

    run_id: str
    status: str

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class Dagster:
    """Dagster at ``url``: its UI process, or a plain webserver.

    Every method raises ``DagsterError`` if it does not respond, or responds with an error.

    Args:
        url: without a trailing slash.
        key: of Dagster's UI process; None: a plain webserver, as ``dagster dev`` starts it.
        timeout: seconds for one request.
    """

    def __init__(self, url: str, key: Secret | None = None, *, timeout: float = _TIMEOUT) -> None:
        self.url = url
        self._api = f"{url}{DAGSTER_PATH if key else ''}/graphql"
        self._key = key
        self._timeout = timeout

    # Syncs ---------------------------------------------------------------------------------------

    def first_day(self) -> date:
        """The first day that can be synced: the first partition of ``call_logs``."""
        node = self._ask(_FIRST_DAY, {})["assetNodeOrError"]
        connection = node.get("partitionKeyConnection") or {}
        keys = connection.get("results") or []
        if not keys:
            raise DagsterError(
                "Dagster has not loaded the asset call_logs. Wait until its UI shows the asset, or "
                "check there why the code location does not load."
            )
        return date.fromisoformat(keys[0])

    def launch_sync(
        self, days: Sequence[date], user_ids: Collection[UUID], launched_by: str
    ) -> str:
        """Launch a run that syncs consecutive ``days`` of some users; returns the run's id.

        The run is queued until the daemon starts it.

        Args:
            launched_by: the value of a tag of the run.
        """
        config = {
            "user_ids": [str(user_id) for user_id in user_ids],
            "first": min(days).isoformat(),
            "last": max(days).isoformat(),
        }
        params = {
            "selector": _SYNC_JOB,
            "runConfigData": {"ops": {"read_user_days": {"config": config}}},
            "executionMetadata": {"tags": [{"key": "voiceai/launched_by", "value": launched_by}]},
        }
        answer = self._ask(_LAUNCH_RUN, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise DagsterError(
                f"Dagster refused to launch the sync ({answer['__typename']}). {_LOADED}"
            )
        run_id: str = answer["run"]["runId"]
        return run_id

    def run(self, run_id: str) -> Run | None:
        """A run; None if Dagster has no run of this id, or has deleted it."""
        query = """query Run($id: ID!) {
            runOrError(runId: $id) { __typename ... on Run { runId status } } }"""
        answer = self._ask(query, {"id": run_id})["runOrError"]
        if answer["__typename"] == "Run":
            return Run(answer["runId"], answer["status"])
        return None

    def runs(self, run_ids: Collection[str]) -> dict[str, Run]:
        """These runs; those that Dagster does not have, or has deleted, are absent."""
        query = """query Runs($ids: [String!]) { runsOrError(filter: {runIds: $ids}) {
            __typename ... on Runs { results { runId status } } } }"""
        answer = self._ask(query, {"ids": list(run_ids)})["runsOrError"]
        if answer["__typename"] != "Runs":
            raise DagsterError(f"Dagster did not list its runs ({answer['__typename']}). {_LOADED}")
        return {one["runId"]: Run(one["runId"], one["status"]) for one in answer["results"]}

    def cancel(self, run_id: str) -> None:
        """Ask Dagster to end a run. A queued one ends at once; one that has ended is refused."""
        query = """mutation Cancel($id: String!) { terminateRun(runId: $id) {
            __typename ... on TerminateRunFailure { message } } }"""
        answer = self._ask(query, {"id": run_id})["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise DagsterError(
                f"Dagster did not cancel the run ({answer['__typename']}): it may have ended. "
                "Reload the page."
            )

    def last_sign_of_life(self) -> datetime | None:
        """When the daemon and our sensors were last active (UTC): the oldest heartbeat of the
        daemon's parts or the newest sensor tick, whichever is earlier; None if never."""
        answer = self._ask(_SIGNS_OF_LIFE, {"selector": _REPOSITORY})
        parts = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        beats = [part["lastHeartbeatTime"] for part in parts if part["required"]]
        ticks = [
            tick["timestamp"]
            for sensor in answer["sensorsOrError"].get("results", [])
            for tick in sensor["sensorState"]["ticks"]
        ]
        if not ticks or not beats or None in beats:
            return None
        return datetime.fromtimestamp(min([*beats, max(ticks)]), UTC)

    # Startup -------------------------------------------------------------------------------------

    def is_loaded(self) -> bool:
        """Whether our code location is loaded.

        Raises:
            LocationError: the code location cannot be loaded.
        """
        query = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus
            locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
        try:
            entries = self._ask(query, {})["workspaceOrError"].get("locationEntries", [])
        except DagsterError:
            return False
        for entry in entries:
            loaded = entry["locationOrLoadError"] or {}
            if loaded.get("__typename") == "PythonError":
                raise LocationError(f"Dagster cannot load the code location:\n{loaded['message']}")
        return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

    def backfill(self, days: Sequence[date], title: str) -> None:
        """Launch a backfill of ``call_logs``."""
        params = {
            "assetSelection": [{"path": ["call_logs"]}],
            "partitionNames": [str(day) for day in days],
            "title": title,
        }
        answer = self._ask(_BACKFILL, {"params": params})["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise DagsterError(
                f"Dagster did not accept the backfill ({answer['__typename']}). {_LOADED}"
            )

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        headers = {}
        if self._key is not None:
            headers = {KEY_HEADER: self._key.reveal(), ROLE_HEADER: Role.OPERATOR.value}
        try:
            with requests.Session() as session:
                session.trust_env = not is_local(self._api)
                response = session.post(
                    self._api,
                    headers=headers,
                    json={"query": query, "variables": variables},
                    timeout=self._timeout,
                )
            response.raise_for_status()
            data = response.json()["data"]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise DagsterError(
                f"Dagster does not respond at {self.url} ({type(error).__name__}). Start it with "
                f"{installation.START}, or wait a minute if it has just been started, then try "
                "again."
            ) from error
        if not isinstance(data, dict):
            raise DagsterError(
                f"Dagster at {self.url} rejected the query. Run the Dagster release that this "
                "program was installed with."
            )
        return data


class LocationError(DagsterError):
    """Dagster cannot load our code location; the text includes its error."""


_FIRST_DAY: Final = """
{ assetNodeOrError(assetKey: {path: ["call_logs"]}) {
    ... on AssetNode { partitionKeyConnection(limit: 1, ascending: true) { results } } } }
"""
_LAUNCH_RUN: Final = """
mutation LaunchSync($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
  }
}
"""
_SIGNS_OF_LIFE: Final = """
query SignsOfLife($selector: RepositorySelector!) {
  instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } }
  sensorsOrError(repositorySelector: $selector) {
    ... on Sensors { results { sensorState { ticks(limit: 1) { timestamp } } } } }
}
"""
_BACKFILL: Final = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename }
}
"""

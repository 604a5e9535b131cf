"""A small HTTP server with the part of Dagster's GraphQL API that the pages use.

``cli/test_up.py`` runs the same queries against the real webserver.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from uuid import uuid4

from voiceai_pipeline.web.dagster_client import ENDED


@dataclass
class DagsterStandIn:
    """Launches nothing and records the requests.

    Attributes:
        launched: the parameters of every launch, oldest first.
        statuses: of runs, as Dagster calls them; QUEUED unless said otherwise.
        first_day: the first partition.
        asked_for_a_run: called whenever one is; returns its status.
        refuse_after: how many launches are accepted; None: all.
        is_down: answers 503, as a proxy before a dead webserver does.
        heartbeats: of the daemon's parts, in seconds since the epoch; None: never.
        ticks: the last one of each sensor.
        monitored: how many times a sign of life was requested.
    """

    launched: list[dict[str, Any]] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)
    first_day: str = "2025-01-01"
    asked_for_a_run: Callable[[], str] = lambda: "QUEUED"
    refuse_after: int | None = None
    is_down: bool = False
    heartbeats: list[float | None] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    monitored: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = {} if stand_in.is_down else stand_in.answer(body)
                text = json.dumps({"data": data}).encode()
                self.send_response(503 if stand_in.is_down else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body["query"], body["variables"]
        if "partitionKeyConnection" in query:
            return {
                "assetNodeOrError": {
                    "partitionKeyConnection": {
                        "results": [self.first_day] if self.first_day else []
                    }
                }
            }
        if "daemonHealth" in query:
            self.monitored += 1
            beats = [{"required": True, "lastHeartbeatTime": beat} for beat in self.heartbeats]
            idle = {"required": False, "lastHeartbeatTime": None}
            ticks = [{"sensorState": {"ticks": [{"timestamp": at}]}} for at in self.ticks]
            return {
                "instance": {"daemonHealth": {"allDaemonStatuses": [*beats, idle]}},
                "sensorsOrError": {"results": [*ticks, {"sensorState": {"ticks": []}}]},
            }
        if "launchRun" in query:
            return {"launchRun": self._launch(variables["params"])}
        if "terminateRun" in query:
            ended = self.statuses.get(variables["id"], "QUEUED") in ENDED
            self.statuses[variables["id"]] = "CANCELED"
            return {
                "terminateRun": {"__typename": f"TerminateRun{'Failure' if ended else 'Success'}"}
            }
        if "runsOrError" in query:
            known = [run_id for run_id in variables["ids"] if run_id in self.run_ids]
            runs = [{"runId": one, "status": self.statuses.get(one, "QUEUED")} for one in known]
            return {"runsOrError": {"__typename": "Runs", "results": runs}}
        if "runOrError" in query:
            known = variables["id"] in self.run_ids
            run = {"__typename": "Run", "runId": variables["id"], "status": ""}
            if known:
                run["status"] = self.asked_for_a_run()
            return {"runOrError": run if known else {"__typename": "RunNotFoundError"}}
        raise AssertionError(query)

    def _launch(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.refuse_after is not None and len(self.launched) >= self.refuse_after:
            return {"__typename": "PythonError"}
        self.launched.append(params)
        self.run_ids.append(str(uuid4()))
        return {"__typename": "LaunchRunSuccess", "run": {"runId": self.run_ids[-1]}}

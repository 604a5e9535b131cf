"""A run launcher that detects runs which died with the server that started them.

With Dagster's default launcher the code server reports a run whose process vanished. If the server
dies too (``kill -9`` of the daemon, out of memory), its runs look started forever and hold their
slots in the pools. Dagster's run monitoring asks this launcher, which can answer.
"""

import contextlib
import json
import socket
from typing import Final

import dagster as dg

from voiceai_pipeline.defs.dagster_internals import (
    GRPC_INFO_TAG,
    CheckRunHealthResult,
    DefaultRunLauncher,
    WorkerStatus,
)

_PROBE: Final = 5.0
"""Seconds to connect. The kernel accepts for a server that listens, however busy the server is."""


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, which can also say whether a run's process may still be alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED if the server that started the run no longer listens. A run without a server, such
        as a command-line run, is left alone."""
        place = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
        if not place or _listens(place):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The server that started it is gone.")


def _listens(place: dict[str, object]) -> bool:
    """Whether a server listens there. A time-out proves nothing, so it counts as listening."""
    path = place.get("socket")
    with contextlib.suppress(TimeoutError):
        try:
            if path:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(_PROBE)
                    probe.connect(str(path))
            else:
                address = (str(place["host"]), int(str(place["port"])))
                socket.create_connection(address, _PROBE).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True

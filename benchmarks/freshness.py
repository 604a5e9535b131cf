"""How soon a call that ends shows in the marts, in a running product.

    voiceai-pipeline up                             # in another terminal, with its sandbox
    python -m benchmarks.freshness [--calls N]      # with the same VOICEAI_* variables

Each call ends in a different location of the demo. Measured are the seconds until its row is
stored, and until ``daily_call_metrics`` counts it. In between are the web process, the daemon's
sensor and the run that builds the marts.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Final

import requests
import sqlalchemy as sa

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import open_database

GOAL: Final = 120.0
"""Seconds from the end of a call to its mart (REQUIREMENTS W3)."""

_PAUSE: Final = 30.0
"""Seconds between two calls: longer than the sensor's interval, so that each has a tick of its own.
"""

_STORED: Final = sa.text("SELECT count(*) FROM call_logs WHERE call_id = :call")
_COUNTED: Final = sa.text(
    "SELECT coalesce(sum(calls + trial_calls), 0) FROM daily_call_metrics "
    "WHERE location_id = :place"
)


def measure(db: sa.Connection, sandbox: str, location_id: str) -> tuple[float, float]:
    """Seconds until a call that ends now is stored, and until it is counted."""
    place = {"place": location_id}
    before = db.execute(_COUNTED, place).scalar_one()
    begun = time.monotonic()
    answer = requests.post(
        f"{sandbox}/sandbox/call-now", json={"location_id": location_id}, timeout=10
    )
    call = {"call": answer.json()["id"]}
    stored = 0.0
    while time.monotonic() - begun < 2 * GOAL:
        if not stored and db.execute(_STORED, call).scalar_one():
            stored = time.monotonic() - begun
        if db.execute(_COUNTED, place).scalar_one() > before:
            return stored, time.monotonic() - begun
        time.sleep(0.1)
    return stored, float("inf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--calls", type=int, default=5)
    given = parser.parse_args(arguments)
    settings = Settings.load(os.environ)
    sandbox = settings.highlevel.api_url
    with open_database(settings, pool_size=1) as engine, engine.connect() as db:
        db = db.execution_options(isolation_level="AUTOCOMMIT")
        places = db.execute(
            sa.text(
                "SELECT DISTINCT location_id FROM voiceai.connections WHERE can_sync ORDER BY 1"
            )
        ).scalars()
        found = []
        for location_id in list(places)[: given.calls]:
            found.append(measure(db, sandbox, location_id))
            time.sleep(_PAUSE)
    stored, counted = (sorted(one) for one in zip(*found, strict=True))
    sys.stdout.write(
        f"{len(found)} calls: from end to row, median {statistics.median(stored):.1f} s, longest "
        f"{stored[-1]:.1f} s; from end to mart, median {statistics.median(counted):.0f} s, longest "
        f"{counted[-1]:.0f} s\n"
    )
    return 0 if counted[-1] <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

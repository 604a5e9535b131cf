"""Runs whose process is gone: they are failed, so that they give their slots back.

Dagster notices a dead process only of runs that its own daemon started on this machine. A run of
the command line, or one whose machine was lost, would look started, and hold its slots, for hours.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import run_heartbeats
from voiceai_pipeline.calls.run_heartbeats import Sign
from voiceai_pipeline.defs.dagster_internals import FINISHED_STATUSES, fail_run

SILENCE: Final = timedelta(minutes=1)
"""Four signs of life that did not come. With two ticks of the sensor, a dead run is failed within
two minutes."""


def fail_silent_runs(
    instance: dg.DagsterInstance,
    db: sa.Connection,
    suspected: str | None,
    silence: timedelta = SILENCE,
) -> tuple[list[str], str]:
    """Fail the runs that are silent, and were so at the last tick.

    One silent tick proves nothing: after an outage of the database, or a laptop that slept, the
    tick may come before the runs' own next signs of life.

    Args:
        suspected: what the last tick returned, for its cursor.
        silence: how long without a sign of life.

    Returns:
        Ids of the failed runs; and which runs are suspected now.
    """
    before = json.loads(suspected or "{}")
    silent = run_heartbeats.silent(db, silence)
    failed = list(_failed(instance, [s for s in silent if before.get(s.run_id) == _when(s)]))
    now = {s.run_id: _when(s) for s in silent if before.get(s.run_id) != _when(s)}
    run_heartbeats.forget(db, [s.run_id for s in silent if s.run_id not in now])
    return failed, json.dumps(now)


def _failed(instance: dg.DagsterInstance, dead: list[Sign]) -> Iterator[str]:
    for sign in dead:
        run = instance.get_run_by_id(sign.run_id)
        if run is None or run.status in FINISHED_STATUSES:
            continue  # it was killed after its end had been recorded
        fail_run(
            instance,
            run,
            f"The run gave no sign of life after {sign.seen_at:%Y-%m-%d %H:%M:%S} UTC: its "
            f"{sign.process} was killed, or the machine was lost. What it had stored is kept. To "
            'sync the rest, materialize the red days with "Failed and missing".',
        )
        yield sign.run_id


def _when(sign: Sign) -> str:
    return sign.seen_at.isoformat()

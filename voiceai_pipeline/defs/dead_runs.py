"""Fails runs whose process is gone, which frees their slots.

Dagster notices a dead process only if its own daemon started the run on this machine. A run of the
command line, or one whose machine was lost, would look started and hold its slots for hours.
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
"""The time of four missed signs of life. The sensor needs two ticks more, so a dead run is failed
within two minutes."""


def fail_silent_runs(
    instance: dg.DagsterInstance,
    db: sa.Connection,
    suspected: str | None,
    silence: timedelta = SILENCE,
) -> tuple[list[str], str]:
    """Fail the runs that are silent now and were already silent at the last tick.

    Silence at one tick proves nothing: after a database outage, or while a laptop slept, the tick
    may come before the runs' next signs of life.

    Args:
        suspected: the suspected runs that the last tick returned; None at the first tick.
        silence: how long a silent run has given no sign of life.

    Returns:
        The ids of the failed runs, and the runs suspected now, as text for the sensor's cursor.
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
            continue  # its process was killed after the run's end had been recorded
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

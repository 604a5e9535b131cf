"""``run_heartbeats``: heartbeats of the runs in progress, by the database's clock.

A thread of each run updates its row. If the process is killed or its machine is lost, the row is no
longer updated. ``defs/dead_runs.py`` decides what happens to such a run.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.database.tables import run_heartbeats

EVERY: Final = timedelta(seconds=15)
"""How often a run updates its row."""


@dataclass(frozen=True)
class Sign:
    """A run's last heartbeat.

    Attributes:
        process: process id and host name, for messages.
        seen_at: when it was written (UTC).
    """

    run_id: str
    process: str
    seen_at: datetime


@contextmanager
def beating(engine: sa.Engine, run_id: str, every: timedelta = EVERY) -> Iterator[None]:
    """Write a run's heartbeats until the ``with`` block ends, then remove its row.

    If the database is unreachable, heartbeats are skipped and the run continues.
    """
    stop = threading.Event()
    process = f"process {os.getpid()} on {socket.gethostname()}"
    values = {"run_id": run_id, "process": process}

    def beat() -> bool:
        with contextlib.suppress(sa.exc.SQLAlchemyError), engine.begin() as db:
            db.execute(_TOUCH, values)
            return True
        return False

    def keep_beating() -> None:
        has_beaten = beat()
        while not stop.wait(every.total_seconds() / (1 if has_beaten else 3)):
            has_beaten = beat()

    thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(sa.exc.SQLAlchemyError), engine.begin() as db:
            forget(db, [run_id])


_TOUCH: Final = sa.text(
    "INSERT INTO run_heartbeats (run_id, process, seen_at) "
    "VALUES (:run_id, :process, clock_timestamp()) "
    "ON CONFLICT (run_id) DO UPDATE SET process = excluded.process, seen_at = excluded.seen_at"
)


def silent(db: sa.Connection, silence: timedelta) -> list[Sign]:
    """The last heartbeats of the runs that have written none for ``silence`` or longer."""
    since = sa.func.clock_timestamp() - sa.literal(silence, sa.Interval())
    query = sa.select(run_heartbeats).where(run_heartbeats.c.seen_at <= since)
    return [Sign(**row) for row in db.execute(query).mappings()]


def forget(db: sa.Connection, run_ids: Collection[str]) -> None:
    """Remove the rows of runs that have ended."""
    db.execute(_FORGET, {"run_ids": list(run_ids)})


_FORGET: Final = sa.text("DELETE FROM run_heartbeats WHERE run_id = ANY(:run_ids)").bindparams(
    sa.bindparam("run_ids", type_=ARRAY(sa.Text))
)

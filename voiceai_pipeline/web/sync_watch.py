"""Follows the syncs that operators asked for, from Dagster's queue to their end.

A thread of the web process asks Dagster about their runs, but only while there are any. Several
processes may do so, because all of them write the same.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.user_syncs import SyncState, UserSync
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import autocommit
from voiceai_pipeline.web.dagster_client import Dagster, DagsterError, Run

log = logging.getLogger(__name__)

POLL: Final = 1.0
"""Seconds between polls while a sync is in progress or a page is open."""

IDLE: Final = 10.0
"""Seconds between polls otherwise: another process may have launched a sync."""

_PATIENCE: Final = timedelta(minutes=1)
"""How long Dagster may not know a run before it counts as lost: it may have just been launched."""

_ENDS: Final = {
    "SUCCESS": SyncState.COMPLETE,
    "FAILURE": SyncState.INCOMPLETE,
    "CANCELED": SyncState.CANCELED,
}


class SyncWatch:
    """What is under way, as of the last poll; shared by all requests of a process.

    Attributes:
        under_way: the syncs that operators wait for, oldest first.
        is_over: the process is stopping, so the streams of open pages have to end.
    """

    def __init__(self, engine: sa.Engine, dagster: Dagster) -> None:
        self._engine = engine
        self._dagster = dagster
        self._woken = threading.Event()
        self._watchers = 0
        self._lock = threading.Lock()
        self.under_way: tuple[UserSync, ...] = ()
        self.is_over = False

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Poll every second while the ``with`` block runs: a page is open."""
        with self._lock:
            self._watchers += 1
        self.wake()
        try:
            yield
        finally:
            with self._lock:
                self._watchers -= 1

    def wake(self) -> None:
        """Poll now, because a sync was launched or canceled."""
        self._woken.set()

    def end(self) -> None:
        """Let the streams of open pages end."""
        self.is_over = True

    def look(self) -> None:
        """Record which syncs have begun or ended in Dagster, then read those under way."""
        with autocommit(self._engine) as db:
            found = user_syncs.under_way(db)
        if found and self._follow(found):
            with autocommit(self._engine) as db:
                found = user_syncs.under_way(db)
        self.under_way = tuple(found)

    def _follow(self, found: list[UserSync]) -> bool:
        """Record what Dagster says about the runs of these syncs; return whether that is new."""
        started = {one.run_id: one.started_at for one in found}
        queued = {one.run_id for one in found if one.state is SyncState.QUEUED}
        try:
            runs = self._dagster.runs(started)
        except DagsterError:
            return False  # Dagster does not respond; nothing is known
        now = datetime.now(UTC)
        ends = {
            run_id: end
            for run_id, at in started.items()
            if (end := _end(runs.get(run_id), now - at)) is not None
        }
        begun = {run_id for run_id in queued - ends.keys() if _has_begun(runs.get(run_id))}
        if not ends and not begun:
            return False
        with self._engine.begin() as db:
            user_syncs.begin(db, begun)
            for run_id, end in ends.items():
                user_syncs.finish(db, run_id, end, now)
        return True

    def run(self, stop: threading.Event) -> None:
        """Poll until ``stop`` is set."""
        while not stop.is_set():
            try:
                self.look()
            except sa.exc.SQLAlchemyError as error:
                log.warning("the database is unavailable: %s", type(error).__name__)
            except Exception as error:
                unexpected(error)
            self._woken.wait(POLL if self.under_way or self._watchers else IDLE)
            self._woken.clear()


def _end(run: Run | None, age: timedelta) -> SyncState | None:
    if run is None:
        return SyncState.LOST if age > _PATIENCE else None
    return _ENDS.get(run.status)


def _has_begun(run: Run | None) -> bool:
    return run is not None and run.status in ("STARTING", "STARTED", "CANCELING")


@contextlib.contextmanager
def watching(watch: SyncWatch) -> Iterator[None]:
    """Follow syncs in a background thread until the ``with`` block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop,), name="sync watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        watch.wake()
        thread.join(10)

"""Reads from the database, for many locations at once, what each needs before its first request:
its user's token, and the stored calls.

A statement for each location would cost more than the request of a location without calls. The
values are valid for a second; a location that waits longer reads its own.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls.intake import KnownCall
from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.connections.spender import RowAhead
from voiceai_pipeline.connections.standing import FRESH
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.days import Window, stretches
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.database.driver import rows_of
from voiceai_pipeline.database.engine import autocommit, database_error
from voiceai_pipeline.database.shared_clock import SharedClock

log = logging.getLogger(__name__)

CALLS_AT_MOST: Final = 100
"""The most calls of a location that are read ahead; one with more is compared batch by batch."""


@dataclass(frozen=True)
class LocationAhead:
    """What was read ahead for one location.

    Attributes:
        started_at: a time before the read (UTC).
        row: the token row of the task's first user; None if there is none.
        known: the stored calls of the first window; None if there are too many.
    """

    started_at: datetime
    row: RowAhead | None
    known: Mapping[str, KnownCall] | None
    _read_at: float
    _monotonic: Callable[[], float]

    @property
    def is_fresh(self) -> bool:
        return self._monotonic() - self._read_at < FRESH


@dataclass(frozen=True)
class ReadsAhead:
    """Reads ahead for many locations at once.

    Args:
        zone: the time zone of the days.
    """

    engine: sa.Engine
    tokens: Tokens
    clock: SharedClock
    zone: ZoneInfo
    monotonic: Callable[[], float] = field(default=time.monotonic)

    def of(self, tasks: Sequence[Task]) -> dict[str, LocationAhead]:
        """What was read, by location id. Empty if the database fails: then each location reads its
        own values, and any failure is its own."""
        try:
            return self._of(tasks) if len(tasks) > 1 else {}
        except sa.exc.SQLAlchemyError as error:
            log.info("nothing is read ahead: %s", cleaned(str(database_error(error))))
            return {}

    def _of(self, tasks: Sequence[Task]) -> dict[str, LocationAhead]:
        read_at, started_at = self.monotonic(), self.clock.now()
        rows = self.tokens.read_ahead([task.connections[0].user.id for task in tasks])
        known = self._known({task.location_id: task.days for task in tasks})
        return {
            task.location_id: LocationAhead(
                started_at,
                rows.get(task.connections[0].user.id),
                known[task.location_id],
                read_at,
                self.monotonic,
            )
            for task in tasks
        }

    def _known(self, days: Mapping[str, Sequence[date]]) -> dict[str, dict[str, KnownCall] | None]:
        """The stored calls of each location's first window; None if there are too many."""
        windows = {one: self._first_window(theirs) for one, theirs in days.items()}
        bounds = (
            list(windows),
            [window.start for window in windows.values()],
            [window.end for window in windows.values()],
        )
        found: dict[str, dict[str, KnownCall]] = {one: {} for one in windows}
        with autocommit(self.engine) as db:
            for location_id, call_id, *rest in rows_of(db, _KNOWN, (*bounds, CALLS_AT_MOST + 1)):
                found[location_id][call_id] = KnownCall(*rest)
        return {one: calls if len(calls) <= CALLS_AT_MOST else None for one, calls in found.items()}

    def _first_window(self, days: Collection[date]) -> Window:
        first = stretches(sorted(days))[0]
        start, end = Window.of_day(first[0], self.zone), Window.of_day(first[-1], self.zone)
        return Window(start.start, end.end)


_KNOWN: Final = (
    "SELECT w.location, c.call_id, c.content_hash, c.fingerprint "
    "FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) AS w(location, starts, ends), "
    "LATERAL (SELECT call_id, content_hash, fingerprint FROM call_logs "
    "         WHERE location_id = w.location AND started_at >= w.starts "
    "         AND started_at < w.ends AND missing_since IS NULL LIMIT %s) AS c"
)

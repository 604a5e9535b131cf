"""Checks whether connections are still as they were read: with one query a second for all users
whose tokens a process is using (REQUIREMENTS T18), not one before each request.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import token_row
from voiceai_pipeline.connections.token_row import Stamp
from voiceai_pipeline.database.engine import autocommit

FRESH: Final = 0.9
"""Seconds for which a stamp is valid: a disconnected user's run stops within one second."""

_IN_USE: Final = 30.0
"""Seconds for which each query includes a user after the user's last check."""


class Standing:
    """The stamps of the users in use, none older than ``FRESH``. Safe to share between threads.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.
        monotonic: seconds.
    """

    def __init__(
        self,
        engine: sa.Engine,
        now: Callable[[], datetime] | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._in_use: dict[UUID, float] = {}
        self._stamps: dict[UUID, Stamp] = {}
        self._asked_at = -FRESH

    def clock(self) -> float:
        """The present time, for ``is_fresh``."""
        return self._monotonic()

    def is_fresh(self, at: float) -> bool:
        """Whether a stamp or row that was read at this time is still valid."""
        return self._monotonic() - at < FRESH

    def stamp(self, user_id: UUID) -> Stamp:
        """The stamp of a user's rows."""
        with self._lock:
            asked_at = self._monotonic()
            self._in_use[user_id] = asked_at
            if asked_at - self._asked_at >= FRESH or user_id not in self._stamps:
                self._in_use = {
                    user: at for user, at in self._in_use.items() if asked_at - at < _IN_USE
                }
                with autocommit(self._engine) as db:
                    self._stamps = token_row.stamps(db, list(self._in_use))
                # The time before the query, which may take a while.
                self._asked_at = asked_at
            stamp = self._stamps[user_id]
        return replace(stamp, now=self._now()) if self._now else stamp

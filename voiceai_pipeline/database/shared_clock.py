"""The database's clock for many threads: read once a second, and continued by the process's clock.

Never ahead of the database: it lags by the time that the database's answer took to arrive.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.engine import autocommit, database_now

_FRESH: Final = 1.0
"""Seconds for which a reading is continued: too few for the two clocks to drift apart."""


class SharedClock:
    """The database's time or a simulated one (UTC). Safe to share between threads.

    Args:
        simulated: replaces the database's clock; aware UTC.
        monotonic: seconds.
    """

    def __init__(
        self,
        engine: sa.Engine,
        simulated: Callable[[], datetime] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._simulated = simulated
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._read: tuple[float, datetime] | None = None

    def now(self) -> datetime:
        """The time now."""
        if self._simulated:
            return self._simulated()
        with self._lock:
            if self._read is None or self._monotonic() - self._read[0] >= _FRESH:
                with autocommit(self._engine) as db:
                    now = database_now(db)
                self._read = (self._monotonic(), now)
            at, now = self._read
            return now + timedelta(seconds=self._monotonic() - at)

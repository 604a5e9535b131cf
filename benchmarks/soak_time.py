"""The days that the soak simulates, and their clock. Imports nothing of the pipeline."""

import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAY: Final = date(2026, 11, 18)
"""The day of the soak."""

MIDNIGHT: Final = datetime.combine(DAY, datetime.min.time(), UTC)

HISTORY: Final = 8
"""How many days before ``DAY`` are stored at the start: twice the days of a nightly sync."""

OLDEST: Final = MIDNIGHT - timedelta(days=HISTORY)
"""No call before this changes. One more day is stored, because the reconciliation total of the
first stored day leaves out calls at exactly midnight (``calls/reconciliation.py``)."""

TICK: Final = timedelta(minutes=5)
ZONE: Final = ZoneInfo("UTC")


class Clock:
    """Simulated time. A sleep moves it forward; nothing moves it back."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += timedelta(seconds=seconds)
        time.sleep(0.001)  # lets the thread that this one waits for run

    def reach(self, moment: datetime) -> None:
        with self._lock:
            self.now = max(self.now, moment)

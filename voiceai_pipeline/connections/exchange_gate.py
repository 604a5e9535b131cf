"""Limits this process's token exchanges: how many at once, how fast, and when to pause.

The token endpoint's limit is unknown (CONTRACT 5), and a killed process leaves each of its
exchanges in doubt. So there is one gate per process, for syncs and batches alike (REQUIREMENTS
T21).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

AT_ONCE: Final = 4
"""The most concurrent exchanges: a SIGKILL leaves at most so many connections in doubt."""

POSTS_PER_SECOND: Final = 5
BURST: Final = 8
"""The most exchanges that start without a pause after a quiet time."""


class ExchangeGate:
    """Limits exchanges. Safe to share between threads."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._pace = threading.Lock()
        self._paid_until = 0.0
        self._closed_until = 0.0

    @contextmanager
    def exchange(self, sleep: Callable[[float], None]) -> Iterator[None]:
        """Wait for a free slot and for the pace, then hold the slot during the ``with`` block."""
        with self._slots:
            # Sleeps while holding the lock: the next exchange must wait longer.
            with self._pace:
                self._wait(sleep)
            yield

    def close_for(self, seconds: float) -> None:
        """Start no exchange for ``seconds``: the endpoint asked for a pause."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    def _wait(self, sleep: Callable[[float], None]) -> None:
        closed = self._closed_until - time.monotonic()
        if closed > 0:
            sleep(closed)
            self._closed_until = 0.0
        now = time.monotonic()
        allowance = BURST / POSTS_PER_SECOND
        self._paid_until = max(self._paid_until, now) + 1 / POSTS_PER_SECOND
        early = self._paid_until - now - allowance
        if early > 0:
            sleep(early)
            # Read the clock again: a simulated sleep takes no time.
            self._paid_until = time.monotonic() + allowance


GATE: Final = ExchangeGate()
"""The gate of this process."""

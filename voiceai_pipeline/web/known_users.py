"""All users and locations, as lists of calls are narrowed to them.

Reading a hundred thousand takes seconds, so very many are kept for half a minute.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_options
from voiceai_pipeline.calls.call_options import Location
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection

MANY: Final = 2_000
"""Users from which on what was read is kept."""

KEPT: Final = 30.0
"""Seconds for which it is kept."""


@dataclass(frozen=True)
class Everyone:
    """Users by name, and locations by name.

    Attributes:
        read_at: on the monotonic clock, in seconds.
    """

    users: Sequence[Connection]
    locations: Sequence[Location]
    read_at: float

    @cached_property
    def zones(self) -> dict[str, ZoneInfo]:
        """The time zone of each location."""
        return {one.location_id: one.zone for one in self.locations}


class KnownUsers:
    """Reads everyone. Safe to share between threads: only one reads at a time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: Everyone | None = None

    def read(self, db: sa.Connection, zone: ZoneInfo, besides: Everyone | None = None) -> Everyone:
        """Everyone, at most ``KEPT`` seconds ago.

        Args:
            zone: for locations without one.
            besides: what was read before, if it lacks what is sought: only a later read will do.
        """
        with self._lock:
            kept = self._kept
            if kept and kept is not besides and self._monotonic() - kept.read_at < KEPT:
                return kept
            read_at = self._monotonic()
            users = connections.all_connections(db)
            locations = call_options.all_locations(db, zone, users)
            found = Everyone(users, locations, read_at)
            self._kept = found if len(users) > MANY else None
            return found

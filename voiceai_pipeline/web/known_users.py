"""All users and locations, as lists of calls are narrowed to them.

Reading a hundred thousand takes seconds, so very many are kept for half a minute.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_options, call_search
from voiceai_pipeline.calls.call_options import Location
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection

MANY: Final = 2_000
"""Users from which on what was read is kept."""

KEPT: Final = 30.0
"""Seconds for which it is kept."""

JUST_NOW: Final = 3.0
"""Seconds within which nothing new is expected."""


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
    """Reads everyone. Safe to share between threads, none of which waits for another's read."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: Everyone | None = None

    def read(self, db: sa.Connection, zone: ZoneInfo, besides: Everyone | None = None) -> Everyone:
        """Everyone, at most ``KEPT`` seconds ago.

        Args:
            zone: for locations without one.
            besides: what was read before, if it lacks what is sought: returned again only if it is
                at most ``JUST_NOW`` seconds old.
        """
        now, kept = self._monotonic(), self._kept
        if besides is not None and now - besides.read_at < JUST_NOW:
            return besides
        if kept is not None and kept is not besides and now - kept.read_at < KEPT:
            return kept
        with call_search.patience(db, call_search.PATIENCE_FOR_USERS):
            users = connections.all_connections(db)
            found = Everyone(users, call_options.all_locations(db, zone, users), now)
        self._kept = found if len(users) > MANY else None
        return found

"""The names behind the ids: agents and locations, read from HighLevel and stored."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls import dimension_rows as tables
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.shared_location import read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.highlevel.client import HighLevelClient

WORKERS: Final = 8
"""Locations read side by side: the work waits for the network."""


class Directory:
    """Syncs agents and locations of every location that can be read.

    Args:
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        tokens: Tokens,
        client: HighLevelClient,
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._client = client
        self._now = now

    def sync_agents(self) -> dict[str, int | PipelineError]:
        """Store the agents of every location that can be read: how many, or why not."""

        def one(person: Connection, location_id: str) -> int:
            listed = self._tokens.spend(
                person.user.id, lambda token: list(self._client.agents(token, location_id))
            )
            with self._engine.begin() as db:
                tables.store_agents(db, location_id, listed, read_clock(db, self._now))
            return len(listed)

        return self._each_location(one)

    def sync_locations(self) -> dict[str, int | PipelineError]:
        """Store name and time zone of every location that can be read: 1, or why not."""

        def one(person: Connection, location_id: str) -> int:
            place = self._tokens.spend(
                person.user.id, lambda token: self._client.location(token, location_id)
            )
            with self._engine.begin() as db:
                tables.store_location(db, place, read_clock(db, self._now))
                connections.name_location(db, location_id, place.name, place.timezone)
            return 1

        return self._each_location(one)

    def _each_location(
        self, one: Callable[[Connection, str], int]
    ) -> dict[str, int | PipelineError]:
        """Do ``one`` for a user of each location, the next user where a credential fails."""

        def attempt(location_id: str, users: list[Connection]) -> int | PipelineError:
            try:
                return read_with_any(users, lambda user: one(user, location_id))
            except PipelineError as error:
                return error
            except sa.exc.SQLAlchemyError as error:
                return database_error(error)
            except Exception as error:
                return unexpected(error)

        try:
            with self._engine.begin() as db:
                places = connections.by_location(connections.all_connections(db))
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="directory") as pool:
            return dict(zip(places, pool.map(attempt, places, places.values()), strict=True))

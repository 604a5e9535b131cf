"""``agents`` and ``locations``: the names and time zones behind the ids in ``call_logs``, read from
HighLevel and stored.

An agent that HighLevel no longer lists keeps its row and its name, with ``missing_since``; its
earlier names are in ``agent_names``.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections.shared_location import read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.call import Agent
from voiceai_pipeline.core.connection import Connection, Location
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, read_clock
from voiceai_pipeline.database.tables import agent_names, agents, locations
from voiceai_pipeline.highlevel.client import HighLevelClient

WORKERS: Final = 8
"""Locations read concurrently: the work is network-bound."""


class Directory:
    """Syncs the agents and the details of every location that can be read.

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
        """Store the agents of every location that can be read.

        Returns:
            By location id: how many agents were stored, or why none.

        Raises:
            PipelineError: DATABASE, if the connections cannot be read.
        """

        return self._each_location(lambda one, at: self._sync_agents(one.user.id, at))

    def read_new(self, user_id: UUID, location_id: str) -> None:
        """Store the agents of a newly connected location; name and time zone are stored already.

        A failure is ignored, so that it cannot fail the connection; the next sync of all agents
        makes up for it.
        """
        with contextlib.suppress(PipelineError, sa.exc.SQLAlchemyError):
            self._sync_agents(user_id, location_id)

    def _sync_agents(self, user_id: UUID, location_id: str) -> int:
        listed = self._tokens.spend(
            user_id, lambda token: list(self._client.agents(token, location_id))
        )
        with self._engine.begin() as db:
            store_agents(db, location_id, listed, read_clock(db, self._now))
        return len(listed)

    def sync_locations(self) -> dict[str, int | PipelineError]:
        """Store name and time zone of every location that can be read.

        Returns:
            By location id: 1, or why it could not be stored.

        Raises:
            PipelineError: DATABASE, if the connections cannot be read.
        """

        def sync(connection: Connection, location_id: str) -> int:
            location = self._tokens.spend(
                connection.user.id, lambda token: self._client.location(token, location_id)
            )
            with self._engine.begin() as db:
                store_location(db, location, read_clock(db, self._now))
                connection_queries.name_location(db, location_id, location.name, location.timezone)
            return 1

        return self._each_location(sync)

    def _each_location(
        self, sync: Callable[[Connection, str], int]
    ) -> dict[str, int | PipelineError]:
        """Run ``sync`` for each location, with any of its users' credentials."""

        def attempt(location_id: str, connections: list[Connection]) -> int | PipelineError:
            try:
                return read_with_any(connections, lambda one: sync(one, location_id))
            except PipelineError as error:
                return error
            except sa.exc.SQLAlchemyError as error:
                return database_error(error)
            except Exception as error:
                return unexpected(error)

        try:
            with self._engine.begin() as db:
                shared = connection_queries.by_location(connection_queries.all_connections(db))
        except sa.exc.SQLAlchemyError as error:
            raise database_error(error) from None
        with (
            ThreadPoolExecutor(WORKERS, thread_name_prefix="directory") as pool,
            self._client.reads.interruptible(),
        ):
            return dict(zip(shared, pool.map(attempt, shared, shared.values()), strict=True))


def store_agents(
    db: sa.Connection, location_id: str, listed: Sequence[Agent], now: datetime
) -> None:
    """Make the location's agents equal to a complete list of them; ``now`` is aware UTC."""
    for agent in listed:
        values = {"name": agent.name, "timezone": agent.timezone, "raw": dict(agent.raw)}
        db.execute(
            insert(agents)
            .values(
                location_id=location_id,
                agent_id=agent.agent_id,
                first_seen_at=now,
                last_seen_at=now,
                **values,
            )
            .on_conflict_do_update(
                index_elements=["location_id", "agent_id"],
                set_={**values, "last_seen_at": now, "missing_since": None},
            )
        )
    _note_names(db, location_id, now)
    _note_settings(db, location_id, now)
    db.execute(
        sa.update(agents)
        .where(
            agents.c.location_id == location_id,
            agents.c.missing_since.is_(None),
            agents.c.agent_id.not_in([agent.agent_id for agent in listed]),
        )
        .values(missing_since=now)
    )


def _note_names(db: sa.Connection, location_id: str, now: datetime) -> None:
    """Add each agent's name to the history if it differs from the latest one there."""
    latest = (
        sa.select(agent_names.c.name)
        .where(
            agent_names.c.location_id == agents.c.location_id,
            agent_names.c.agent_id == agents.c.agent_id,
        )
        .order_by(agent_names.c.since.desc())
        .limit(1)
        .scalar_subquery()
    )
    since = sa.literal(now, agent_names.c.since.type)
    changed = sa.select(agents.c.location_id, agents.c.agent_id, since, agents.c.name).where(
        agents.c.location_id == location_id, agents.c.name.is_distinct_from(latest)
    )
    columns = ["location_id", "agent_id", "since", "name"]
    db.execute(insert(agent_names).from_select(columns, changed).on_conflict_do_nothing())


def _note_settings(db: sa.Connection, location_id: str, now: datetime) -> None:
    """Add each agent's settings to the history if they differ from the latest ones there."""
    db.execute(_NOTE_SETTINGS, {"location": location_id, "now": now})


_NOTE_SETTINGS: Final = sa.text(
    "INSERT INTO agent_settings (location_id, agent_id, since, settings) "
    "SELECT a.location_id, a.agent_id, :now, s.settings FROM voiceai_agents a "
    "CROSS JOIN LATERAL (SELECT jsonb_build_object('timezone', a.timezone, 'maxCallDuration', "
    "    a.raw -> 'maxCallDuration', 'agentWorkingHours', a.raw -> 'agentWorkingHours') "
    "    AS settings) AS s "
    "WHERE a.location_id = :location AND s.settings IS DISTINCT FROM ("
    "    SELECT l.settings FROM agent_settings l WHERE l.location_id = a.location_id "
    "    AND l.agent_id = a.agent_id ORDER BY l.since DESC LIMIT 1) "
    "ON CONFLICT DO NOTHING"
)


def store_location(db: sa.Connection, location: Location, now: datetime) -> None:
    """Add or update a location; fields absent from the response keep their stored values."""
    values = {
        "name": location.name,
        "timezone": location.timezone,
        "company_id": location.company_id,
    }
    known = {column: value for column, value in values.items() if value}
    db.execute(
        insert(locations)
        .values(location_id=location.location_id, first_seen_at=now, last_seen_at=now, **values)
        .on_conflict_do_update(index_elements=["location_id"], set_={**known, "last_seen_at": now})
    )

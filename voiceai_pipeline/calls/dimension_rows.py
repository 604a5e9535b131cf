"""``agents`` and ``locations``: the names and time zones behind the ids in ``call_logs``.

An agent that HighLevel no longer lists keeps its row and its name, with ``missing_since``; what it
was called before is in ``agent_names``.
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.core.call import Agent
from voiceai_pipeline.core.connection import Location
from voiceai_pipeline.database.tables import agent_names, agents, locations


def store_agents(
    db: sa.Connection, location_id: str, listed: Sequence[Agent], now: datetime
) -> None:
    """Make the location's agents equal to a complete list of them."""
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
    """Add to the history every name that is not its agent's latest there."""
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


def store_location(db: sa.Connection, location: Location, now: datetime) -> None:
    """Add or update a location; what the answer left out keeps its stored value."""
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

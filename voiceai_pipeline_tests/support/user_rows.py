"""Rows of ``users`` and ``api_keys``, also as the source system wrote them."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


ADA, BEN = (UUID(f"00000000-0000-4000-8000-00000000000{n}") for n in (1, 2))


def add(engine: sa.Engine, user_id: UUID, name: str = "", first: str = "", last: str = "") -> None:
    with engine.begin() as db:
        connections.add_user(db, user_id, business_name=name, first_name=first, last_name=last)


def legacy(engine: sa.Engine, user_id: UUID, **values: object) -> None:
    """A row as the existing application writes it."""
    row = {
        "id": uuid4(),
        "user_id": user_id,
        "service": "highlevel",
        "access_token": "INVENTED-A",
        "refresh_token": "INVENTED-R",
        "is_active": True,
        "location_id": "Loc",
        **values,
    }
    names = ", ".join(row)
    slots = ", ".join(f":{name}" for name in row)
    with engine.begin() as db:
        db.execute(sa.text(f"INSERT INTO api_keys ({names}) VALUES ({slots})"), row)  # noqa: S608


def one(engine: sa.Engine, user_id: UUID) -> Connection:
    with engine.connect() as db:
        found = connections.one(db, user_id)
    assert found is not None
    return found

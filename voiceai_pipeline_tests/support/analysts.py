"""Analysts' logins, the rows they read, and whether a statement is allowed to them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from psycopg import errors, sql

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import grants
from voiceai_pipeline.database.tables import api_keys, call_logs
from voiceai_pipeline.database.views import VIEWS

ROLES = {"eve": (), "ada": (grants.ANALYST,), "bea": grants.ROLES}
"""Logins: without a role, an analyst, and an analyst who may also read content."""


READS = {
    "eve": set[str](),
    "ada": {view.name for view in VIEWS if not view.is_content},
    "bea": {view.name for view in VIEWS},
}


CALLER = "Ottoline Canary, +15550190909, wants a haircut"


TOKEN = "canary-token"


STARTED = datetime(2026, 11, 18, 12, tzinfo=UTC)


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def connect_as(login: str, database: Secret) -> psycopg.Connection[Any]:
    url = plain(database.reveal()).replace("//postgres@", f"//{login}@")
    return psycopg.connect(url, autocommit=True)


def read(login: str, database: Secret, query: str) -> list[dict[str, Any]]:
    with connect_as(login, database) as db:
        rows = db.cursor(row_factory=psycopg.rows.dict_row)
        return rows.execute(query.encode()).fetchall()


def run(database: Secret, statement: str) -> None:
    with psycopg.connect(plain(database.reveal())) as db:
        db.execute(statement.encode())


def is_allowed(db: psycopg.Connection[Any], statement: sql.Composable) -> bool:
    try:
        with db.transaction(force_rollback=True):
            db.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    return True


def add_call(db: sa.Connection, call_id: str, location: str = "Loc1", **more: Any) -> None:
    content = {"from_number": CALLER, "contact_id": CALLER, "message_id": CALLER}
    db.execute(
        sa.insert(call_logs).values(
            {
                "location_id": location,
                "call_id": call_id,
                "agent_id": "agent1",
                "started_at": STARTED,
                "duration_seconds": 61.5,
                "is_trial": False,
                "summary": CALLER,
                "transcript": CALLER,
                "extracted_data": {"name": CALLER},
                "translation": {"text": CALLER},
                "executed_call_actions": [
                    {"actionType": "SMS", "actionName": CALLER},
                    {"actionType": "CALL_TRANSFER"},
                ],
                "raw": {"all": CALLER},
                "content_hash": b"h",
                "first_seen_at": STARTED,
                "last_changed_at": STARTED,
                **content,
                **more,
            }
        )
    )


def add_connection(db: sa.Connection, number: int, name: str, **values: Any) -> UUID:
    user_id = UUID(int=number)
    connections.add_user(db, user_id, business_name=name)
    given = {"connection_state": "connected", "location_id": "Loc1", "is_active": True, **values}
    db.execute(
        sa.insert(api_keys).values(
            id=UUID(int=number + 100),
            user_id=user_id,
            service="highlevel",
            access_token=TOKEN,
            refresh_token=TOKEN,
            **given,
        )
    )
    return user_id

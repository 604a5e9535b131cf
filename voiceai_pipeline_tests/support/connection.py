"""A connection in memory, for tests that need no database."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from voiceai_pipeline.core.connection import Connection, ConnectionState, User

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

CONNECTED = Connection(
    User(UUID(int=1), "Harbor Dental"),
    ConnectionState.CONNECTED,
    location_id="Loc1",
    token_expires_at=NOON + timedelta(hours=5),
    read_at=NOON,
)

"""Accepts tokens that another application has stored in a connection's row: the source system, if
it runs beside us, refreshes and reconnects in place.
"""

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.token_row import TokenRow, mark
from voiceai_pipeline.connections.token_store import settled
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.database.tables import api_keys


def accept(db: sa.Connection, row: TokenRow, vault: TokenVault, *, actor: Actor) -> None:
    """Accept another application's tokens as a new generation; what was known about the old one is
    reset.

    Raises:
        PipelineError: TOKEN_UNREADABLE.
    """
    stored = row.of_next_generation(vault)
    accepted = db.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == row.id, api_keys.c.token_version == row.version, row.is_unchanged())
        .values(
            {
                **settled(row, ConnectionState.CONNECTED, None),
                **stored,
                "tokens_mark": mark(stored["access_token"], stored["refresh_token"]),
                "token_version": api_keys.c.token_version + 1,
                "refreshed_at": row.now,
                "refresh_at": None,
                "location_access_token": None,
                "location_token_expires_at": None,
                "failed_attempts": 0,
                "last_failure": None,
            }
        )
    )
    if accepted.rowcount == 1:
        alerts.close(db, row.connection.user.id, row.now)
        history.record(
            db,
            TokenEvent.REPLACED,
            at=row.now,
            actor=actor,
            user_id=row.connection.user.id,
            state=ConnectionState.CONNECTED,
            versions=(row.version, row.version + 1),
        )

"""Pauses of users' syncs."""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE sync_pauses (
            user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
            since timestamptz NOT NULL,
            paused_by text NOT NULL,
            reason text NOT NULL DEFAULT ''
        )
        """
    )

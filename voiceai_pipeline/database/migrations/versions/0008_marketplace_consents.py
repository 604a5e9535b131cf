"""Consents that began in HighLevel's marketplace: without a state, and at first without a user."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE connect_requests ALTER COLUMN user_id DROP NOT NULL, "
        "ADD COLUMN IF NOT EXISTS code text"
    )

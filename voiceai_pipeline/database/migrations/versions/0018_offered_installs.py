"""Installs that HighLevel announced are offered on the page: found without reading all messages."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute(
        "CREATE INDEX IF NOT EXISTS webhook_messages_installed_idx ON webhook_messages "
        "(location_id) WHERE type = 'installed' AND handled_at IS NULL"
    )

"""Where a consent came from that began in HighLevel's marketplace."""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.execute("ALTER TABLE connect_requests ADD COLUMN address text")

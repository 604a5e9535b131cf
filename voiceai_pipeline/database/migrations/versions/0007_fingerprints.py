"""A hash of each call as sent, so that a re-read does not parse unchanged calls. Older calls have
none: they are parsed at every re-read until they change or leave its window.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE call_logs ADD COLUMN fingerprint bytea")

"""How a call was sent, so that a re-read need not parse what it knows. Calls from before have none:
they are parsed at every re-read until they change or leave its window.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE call_logs ADD COLUMN fingerprint bytea")

"""Who logged in to the pages, and who failed to."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE page_logins (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            at timestamptz NOT NULL,
            address text NOT NULL,
            role text
        )
        """
    )
    op.execute("CREATE INDEX page_logins_failed_at_idx ON page_logins (at) WHERE role IS NULL")

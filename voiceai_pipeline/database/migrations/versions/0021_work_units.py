"""Work that a sync shares with helper runs."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE IF NOT EXISTS work_units (
        leader text,
        location_id text,
        user_ids uuid[] NOT NULL,
        days date[] NOT NULL,
        known_users uuid[],
        known_days date[],
        since timestamptz NOT NULL,
        holder uuid,
        expires_at timestamptz,
        PRIMARY KEY (leader, location_id)
    )
    """,
)

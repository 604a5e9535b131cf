"""Days on which HighLevel's number of calls differs from ours."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE drifting_days (
        location_id text NOT NULL,
        day date NOT NULL,
        api_total integer NOT NULL,
        stored integer NOT NULL,
        opened_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day)
    )
    """,
)

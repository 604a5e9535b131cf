"""What syncs did for each user."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE user_syncs (
        user_id uuid REFERENCES users (id) ON DELETE CASCADE,
        run_id text,
        state text NOT NULL,
        asked_by text,
        asked_at timestamptz,
        started_at timestamptz NOT NULL,
        ended_at timestamptz,
        first_day date NOT NULL,
        last_day date NOT NULL,
        days integer NOT NULL DEFAULT 0,
        incomplete_days integer NOT NULL DEFAULT 0,
        new_calls integer NOT NULL DEFAULT 0,
        changed_calls integer NOT NULL DEFAULT 0,
        missing_calls integer NOT NULL DEFAULT 0,
        message text NOT NULL DEFAULT '',
        PRIMARY KEY (user_id, run_id)
    )
    """,
    "CREATE INDEX user_syncs_user_id_started_at_idx ON user_syncs (user_id, started_at)",
    "CREATE INDEX user_syncs_under_way_idx ON user_syncs (run_id) WHERE ended_at IS NULL",
)

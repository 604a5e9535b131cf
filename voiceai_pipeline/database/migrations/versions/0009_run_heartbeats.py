"""Signs of life of runs: one whose process died gives its slots back."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE IF NOT EXISTS run_heartbeats (
        run_id text PRIMARY KEY,
        process text NOT NULL,
        seen_at timestamptz NOT NULL
    )
    """,
    # On Supabase, web pages may access every table in public by default.
    """
    DO $$
    DECLARE
        page_role text;
    BEGIN
        FOREACH page_role IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = page_role) THEN
                EXECUTE format('REVOKE ALL ON run_heartbeats FROM %I', page_role);
            END IF;
        END LOOP;
    END
    $$
    """,
)

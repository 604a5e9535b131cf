"""Per-location leases: only one sync reads a location at a time."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE location_leases (
        location_id text PRIMARY KEY,
        holder uuid NOT NULL,
        run_id text,
        taken_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL
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
                EXECUTE format('REVOKE ALL ON location_leases, drifting_days FROM %I', page_role);
            END IF;
        END LOOP;
    END
    $$
    """,
)

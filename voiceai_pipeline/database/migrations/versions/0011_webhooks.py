"""Webhook messages, and the calls to read because of them."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE webhook_messages (
        message_id text PRIMARY KEY,
        type text NOT NULL,
        location_id text,
        company_id text,
        is_ours boolean NOT NULL,
        received_at timestamptz NOT NULL,
        handled_at timestamptz
    )
    """,
    """
    CREATE INDEX webhook_messages_location_id_received_at_idx
        ON webhook_messages (location_id, received_at)
    """,
    "CREATE INDEX webhook_messages_received_at_idx ON webhook_messages (received_at)",
    """
    CREATE INDEX webhook_messages_uninstalled_idx ON webhook_messages (received_at)
        WHERE type = 'uninstalled' AND handled_at IS NULL
    """,
    """
    CREATE TABLE webhook_refusals (
        day date,
        reason text,
        messages bigint NOT NULL,
        last_at timestamptz NOT NULL,
        PRIMARY KEY (day, reason)
    )
    """,
    """
    CREATE TABLE call_hints (
        location_id text,
        call_id text,
        started_at timestamptz,
        hinted_at timestamptz NOT NULL,
        reads integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, call_id)
    )
    """,
    "CREATE INDEX call_hints_due_at_idx ON call_hints (due_at)",
    """
    CREATE TABLE hinted_reads (
        location_id text PRIMARY KEY,
        read_at timestamptz NOT NULL,
        seen_until timestamptz
    )
    """,
    """
    CREATE TABLE hinted_days (
        location_id text,
        day date,
        finished_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day)
    )
    """,
    "CREATE INDEX hinted_days_finished_at_idx ON hinted_days (finished_at)",
    # On Supabase, web pages may access every table in public by default.
    """
    DO $$
    DECLARE
        page_role text;
    BEGIN
        FOREACH page_role IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = page_role) THEN
                EXECUTE format(
                    'REVOKE ALL ON webhook_messages, webhook_refusals, call_hints, hinted_reads, '
                    'hinted_days FROM %I', page_role);
            END IF;
        END LOOP;
    END
    $$
    """,
)

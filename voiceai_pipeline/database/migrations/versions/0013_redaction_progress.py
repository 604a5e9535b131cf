"""How far stored rows have been redacted again by the rules of redaction, second version."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    DO $$
    BEGIN
        -- Only ours has this key: the source system's table of this name stays as it is.
        IF to_regclass('voiceai_agents') IS NULL AND EXISTS (
            SELECT FROM pg_constraint
            WHERE conrelid = to_regclass('agents')
              AND pg_get_constraintdef(oid) = 'PRIMARY KEY (location_id, agent_id)'
        ) THEN
            ALTER TABLE agents RENAME TO voiceai_agents;
        END IF;
    END
    $$
    """,
    """
    CREATE TABLE redaction_progress (
        table_name text PRIMARY KEY,
        rules integer NOT NULL,
        location_id text,
        row_id text,
        finished_at timestamptz
    )
    """,
    # In a table without rows nothing is left to redact.
    """
    INSERT INTO redaction_progress (table_name, rules, finished_at)
    SELECT name, 2, now()
    FROM (
        SELECT 'call_logs' WHERE NOT EXISTS (SELECT FROM call_logs)
        UNION ALL SELECT 'set_aside_calls' WHERE NOT EXISTS (SELECT FROM set_aside_calls)
        UNION ALL SELECT 'voiceai_agents' WHERE NOT EXISTS (SELECT FROM voiceai_agents)
    ) AS unused(name)
    """,
    # On Supabase, web pages may access every table in public by default.
    """
    DO $$
    DECLARE
        page_role text;
    BEGIN
        FOREACH page_role IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = page_role) THEN
                EXECUTE format('REVOKE ALL ON redaction_progress FROM %I', page_role);
            END IF;
        END LOOP;
    END
    $$
    """,
)

"""Beside the source system's whole schema: our agents under a name of their own, and no key of ours
that keeps it from deleting a user.
"""

from alembic import op

revision = "0015"
down_revision = "0014"


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
    "UPDATE redaction_progress SET table_name = 'voiceai_agents' WHERE table_name = 'agents'",
    """
    ALTER TABLE sync_ledger
        DROP CONSTRAINT IF EXISTS sync_ledger_user_id_fkey,
        ADD CONSTRAINT sync_ledger_user_id_fkey
            FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
    """,
)

"""``call_logs.raw`` keeps only what no other column gives back; ``migrate`` then takes the rest out
of the rows that are there, in batches. New values are compressed by lz4 where the server has it.
"""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    "ALTER TABLE call_logs ALTER COLUMN raw DROP NOT NULL",
    # In a table without rows nothing is left to take out.
    """
    INSERT INTO redaction_progress (table_name, rules, finished_at)
    SELECT 'call_logs.raw', 1, now() WHERE NOT EXISTS (SELECT FROM call_logs)
    """,
    # PostgreSQL 14 and later, if it was built with lz4.
    """
    DO $$
    BEGIN
        ALTER TABLE call_logs ALTER COLUMN summary SET COMPRESSION lz4,
            ALTER COLUMN transcript SET COMPRESSION lz4,
            ALTER COLUMN executed_call_actions SET COMPRESSION lz4,
            ALTER COLUMN extracted_data SET COMPRESSION lz4,
            ALTER COLUMN translation SET COMPRESSION lz4,
            ALTER COLUMN raw SET COMPRESSION lz4;
    EXCEPTION WHEN feature_not_supported OR syntax_error THEN
        NULL;
    END
    $$
    """,
)

"""Beside the source system's whole schema: no key of ours keeps it from deleting a user. Our agents
have had a name of their own since 0013.
"""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    ALTER TABLE sync_ledger
        DROP CONSTRAINT IF EXISTS sync_ledger_user_id_fkey,
        ADD CONSTRAINT sync_ledger_user_id_fkey
            FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
    """,
)

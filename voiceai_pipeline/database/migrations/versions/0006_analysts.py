"""A schema for people who read with a tool of their own. Its views, every comment and the roles
follow the code: ``database.migrate`` writes them after the last revision.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Whoever may not create one can be given it: CREATE SCHEMA IF NOT EXISTS asks for the right
    # even where it exists.
    op.execute(
        """
        DO $$
        BEGIN
            IF to_regnamespace('voiceai') IS NULL THEN
                CREATE SCHEMA voiceai;
            END IF;
        END
        $$
        """
    )

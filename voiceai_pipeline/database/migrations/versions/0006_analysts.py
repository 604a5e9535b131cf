"""The schema for analysts with their own tools. Views, comments and roles follow the code:
``database.migrate`` writes them after the last revision.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # A user who may not create the schema can be given it: CREATE SCHEMA IF NOT EXISTS would need
    # the privilege even if it exists.
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

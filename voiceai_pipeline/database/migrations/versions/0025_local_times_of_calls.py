"""Each call's local day and hour, and the key of callers' pseudonyms."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    for column in ("timezone text", "local_day date", "local_hour smallint"):
        op.execute(f"ALTER TABLE call_facts ADD COLUMN {column}")
    op.execute(
        """
        CREATE TABLE caller_key (
            id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
            key bytea NOT NULL
        )
        """
    )
    # 244 bits of PostgreSQL's strong randomness.
    op.execute(
        "INSERT INTO caller_key (key) "
        "VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))"
    )

"""Months whose calls are no longer kept; tables that give room back soon after deleting."""

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE deleted_months (
            month date PRIMARY KEY,
            keep_days integer NOT NULL,
            calls bigint NOT NULL DEFAULT 0,
            began_at timestamptz NOT NULL,
            finished_at timestamptz
        )
        """
    )
    op.execute("ALTER TABLE sync_ledger DROP CONSTRAINT sync_ledger_state_check")
    op.execute(
        "ALTER TABLE sync_ledger ADD CONSTRAINT sync_ledger_state_check "
        "CHECK (state IN ('complete', 'failed', 'waiting', 'not_kept'))"
    )
    # Days that are no longer kept are finished, and may be most of the ledger.
    op.execute("DROP INDEX sync_ledger_unfinished_idx")
    op.execute(
        "CREATE INDEX sync_ledger_unfinished_idx ON sync_ledger (finished_at) "
        "WHERE state <> 'complete' AND state <> 'not_kept'"
    )
    # A month is a few percent of a table: by default its room would be used again months later.
    for table in ("call_logs", "call_facts", "call_words"):
        op.execute(
            f"ALTER TABLE {table} SET "
            "(autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)"
        )
    for table in ("call_logs", "call_words"):
        op.execute(f"ALTER TABLE {table} SET (toast.autovacuum_vacuum_scale_factor = 0.02)")

"""The history of agents' settings, so that a backfill does not judge the past by today's; and how
many transcripts name no known speaker.
"""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE agent_settings (
            location_id text NOT NULL,
            agent_id text NOT NULL,
            since timestamptz NOT NULL,
            settings jsonb NOT NULL,
            PRIMARY KEY (location_id, agent_id, since)
        )
        """
    )
    for mart in ("daily_call_metrics", "agent_performance", "hourly_activity"):
        # NULL until the row is rebuilt, which the new definitions demand at once.
        op.execute(f"ALTER TABLE {mart} ADD COLUMN calls_with_unknown_speakers integer")

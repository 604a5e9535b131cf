"""Forget stored durations below 0 or above a day: they are unknown, and no sum may contain them."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute(
        "UPDATE call_logs SET duration_seconds = NULL "
        "WHERE NOT coalesce(duration_seconds BETWEEN 0 AND 86400, true)"
    )

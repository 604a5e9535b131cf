"""The table of syncs and their results, by user."""

import sqlalchemy as sa

from voiceai_pipeline.database.schema import instant, metadata

user_syncs = sa.Table(
    "user_syncs",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True,
              comment="The user."),
    sa.Column("run_id", sa.Text, primary_key=True, comment="The Dagster run."),
    sa.Column("state", sa.Text, nullable=False,
              comment="queued, running, complete, incomplete, canceled or lost."),
    sa.Column("asked_by", sa.Text,
              comment="Who or what asked for it: the page, a schedule, a backfill."),
    instant("asked_at", comment="When an operator asked for it; NULL: no operator did."),
    instant("started_at", nullable=False,
            comment="When an operator asked for it; otherwise, when its first read started."),
    instant("ended_at", comment="When it ended; NULL: not yet."),
    sa.Column("first_day", sa.Date, nullable=False, comment="The first of its days."),
    sa.Column("last_day", sa.Date, nullable=False, comment="The last of its days."),
    sa.Column("days", sa.Integer, nullable=False, server_default="0",
              comment="Number of days that have a result."),
    sa.Column("incomplete_days", sa.Integer, nullable=False, server_default="0",
              comment="Number of these that are not complete."),
    sa.Column("new_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that were not stored before."),
    sa.Column("changed_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls whose stored content changed."),
    sa.Column("missing_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that HighLevel no longer lists."),
    sa.Column("message", sa.Text, nullable=False, server_default="",
              comment="Why some days are not complete."),
    sa.Index("user_syncs_user_id_started_at_idx", "user_id", "started_at"),
    sa.Index("user_syncs_under_way_idx", "run_id", postgresql_where=sa.text("ended_at IS NULL")),
    comment="Syncs of a user in the last 90 days that an operator asked for, that found or changed "
            "calls, or that failed. A sync that only confirmed what is stored leaves no row.",
)  # fmt: skip

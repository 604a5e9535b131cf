"""The table of pauses: which users' syncs operators have paused."""

import sqlalchemy as sa

from voiceai_pipeline.database.schema import instant, metadata

sync_pauses = sa.Table(
    "sync_pauses",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True,
              comment="The user."),
    instant("since", nullable=False, comment="Since when the syncs are paused."),
    sa.Column("paused_by", sa.Text, nullable=False, comment="Where the operator paused them."),
    sa.Column("reason", sa.Text, nullable=False, server_default="",
              comment="Why, as the operator entered it."),
    comment="Users whose calls are not read, because an operator has paused their syncs. A row is "
            "deleted when they are resumed; token_events records both.",
)  # fmt: skip

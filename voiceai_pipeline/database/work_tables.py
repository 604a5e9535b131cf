"""The table of work that several runs share."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.database.schema import instant, metadata

work_units = sa.Table(
    "work_units",
    metadata,
    sa.Column("leader", sa.Text, primary_key=True, comment="The Dagster run whose work it is."),
    sa.Column("location_id", sa.Text, primary_key=True, comment="The location to read."),
    sa.Column("user_ids", ARRAY(sa.Uuid), nullable=False, comment="The users to sync."),
    sa.Column("days", ARRAY(sa.Date), nullable=False, comment="The days to read, in order."),
    sa.Column("known_users", ARRAY(sa.Uuid),
              comment="Users of days that were complete before; null: all days count as complete."),
    sa.Column("known_days", ARRAY(sa.Date), comment="These days, in the order of known_users."),
    instant("since", nullable=False, comment="When the leader was asked for these days."),
    sa.Column("holder", sa.Uuid, comment="The process that works on it; null: none yet."),
    instant("expires_at", comment="After this the holder counts as gone."),
    comment="Locations that a sync has yet to read; it shares them with its helpers. A row is "
            "deleted when its location is read, all rows when the sync ends.",
)  # fmt: skip

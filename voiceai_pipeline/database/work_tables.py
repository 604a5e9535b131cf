"""The table of work that several runs share."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.database.schema import instant, metadata

work_units = sa.Table(
    "work_units",
    metadata,
    sa.Column("leader", sa.Text, primary_key=True, comment="The Dagster run whose work it is."),
    sa.Column("location_id", sa.Text, primary_key=True, comment="The location to read."),
    sa.Column("user_ids", ARRAY(sa.Uuid), nullable=False, comment="Whose days they are."),
    sa.Column("days", ARRAY(sa.Date), nullable=False, comment="Which days to read, in order."),
    sa.Column("known_users", ARRAY(sa.Uuid),
              comment="Days to re-read although complete, of these users; null: all."),
    sa.Column("known_days", ARRAY(sa.Date), comment="The days, each of the user at its place."),
    instant("since", nullable=False, comment="When the leader was asked for these days."),
    sa.Column("holder", sa.Uuid, comment="The process that works on it; null: none yet."),
    instant("expires_at", comment="After this the holder counts as gone."),
    comment="Locations that a sync has still to read, to be shared by it and its helpers. A row "
            "goes when its location is read, all of them when the sync ends.",
)  # fmt: skip

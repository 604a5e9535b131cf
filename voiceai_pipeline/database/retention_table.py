"""The table of months whose calls were deleted because of their age."""

import sqlalchemy as sa

from voiceai_pipeline.database.schema import instant, metadata

deleted_months = sa.Table(
    "deleted_months",
    metadata,
    sa.Column("month", sa.Date, primary_key=True,
              comment="Its first day, in VOICEAI_TIMEZONE."),
    sa.Column("keep_days", sa.Integer, nullable=False,
              comment="VOICEAI_KEEP_CALLS_DAYS when it was deleted last."),
    sa.Column("calls", sa.BigInteger, nullable=False, server_default="0",
              comment="How many calls were deleted so far."),
    instant("began_at", nullable=False, comment="When deleting last began."),
    instant("finished_at", comment="When all its calls were deleted; NULL: not yet."),
    comment="Months whose calls were deleted because they are no longer kept. Calls from before "
            "the end of the last one may be gone; their marts stay as they are.",
)  # fmt: skip

"""The tables behind the pages of calls: the words of each call, and who opened its content."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from voiceai_pipeline.database.schema import instant, metadata

call_words = sa.Table(
    "call_words",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="Key of the call in call_logs."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="Key of the call in call_logs."),
    instant("started_at", nullable=False, comment="Start of the call."),
    instant("changed_at", nullable=False, comment="The call's last_changed_at when indexed."),
    sa.Column("words", TSVECTOR, nullable=False,
              comment="Words of summary and transcript, the caller's number and contact, location "
                      "and month. Content: no analyst may read it."),
    sa.Index("call_words_words_idx", "words", postgresql_using="gin"),
    sa.Index("call_words_changed_at_idx", "changed_at"),
    sa.Index("call_words_started_at_idx", "started_at"),
    comment="The full-text index of calls. The web process updates it shortly after calls are "
            "stored, so no sync waits for it. It can be emptied at any time: it is then refilled.",
)  # fmt: skip

content_openings = sa.Table(
    "content_openings",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Increases with time."),
    instant("at", nullable=False, comment="When it was opened."),
    sa.Column("role", sa.Text, nullable=False, comment="operator or analyst."),
    sa.Column("visitor", sa.Text, nullable=False,
              comment="The browser's session, as a short hash, and its address."),
    sa.Column("kind", sa.Text, nullable=False, comment="call, list, export or values."),
    sa.Column("location_id", sa.Text, comment="The call's location; NULL: several calls."),
    sa.Column("call_id", sa.Text, comment="The call; NULL: several calls."),
    sa.Column("calls", sa.BigInteger, nullable=False, comment="Number of calls with this content."),
    sa.Index("content_openings_call_idx", "location_id", "call_id", "id"),
    comment="Who opened what callers said, or their numbers, on the pages. Append-only.",
)  # fmt: skip

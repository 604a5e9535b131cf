"""The table of the web pages: who logged in."""

import sqlalchemy as sa

from voiceai_pipeline.database.schema import instant, metadata

page_logins = sa.Table(
    "page_logins",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Increases with time."),
    instant("at", nullable=False, comment="When the login was tried."),
    sa.Column("address", sa.Text, nullable=False, comment="The address or network it came from."),
    sa.Column("role", sa.Text, comment="operator or analyst; NULL: the password was wrong."),
    sa.Index("page_logins_failed_at_idx", "at", postgresql_where=sa.text("role IS NULL")),
    comment="Logins to the pages and failed attempts; only some of an attack's. Append-only.",
)  # fmt: skip

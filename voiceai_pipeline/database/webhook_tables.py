"""The tables of HighLevel's webhook messages: what arrived, which calls to read because of it, and
how fresh each location is."""

import sqlalchemy as sa

from voiceai_pipeline.database.schema import instant, metadata

webhook_messages = sa.Table(
    "webhook_messages",
    metadata,
    sa.Column("message_id", sa.Text, primary_key=True,
              comment="HighLevel's webhookId, else a hash of the body: the same if repeated."),
    sa.Column("type", sa.Text, nullable=False,
              comment="call_ended, installed, uninstalled or other."),
    sa.Column("location_id", sa.Text, comment="The HighLevel location, if it names one."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency, if it names one."),
    sa.Column("is_ours", sa.Boolean, nullable=False,
              comment="Whether a user is or was connected to the location or agency."),
    instant("received_at", nullable=False, comment="When it first arrived."),
    instant("handled_at", comment="When it was acted on; NULL: not yet, or nothing to do."),
    sa.Index("webhook_messages_location_id_received_at_idx", "location_id", "received_at"),
    sa.Index("webhook_messages_received_at_idx", "received_at"),
    sa.Index("webhook_messages_uninstalled_idx", "received_at",
             postgresql_where=sa.text("type = 'uninstalled' AND handled_at IS NULL")),
    sa.Index("webhook_messages_installed_idx", "location_id",
             postgresql_where=sa.text("type = 'installed' AND handled_at IS NULL")),
    comment="Verified webhook messages of the last 30 days, without their contents.",
)  # fmt: skip

webhook_refusals = sa.Table(
    "webhook_refusals",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="The UTC day."),
    sa.Column("reason", sa.Text, primary_key=True,
              comment="unsigned, other_app, unreadable or too_large."),
    sa.Column("messages", sa.BigInteger, nullable=False, comment="How many were refused."),
    instant("last_at", nullable=False, comment="When the last one was refused."),
    comment="Webhook messages that were refused, counted; they are not kept.",
)  # fmt: skip

call_hints = sa.Table(
    "call_hints",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="HighLevel's id of the call."),
    instant("started_at", comment="The call's start, if the message says."),
    instant("hinted_at", nullable=False, comment="When the message arrived."),
    sa.Column("reads", sa.Integer, nullable=False, server_default="0",
              comment="Reads so far; after the last one the row is deleted."),
    instant("due_at", nullable=False, comment="When the location is read next for this call."),
    sa.Index("call_hints_due_at_idx", "due_at"),
    comment="Calls that have ended, according to a message, and whose texts may still arrive.",
)  # fmt: skip

hinted_reads = sa.Table(
    "hinted_reads",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    instant("read_at", nullable=False, comment="When its last hinted read began."),
    instant("seen_until", comment="Calls have been seen up to here; earlier ones may be missing."),
    comment="The last read of each location that was caused by a message; sync_ledger says which "
            "days are complete.",
)  # fmt: skip

hinted_days = sa.Table(
    "hinted_days",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    instant("finished_at", nullable=False, comment="When a hinted read last changed its calls."),
    sa.Index("hinted_days_finished_at_idx", "finished_at"),
    comment="Days whose calls hinted reads changed: marts of these days are stale.",
)  # fmt: skip

"""The tables, as the code sees them. How a database gets there is ``migrations/``; a test holds
the two equal.

``users``, ``api_keys`` and ``sync_status`` keep the source system's columns, so the existing
application can read them; what we add is nullable or defaulted.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.storage.engine import UtcDateTime

metadata = sa.MetaData()


def _instant(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime, **options)


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("first_name", sa.Text),
    sa.Column("last_name", sa.Text),
    sa.Column("business_name", sa.Text),
    _instant("created_at", server_default=sa.func.now()),
    _instant("updated_at", server_default=sa.func.now()),
)

NAME = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""),
    sa.func.nullif(
        sa.func.btrim(sa.func.concat_ws(" ", users.c.first_name, users.c.last_name)), ""
    ),
    sa.cast(users.c.id, sa.Text),
)
"""How people know a user: the business, else the person, else the id."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True),
    sa.Column("name", sa.Text, comment="The source system requires one; always 'HighLevel'."),
    sa.Column("service", sa.Text),
    sa.Column("access_token", sa.Text, comment="enc:v1:..., or plain text from the source system."),
    sa.Column("refresh_token", sa.Text, comment="enc:v1:..., or plain text. Works once."),
    _instant("token_expires_at", comment="When the access token expires."),
    sa.Column("location_id", sa.Text),
    sa.Column("location_name", sa.Text),
    sa.Column("company_id", sa.Text),
    sa.Column("is_active", sa.Boolean),
    _instant("created_at", server_default=sa.func.now()),
    _instant("updated_at", server_default=sa.func.now()),
    # Ours from here on.
    sa.Column("location_timezone", sa.Text, comment="IANA name."),
    sa.Column("user_type", sa.Text, comment="Location or Company: the kind of the tokens."),
    sa.Column("scope", sa.Text, comment="Granted scopes, space separated."),
    sa.Column("connection_state", sa.Text, comment="NULL: derived from is_active and the tokens."),
    sa.Column("connection_reason", sa.Text, comment="Failure class, where there is one."),
    _instant("connection_since", comment="When this state began."),
    _instant("next_attempt_at", comment="Before this a paused connection is left alone."),
    sa.Column("token_version", sa.Integer, server_default="0", nullable=False,
              comment="Grows with every rotation; every write compares it or the lease."),
    sa.Column("lease_id", sa.Uuid, comment="Set before a token POST: lock and journal in one."),
    _instant("lease_started_at", comment="Start of the POST; the expiry counts from here."),
    _instant("lease_expires_at", comment="Past this with no result, the POST is in doubt."),
    sa.Column("refresh_replayed", sa.Boolean, server_default=sa.false(), nullable=False,
              comment="The POST in doubt has been repeated once; there is no third."),
    sa.Column("location_access_token", sa.Text,
              comment="enc:v1:...; minted from a Company token, may be minted again at any time."),
    _instant("location_token_expires_at"),
    _instant("refreshed_at", comment="Last grant; the refresh token's year counts from here."),
    _instant("refresh_at", comment="From here on a renewal is due; spread by a stable jitter."),
    sa.Column("failed_attempts", sa.Integer, server_default="0", nullable=False,
              comment="Renewals in a row that failed for a passing reason."),
    sa.Column("last_failure", sa.Text, comment="Failure class of the last of them."),
)  # fmt: skip

token_events = sa.Table(
    "token_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _instant("at", nullable=False),
    sa.Column("user_id", sa.Uuid, comment="NULL: it concerns the app, not a user."),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("state", sa.Text, comment="The connection's state afterwards."),
    sa.Column("reason", sa.Text, comment="Failure class, where there is one."),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("version_before", sa.Integer),
    sa.Column("version_after", sa.Integer),
    sa.Column("trace_id", sa.Text, comment="HighLevel's name for its answer."),
    sa.Column("fingerprint", sa.Text, comment="Keyed hash of the refresh token stored then."),
    sa.Index("token_events_user_id_idx", "user_id", "id"),
)

connect_requests = sa.Table(
    "connect_requests",
    metadata,
    sa.Column("state_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of OAuth's state."),
    sa.Column(
        "user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("location_id", sa.Text, comment="Which location of an agency is wanted."),
    sa.Column("browser_bound", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="Only the browser that began it may finish it."),
    _instant("created_at", nullable=False),
    _instant("expires_at", nullable=False),
    _instant("used_at", comment="A state works once."),
    sa.Column("outcome", sa.Text, comment="How it ended, for whoever waits elsewhere."),
)  # fmt: skip

token_circuit = sa.Table(
    "token_circuit",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0", comment="In a row."),
    sa.Column("reason", sa.Text, comment="Failure class of the last one."),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    _instant("failing_since"),
    _instant("opened_at", comment="From here on nobody asks but the probe; NULL: closed."),
    _instant("next_probe_at"),
    _instant("replays_rest_until", comment="Before this no lost exchange is repeated."),
    sa.Column("last_user_id", sa.Uuid, comment="Who failed last: the same again counts once."),
)

alerts = sa.Table(
    "connection_alerts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False, comment="user:ID, or what of the app."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE")),
    sa.Column("reason", sa.Text, nullable=False, comment="Failure class."),
    _instant("opened_at", nullable=False),
    sa.Column("opened_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that were told that it began."),
    _instant("closed_at"),
    sa.Column("closed_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that were told that it ended."),
    sa.Column("closed_quietly", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="It ended by a person's own hand: nobody has to be told."),
    sa.Index("connection_alerts_open_subject_idx", "subject", unique=True,
             postgresql_where=sa.text("closed_at IS NULL")),
)  # fmt: skip

sync_status = sa.Table(
    "sync_status",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("service", sa.Text),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True),
    _instant("last_sync_at"),
    sa.Column("last_sync_status", sa.Text, comment="success or failure."),
    sa.Column("last_sync_message", sa.Text),
    sa.Column("records_synced", sa.Integer, comment="Calls stored for the days of the last sync."),
    _instant("created_at", server_default=sa.func.now()),
    _instant("updated_at", server_default=sa.func.now()),
)

call_logs = sa.Table(
    "call_logs",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("call_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text),
    sa.Column("contact_id", sa.Text),
    sa.Column("from_number", sa.Text),
    _instant("started_at", nullable=False, comment="createdAt."),
    sa.Column("duration_seconds", sa.Double),
    sa.Column("is_trial", sa.Boolean),
    sa.Column("is_agent_deleted", sa.Boolean),
    sa.Column("summary", sa.Text),
    sa.Column("transcript", sa.Text),
    sa.Column("executed_call_actions", JSONB, nullable=False, comment="Redacted."),
    sa.Column("extracted_data", JSONB),
    sa.Column("translation", JSONB),
    sa.Column("message_id", sa.Text),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    sa.Column("content_hash", sa.LargeBinary, nullable=False, comment="SHA-256 of raw."),
    _instant("first_seen_at", nullable=False),
    _instant("last_changed_at", nullable=False),
    _instant("missing_since", comment="Set when a complete read no longer lists the call."),
    sa.Index("call_logs_location_id_started_at_idx", "location_id", "started_at"),
    sa.Index("call_logs_agent_id_idx", "agent_id"),
    sa.Index("call_logs_started_at_idx", "started_at", postgresql_using="brin"),
)

set_aside_calls = sa.Table(
    "set_aside_calls",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.LargeBinary, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("started_at"),
    _instant("first_seen_at", nullable=False),
    _instant("last_seen_at", nullable=False),
)

sync_ledger = sa.Table(
    "sync_ledger",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("location_id", sa.Text, primary_key=True, comment="'' before the first location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("state", sa.Text, nullable=False, comment="complete, failed or waiting."),
    sa.Column("failure_class", sa.Text),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    _instant("read_until", comment="Up to here the day was read; NULL if it was not."),
    sa.Column("api_total", sa.Integer),
    sa.Column("stored", sa.Integer),
    sa.Column("new_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("changed_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("missing_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("set_aside_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("unknown_actions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pages", sa.Integer, nullable=False, server_default="0"),
    sa.Column("run_id", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    _instant("started_at"),
    _instant("finished_at"),
    sa.Index("sync_ledger_day_idx", "day"),
    sa.Index("sync_ledger_finished_at_idx", "finished_at"),
    sa.Index(
        "sync_ledger_unfinished_idx", "finished_at", postgresql_where=sa.text("state <> 'complete'")
    ),
)

drifting_days = sa.Table(
    "drifting_days",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("api_total", sa.Integer, nullable=False, comment="What HighLevel counted."),
    sa.Column("stored", sa.Integer, nullable=False, comment="What we held, set aside included."),
    _instant("opened_at", nullable=False, comment="When the day was opened to be read again."),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("timezone", sa.Text),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("first_seen_at", nullable=False),
    _instant("last_seen_at", nullable=False),
    _instant("missing_since", comment="Set when HighLevel no longer lists it; the name stays."),
)

agent_names = sa.Table(
    "agent_names",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, primary_key=True),
    _instant("since", primary_key=True, comment="When the name was first seen."),
    sa.Column("name", sa.Text, nullable=False),
)

locations = sa.Table(
    "locations",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("company_id", sa.Text),
    _instant("first_seen_at", nullable=False),
    _instant("last_seen_at", nullable=False),
)

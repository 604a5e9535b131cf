"""The tables, as the code sees them. How a database gets there is ``migrations/``; a test holds
the two equal. Every table and column has a comment, which ``migrate`` writes into the database.

``users``, ``api_keys`` and ``sync_status`` keep the source system's columns, so the existing
application can read them; what we add is nullable or defaulted.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.core.connection import SERVICE, ConnectionState
from voiceai_pipeline.database.engine import UtcDateTime

metadata = sa.MetaData()

ADOPTED: Final = ("users", "api_keys", "sync_status")
"""Tables that the source system may have made."""

VERSION_TABLE: Final = "voiceai_alembic_version"
"""Our own: Dagster keeps an ``alembic_version`` in the same search path (decision 1)."""


def _instant(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime, **options)


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Never changes; names may."),
    sa.Column("first_name", sa.Text, comment="Of the person, where there is one."),
    sa.Column("last_name", sa.Text, comment="Of the person, where there is one."),
    sa.Column("business_name", sa.Text, comment="How people know the user, where it is set."),
    _instant("created_at", server_default=sa.func.now(), comment="When the user was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Customers of the agency: whoever connects HighLevel. The source system's table.",
)  # fmt: skip

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
    sa.Column("id", sa.Uuid, primary_key=True, comment="Of the row; a user is known by user_id."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="Whose connection it is."),
    sa.Column("name", sa.Text, comment="The source system requires one; always 'HighLevel'."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("access_token", sa.Text, comment="enc:v1:..., or plain text from the source system."),
    sa.Column("refresh_token", sa.Text, comment="enc:v1:..., or plain text. Works once."),
    _instant("token_expires_at", comment="When the access token expires."),
    sa.Column("location_id", sa.Text, comment="The HighLevel location whose calls the user sees."),
    sa.Column("location_name", sa.Text, comment="As HighLevel had it last."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency of the location."),
    sa.Column("is_active", sa.Boolean, comment="False once the user was disconnected."),
    _instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
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
    _instant("location_token_expires_at", comment="When the minted token expires."),
    _instant("refreshed_at", comment="Last grant; the refresh token's year counts from here."),
    _instant("refresh_at", comment="From here on a renewal is due; spread by a stable jitter."),
    sa.Column("failed_attempts", sa.Integer, server_default="0", nullable=False,
              comment="Renewals in a row that failed for a passing reason."),
    sa.Column("last_failure", sa.Text, comment="Failure class of the last of them."),
    comment="Connections to HighLevel, with their tokens. The source system's table; for this "
            "program alone.",
)  # fmt: skip

token_events = sa.Table(
    "token_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Grows with time."),
    _instant("at", nullable=False, comment="When it happened."),
    sa.Column("user_id", sa.Uuid, comment="NULL: it concerns the app, not a user."),
    sa.Column("event", sa.Text, nullable=False, comment="What happened, as a word."),
    sa.Column("state", sa.Text, comment="The connection's state afterwards."),
    sa.Column("reason", sa.Text, comment="Failure class, where there is one."),
    sa.Column("detail", sa.Text, nullable=False, server_default="",
              comment="Facts that help: status, path template; no personal data."),
    sa.Column("actor", sa.Text, nullable=False, comment="Which part of the program, or who."),
    sa.Column("run_id", sa.Text, comment="The Dagster run, where it was one."),
    sa.Column("version_before", sa.Integer, comment="token_version before it."),
    sa.Column("version_after", sa.Integer, comment="token_version after it."),
    sa.Column("trace_id", sa.Text, comment="HighLevel's name for its answer."),
    sa.Column("fingerprint", sa.Text, comment="Keyed hash of the refresh token stored then."),
    sa.Index("token_events_user_id_idx", "user_id", "id"),
    comment="What happened to each connection, and why. Rows are only ever added.",
)  # fmt: skip

connect_requests = sa.Table(
    "connect_requests",
    metadata,
    sa.Column("state_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of OAuth's state."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False,
              comment="Who is to be connected."),
    sa.Column("location_id", sa.Text, comment="Which location of an agency is wanted."),
    sa.Column("browser_bound", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="Only the browser that began it may finish it."),
    _instant("created_at", nullable=False, comment="When it began."),
    _instant("expires_at", nullable=False, comment="From here on it cannot be finished."),
    _instant("used_at", comment="A state works once."),
    sa.Column("outcome", sa.Text, comment="How it ended, for whoever waits elsewhere."),
    comment="Consents under way: begun here, to be finished by HighLevel's redirect.",
)  # fmt: skip

token_circuit = sa.Table(
    "token_circuit",
    metadata,
    sa.Column("service", sa.Text, primary_key=True, comment="Always 'highlevel'; one row."),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0", comment="In a row."),
    sa.Column("reason", sa.Text, comment="Failure class of the last one."),
    sa.Column("detail", sa.Text, nullable=False, server_default="",
              comment="Facts that help with the last one; no personal data."),
    _instant("failing_since", comment="When the failures in a row began."),
    _instant("opened_at", comment="From here on nobody asks but the probe; NULL: closed."),
    _instant("next_probe_at", comment="When one request is made to see whether it works again."),
    _instant("replays_rest_until", comment="Before this no lost exchange is repeated."),
    sa.Column("last_user_id", sa.Uuid, comment="Who failed last: the same again counts once."),
    comment="Whether tokens can be renewed at all: suspended for everybody while they fail for "
            "everybody.",
)  # fmt: skip

alerts = sa.Table(
    "connection_alerts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Grows with time."),
    sa.Column("subject", sa.Text, nullable=False, comment="user:ID, or what of the app."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"),
              comment="NULL: it concerns the app, not a user."),
    sa.Column("reason", sa.Text, nullable=False, comment="Failure class."),
    _instant("opened_at", nullable=False, comment="When it began."),
    sa.Column("opened_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that were told that it began."),
    _instant("closed_at", comment="When it ended; NULL: it has not."),
    sa.Column("closed_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that were told that it ended."),
    sa.Column("closed_quietly", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="It ended by a person's own hand: nobody has to be told."),
    sa.Index("connection_alerts_open_subject_idx", "subject", unique=True,
             postgresql_where=sa.text("closed_at IS NULL")),
    comment="Troubles that somebody is told of, once when they begin and once when they end.",
)  # fmt: skip

sync_status = sa.Table(
    "sync_status",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Of the row; a user is known by user_id."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="Whose sync it was."),
    _instant("last_sync_at", comment="When the last sync ended."),
    sa.Column("last_sync_status", sa.Text, comment="success or failure."),
    sa.Column("last_sync_message", sa.Text, comment="How it went, in a sentence."),
    sa.Column("records_synced", sa.Integer, comment="Calls stored for the days of the last sync."),
    _instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Each user's last sync; day by day it is sync_ledger. The source system's table.",
)  # fmt: skip

call_logs = sa.Table(
    "call_logs",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True,
              comment="The HighLevel location that the call belongs to."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="HighLevel's id of the call."),
    sa.Column("agent_id", sa.Text, comment="Who took the call; names are in agents."),
    sa.Column("contact_id", sa.Text, comment="HighLevel's id of the caller's contact."),
    sa.Column("from_number", sa.Text, comment="The caller's telephone number."),
    _instant("started_at", nullable=False, comment="When the call began: HighLevel's createdAt."),
    sa.Column("duration_seconds", sa.Double, comment="Length of the call in seconds."),
    sa.Column("is_trial", sa.Boolean, comment="A test call: no metric counts it."),
    sa.Column("is_agent_deleted", sa.Boolean, comment="The agent is no longer in HighLevel."),
    sa.Column("summary", sa.Text, comment="HighLevel's summary of what was said."),
    sa.Column("transcript", sa.Text, comment="What was said, as text."),
    sa.Column("executed_call_actions", JSONB, nullable=False,
              comment="What the agent did: a list of actions. Third-party secrets are redacted."),
    sa.Column("extracted_data", JSONB, comment="What the agent asked for and was told, by key."),
    sa.Column("translation", JSONB, comment="As HighLevel gave it: on, language, text."),
    sa.Column("message_id", sa.Text, comment="HighLevel's id of the message in the conversation."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    sa.Column("content_hash", sa.LargeBinary, nullable=False, comment="SHA-256 of raw."),
    sa.Column("fingerprint", sa.LargeBinary,
              comment="Keyed hash of the item as it was sent; equal, and nothing has changed."),
    _instant("first_seen_at", nullable=False, comment="When the call was first stored."),
    _instant("last_changed_at", nullable=False, comment="When its content last changed here."),
    _instant("missing_since", comment="Set when a complete read no longer lists the call."),
    sa.Index("call_logs_location_id_started_at_idx", "location_id", "started_at"),
    sa.Index("call_logs_agent_id_idx", "agent_id"),
    sa.Index("call_logs_started_at_idx", "started_at", postgresql_using="brin"),
    comment="Every call that HighLevel lists, as it is now. A call belongs to a location; users "
            "see calls through their connection.",
)  # fmt: skip

set_aside_calls = sa.Table(
    "set_aside_calls",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("content_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of raw."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why it cannot be a call."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("started_at", comment="When it says that it began, where that can be read."),
    _instant("first_seen_at", nullable=False, comment="When it was first listed."),
    _instant("last_seen_at", nullable=False, comment="When it was last listed."),
    comment="What HighLevel lists among its calls and cannot be one, with the reason.",
)

sync_ledger = sa.Table(
    "sync_ledger",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), primary_key=True,
              comment="Whose day it is."),
    sa.Column("location_id", sa.Text, primary_key=True, comment="'' before the first location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("state", sa.Text, nullable=False, comment="complete, failed or waiting."),
    sa.Column("failure_class", sa.Text, comment="Why it is not complete, as a word."),
    sa.Column("message", sa.Text, nullable=False, server_default="",
              comment="Why it is not complete, as a sentence."),
    _instant("read_until", comment="Up to here the day was read; NULL if it was not."),
    sa.Column("api_total", sa.Integer, comment="How many calls HighLevel counted."),
    sa.Column("stored", sa.Integer, comment="How many of them are stored."),
    sa.Column("new_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync added."),
    sa.Column("changed_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls whose content the last sync changed."),
    sa.Column("missing_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync no longer found."),
    sa.Column("set_aside_calls", sa.Integer, nullable=False, server_default="0",
              comment="Items that cannot be calls; they are in the table set_aside_calls."),
    sa.Column("unknown_actions", sa.Integer, nullable=False, server_default="0",
              comment="Actions of a type that this program does not know."),
    sa.Column("pages", sa.Integer, nullable=False, server_default="0",
              comment="Requests that the read took."),
    sa.Column("run_id", sa.Text, comment="The Dagster run of the last sync."),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0",
              comment="Failures in a row; 0 unless it is failed."),
    _instant("started_at", comment="When the last sync of the day began."),
    _instant("finished_at", comment="When it ended."),
    sa.Index("sync_ledger_day_idx", "day"),
    sa.Index("sync_ledger_finished_at_idx", "finished_at"),
    sa.Index("sync_ledger_unfinished_idx", "finished_at",
             postgresql_where=sa.text("state <> 'complete'")),
    comment="Is a day complete for a user, and if not, why: one row for each user, location and "
            "day.",
)  # fmt: skip

drifting_days = sa.Table(
    "drifting_days",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("api_total", sa.Integer, nullable=False, comment="What HighLevel counted."),
    sa.Column("stored", sa.Integer, nullable=False, comment="What we held, set aside included."),
    _instant("opened_at", nullable=False, comment="When the day was opened to be read again."),
    comment="Days for which HighLevel counted other calls than we held, until they agree again.",
)

location_leases = sa.Table(
    "location_leases",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("holder", sa.Uuid, nullable=False, comment="One sync in one process."),
    sa.Column("run_id", sa.Text, comment="The Dagster run that holds it."),
    _instant("taken_at", nullable=False, comment="When it was taken."),
    _instant("expires_at", nullable=False, comment="Past this the holder is taken to be gone."),
    comment="Which sync reads a location just now: no two read one at the same time.",
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    sa.Column("name", sa.Text, nullable=False, comment="As HighLevel had it last."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("first_seen_at", nullable=False, comment="When the agent was first listed."),
    _instant("last_seen_at", nullable=False, comment="When the agent was last listed."),
    _instant("missing_since", comment="Set when HighLevel no longer lists it; the name stays."),
    comment="The voice agents. Whoever was deleted in HighLevel stays here.",
)

agent_names = sa.Table(
    "agent_names",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    _instant("since", primary_key=True, comment="When the name was first seen."),
    sa.Column("name", sa.Text, nullable=False, comment="The agent's name from then on."),
    comment="The names that each voice agent has had.",
)

locations = sa.Table(
    "locations",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="HighLevel's id of the location."),
    sa.Column("name", sa.Text, comment="As HighLevel had it last."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency that it belongs to."),
    _instant("first_seen_at", nullable=False, comment="When the location was first read."),
    _instant("last_seen_at", nullable=False, comment="When the location was last read."),
    comment="The HighLevel locations that somebody is or was connected to.",
)


CURRENT_CONNECTION = (
    sa.select(api_keys)
    .where(api_keys.c.user_id == users.c.id, api_keys.c.service == SERVICE)
    # The source system has no unique key here: a reconnect can leave older rows behind.
    .order_by(
        sa.func.coalesce(api_keys.c.is_active, sa.false()).desc(),
        api_keys.c.updated_at.desc().nulls_last(),
        api_keys.c.created_at.desc().nulls_last(),
        # Never two rows for two readers: a lease is on a row.
        api_keys.c.id,
    )
    .limit(1)
    .correlate(users)
    .lateral("k")
)

_STORED_STATES = [
    state.value
    for state in ConnectionState
    if state
    not in (
        ConnectionState.EXPIRING,
        ConnectionState.REFRESHING,
        ConnectionState.NEVER_CONNECTED,
    )
]

CONNECTION_STATE = sa.case(
    (CURRENT_CONNECTION.c.id.is_(None), ConnectionState.NEVER_CONNECTED.value),
    (
        CURRENT_CONNECTION.c.connection_state.in_(_STORED_STATES),
        CURRENT_CONNECTION.c.connection_state,
    ),
    # Rows that the source system wrote have no state yet; a newer version may have one that this
    # one does not know, and no user vanishes for that.
    (CURRENT_CONNECTION.c.is_active.is_not(True), ConnectionState.DISCONNECTED.value),
    (
        sa.and_(
            CURRENT_CONNECTION.c.refresh_token.is_(None),
            CURRENT_CONNECTION.c.access_token.is_(None),
        ),
        ConnectionState.DISCONNECTED.value,
    ),
    else_=ConnectionState.CONNECTED.value,
)

ALL_CONNECTIONS = (
    sa.select(
        users.c.id.label("user"),
        NAME.label("user_name"),
        CONNECTION_STATE.label("state"),
        CURRENT_CONNECTION,
    )
    .select_from(users.outerjoin(CURRENT_CONNECTION, sa.true()))
    .order_by(NAME, users.c.id)
)
"""Every user (``user``, ``user_name``), the ``state`` of their connection and its row, by name."""

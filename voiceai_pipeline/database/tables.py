"""The tables, except the marts, and the query over all connections.

``migrations/`` creates the tables; a test holds both equal. ``migrate`` writes the comment of every
table and column into the database. ``users``, ``api_keys`` and ``sync_status`` keep the source
system's columns, so the existing application can read them; our columns are nullable or have a
default.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.core.connection import SERVICE, ConnectionState
from voiceai_pipeline.database.engine import UtcDateTime

metadata = sa.MetaData()

ADOPTED: Final = ("users", "api_keys", "sync_status")
"""Tables that the source system may have created."""

VERSION_TABLE: Final = "voiceai_alembic_version"
"""Our own: Dagster keeps an ``alembic_version`` in the same search path (decision 1)."""


def _instant(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, UtcDateTime, **options)


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Never changes; names may."),
    sa.Column("first_name", sa.Text, comment="The user's own name, if any."),
    sa.Column("last_name", sa.Text, comment="The user's own name, if any."),
    sa.Column("business_name", sa.Text, comment="The display name, if set."),
    _instant("created_at", server_default=sa.func.now(), comment="When the user was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Users: the agency's customers, who connect HighLevel. The source system's table.",
)  # fmt: skip

NAME = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""),
    sa.func.nullif(
        sa.func.btrim(sa.func.concat_ws(" ", users.c.first_name, users.c.last_name)), ""
    ),
    sa.cast(users.c.id, sa.Text),
)
"""A user's display name: business name, else first and last name, else id."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Of the row; user_id identifies the user."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="The connection's user."),
    sa.Column("name", sa.Text, comment="Required by the source system; always 'HighLevel'."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("access_token", sa.Text, comment="enc:v1:..., or plain text from the source system."),
    sa.Column("refresh_token", sa.Text, comment="enc:v1:..., or plain text. Single use."),
    _instant("token_expires_at", comment="When the access token expires."),
    sa.Column("location_id", sa.Text, comment="The HighLevel location whose calls the user sees."),
    sa.Column("location_name", sa.Text, comment="The latest name from HighLevel."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency of the location."),
    sa.Column("is_active", sa.Boolean, comment="False once the user was disconnected."),
    _instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    # Ours from here on.
    sa.Column("location_timezone", sa.Text, comment="IANA name."),
    sa.Column("user_type", sa.Text, comment="Token type: Location or Company."),
    sa.Column("scope", sa.Text, comment="Granted scopes, space separated."),
    sa.Column("connection_state", sa.Text, comment="NULL: derived from is_active and the tokens."),
    sa.Column("connection_reason", sa.Text, comment="Failure class, if any."),
    _instant("connection_since", comment="Since when it has this state."),
    _instant("next_attempt_at", comment="A paused connection is not used before this."),
    sa.Column("token_version", sa.Integer, server_default="0", nullable=False,
              comment="Increases with every rotation; every write checks it or the lease."),
    sa.Column("lease_id", sa.Uuid, comment="Set before a token POST: lock and journal in one."),
    _instant("lease_started_at", comment="Start of the POST; the expiry counts from here."),
    _instant("lease_expires_at", comment="After this without a result, the POST is in doubt."),
    sa.Column("refresh_replayed", sa.Boolean, server_default=sa.false(), nullable=False,
              comment="The POST in doubt has been replayed; it is never replayed twice."),
    sa.Column("location_access_token", sa.Text,
              comment="enc:v1:...; minted from a Company token, can be minted again at any time."),
    _instant("location_token_expires_at", comment="When the minted token expires."),
    _instant("refreshed_at", comment="Last grant; the refresh token's year counts from here."),
    _instant("refresh_at", comment="When a refresh is due; spread by a stable jitter."),
    sa.Column("failed_attempts", sa.Integer, server_default="0", nullable=False,
              comment="Consecutive refreshes that failed for a temporary reason."),
    sa.Column("last_failure", sa.Text, comment="Failure class of the last failed refresh."),
    comment="Connections to HighLevel, with their tokens. The source system's table; analysts "
            "cannot read it.",
)  # fmt: skip

token_events = sa.Table(
    "token_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Increases with time."),
    _instant("at", nullable=False, comment="When it happened."),
    sa.Column("user_id", sa.Uuid, comment="NULL: about the app, not a user."),
    sa.Column("event", sa.Text, nullable=False, comment="What happened, as a code."),
    sa.Column("state", sa.Text, comment="The connection's state afterwards."),
    sa.Column("reason", sa.Text, comment="Failure class, if any."),
    sa.Column("detail", sa.Text, nullable=False, server_default="",
              comment="Details such as status and path template; no personal data."),
    sa.Column("actor", sa.Text, nullable=False, comment="The program's part, or the operator."),
    sa.Column("run_id", sa.Text, comment="The Dagster run, if any."),
    sa.Column("version_before", sa.Integer, comment="token_version before it."),
    sa.Column("version_after", sa.Integer, comment="token_version after it."),
    sa.Column("trace_id", sa.Text, comment="HighLevel's trace id of its response."),
    sa.Column("fingerprint", sa.Text, comment="Keyed hash of the refresh token of that time."),
    sa.Index("token_events_user_id_idx", "user_id", "id"),
    comment="Audit log: what happened to each connection, and why. Append-only.",
)  # fmt: skip

connect_requests = sa.Table(
    "connect_requests",
    metadata,
    sa.Column("state_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of OAuth's state."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False,
              comment="The user to connect."),
    sa.Column("location_id", sa.Text, comment="The requested location of an agency."),
    sa.Column("browser_bound", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="Only the browser that started it may finish it."),
    _instant("created_at", nullable=False, comment="When it started."),
    _instant("expires_at", nullable=False, comment="After this it cannot be finished."),
    _instant("used_at", comment="When it was used; a state works once."),
    sa.Column("outcome", sa.Text, comment="The result, for a client that waits for it."),
    comment="OAuth consents in progress, from the start to HighLevel's redirect.",
)  # fmt: skip

token_circuit = sa.Table(
    "token_circuit",
    metadata,
    sa.Column("service", sa.Text, primary_key=True, comment="Always 'highlevel'; one row."),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0",
              comment="Consecutive failures."),
    sa.Column("reason", sa.Text, comment="Failure class of the last failure."),
    sa.Column("detail", sa.Text, nullable=False, server_default="",
              comment="Details of the last failure; no personal data."),
    _instant("failing_since", comment="When the first of these failures happened."),
    _instant("opened_at", comment="Since when only the probe may send requests; NULL: closed."),
    _instant("next_probe_at", comment="When one request may test whether refreshes work again."),
    _instant("replays_rest_until", comment="No exchange in doubt is replayed before this."),
    sa.Column("last_user_id", sa.Uuid,
              comment="The user who failed last; failures of one user in a row count once."),
    comment="Circuit breaker of token refreshes: suspends them while they fail for all "
            "users.",
)  # fmt: skip

alerts = sa.Table(
    "connection_alerts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Increases with time."),
    sa.Column("subject", sa.Text, nullable=False, comment="user:ID, or a part of the app."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"),
              comment="NULL: about the app, not a user."),
    sa.Column("reason", sa.Text, nullable=False, comment="Failure class."),
    _instant("opened_at", nullable=False, comment="When it started."),
    sa.Column("opened_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that delivered the opening."),
    _instant("closed_at", comment="When it was resolved; NULL while open."),
    sa.Column("closed_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that delivered the resolution."),
    sa.Column("closed_quietly", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="The user resolved it: no notification is needed."),
    sa.Index("connection_alerts_open_subject_idx", "subject", unique=True,
             postgresql_where=sa.text("closed_at IS NULL")),
    comment="Alerts: each is delivered once when it opens and once when it is resolved.",
)  # fmt: skip

sync_status = sa.Table(
    "sync_status",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Of the row; user_id identifies the user."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="The user who was synced."),
    _instant("last_sync_at", comment="When the last sync ended."),
    sa.Column("last_sync_status", sa.Text, comment="success or failure."),
    sa.Column("last_sync_message", sa.Text, comment="The result in a sentence."),
    sa.Column("records_synced", sa.Integer, comment="Calls stored for the days of the last sync."),
    _instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    _instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Each user's last sync; sync_ledger has each day. The source system's table.",
)  # fmt: skip

call_logs = sa.Table(
    "call_logs",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True,
              comment="The HighLevel location that the call belongs to."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="HighLevel's id of the call."),
    sa.Column("agent_id", sa.Text, comment="The agent that took the call; names are in agents."),
    sa.Column("contact_id", sa.Text, comment="HighLevel's id of the caller's contact."),
    sa.Column("from_number", sa.Text, comment="The caller's telephone number."),
    _instant("started_at", nullable=False, comment="Start of the call: HighLevel's createdAt."),
    sa.Column("duration_seconds", sa.Double, comment="Length of the call in seconds."),
    sa.Column("is_trial", sa.Boolean, comment="A trial call: metrics do not count it."),
    sa.Column("is_agent_deleted", sa.Boolean, comment="The agent was deleted in HighLevel."),
    sa.Column("summary", sa.Text, comment="HighLevel's summary of what was said."),
    sa.Column("transcript", sa.Text, comment="The transcript as text."),
    sa.Column("executed_call_actions", JSONB, nullable=False,
              comment="The agent's actions as a list. Third-party secrets are redacted."),
    sa.Column("extracted_data", JSONB, comment="The values that the agent captured, by key."),
    sa.Column("translation", JSONB, comment="As HighLevel sends it: on, language, text."),
    sa.Column("message_id", sa.Text, comment="HighLevel's id of the message in the conversation."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    sa.Column("content_hash", sa.LargeBinary, nullable=False, comment="SHA-256 of raw."),
    sa.Column("fingerprint", sa.LargeBinary,
              comment="Keyed hash of the item as sent; if equal, nothing has changed."),
    _instant("first_seen_at", nullable=False, comment="When the call was first stored."),
    _instant("last_changed_at", nullable=False, comment="When its stored content last changed."),
    _instant("missing_since", comment="Set when a complete read no longer lists the call."),
    sa.Index("call_logs_location_id_started_at_idx", "location_id", "started_at"),
    sa.Index("call_logs_agent_id_idx", "agent_id"),
    sa.Index("call_logs_started_at_idx", "started_at", postgresql_using="brin"),
    comment="Every call that HighLevel lists, in its latest state. A call belongs to a location; "
            "users see calls through their connection.",
)  # fmt: skip

set_aside_calls = sa.Table(
    "set_aside_calls",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("content_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of raw."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why it is not a valid call."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("started_at", comment="Its start, if that can be parsed."),
    _instant("first_seen_at", nullable=False, comment="When it was first listed."),
    _instant("last_seen_at", nullable=False, comment="When it was last listed."),
    comment="Items that HighLevel lists among its calls but that are not valid calls, and why.",
)

sync_ledger = sa.Table(
    "sync_ledger",
    metadata,
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), primary_key=True,
              comment="The user whose day it is."),
    sa.Column("location_id", sa.Text, primary_key=True, comment="'' before the first location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column("state", sa.Text, nullable=False, comment="complete, failed or waiting."),
    sa.Column("failure_class", sa.Text, comment="Why it is not complete, as a code."),
    sa.Column("message", sa.Text, nullable=False, server_default="",
              comment="Why it is not complete, as a sentence."),
    _instant("read_until", comment="Up to when the day was read; NULL: it was not."),
    sa.Column("api_total", sa.Integer, comment="Number of calls that HighLevel reported."),
    sa.Column("stored", sa.Integer, comment="Number of them that are stored."),
    sa.Column("new_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync added."),
    sa.Column("changed_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls whose content the last sync changed."),
    sa.Column("missing_calls", sa.Integer, nullable=False, server_default="0",
              comment="Calls that the last sync no longer found."),
    sa.Column("set_aside_calls", sa.Integer, nullable=False, server_default="0",
              comment="Items that are not valid calls; they are in set_aside_calls."),
    sa.Column("unknown_actions", sa.Integer, nullable=False, server_default="0",
              comment="Actions of an undocumented type."),
    sa.Column("pages", sa.Integer, nullable=False, server_default="0",
              comment="Number of requests for the read."),
    sa.Column("run_id", sa.Text, comment="The Dagster run of the last sync."),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0",
              comment="Consecutive failures; 0 unless failed."),
    _instant("started_at", comment="Start of the day's last sync."),
    _instant("finished_at", comment="End of the day's last sync."),
    sa.Index("sync_ledger_day_idx", "day"),
    sa.Index("sync_ledger_finished_at_idx", "finished_at"),
    sa.Index("sync_ledger_unfinished_idx", "finished_at",
             postgresql_where=sa.text("state <> 'complete'")),
    comment="Whether a day is complete for a user, and if not, why: a row for each user, location "
            "and day.",
)  # fmt: skip

drifting_days = sa.Table(
    "drifting_days",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("day", sa.Date, primary_key=True, comment="A day of VOICEAI_TIMEZONE."),
    sa.Column(
        "api_total", sa.Integer, nullable=False, comment="Number of calls that HighLevel reported."
    ),
    sa.Column(
        "stored",
        sa.Integer,
        nullable=False,
        comment="Number of calls we had, including those set aside.",
    ),
    _instant("opened_at", nullable=False, comment="When the day was marked for a re-sync."),
    comment="Days on which HighLevel's number of calls differs from ours, until they agree again.",
)

location_leases = sa.Table(
    "location_leases",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column(
        "holder", sa.Uuid, nullable=False, comment="The sync that holds it: one in one process."
    ),
    sa.Column("run_id", sa.Text, comment="The Dagster run that holds it."),
    _instant("taken_at", nullable=False, comment="When it was taken."),
    _instant("expires_at", nullable=False, comment="After this the holder counts as gone."),
    comment="Per-location leases: only one sync reads a location at a time.",
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    sa.Column("name", sa.Text, nullable=False, comment="The latest name from HighLevel."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("raw", JSONB, nullable=False, comment="The whole item, redacted."),
    _instant("first_seen_at", nullable=False, comment="When the agent was first listed."),
    _instant("last_seen_at", nullable=False, comment="When the agent was last listed."),
    _instant("missing_since", comment="Set when HighLevel no longer lists it; its name is kept."),
    comment="The voice agents, including those deleted in HighLevel.",
)

agent_names = sa.Table(
    "agent_names",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="The HighLevel location."),
    sa.Column("agent_id", sa.Text, primary_key=True, comment="HighLevel's id of the agent."),
    _instant("since", primary_key=True, comment="When the name was first seen."),
    sa.Column("name", sa.Text, nullable=False, comment="The agent's name from then on."),
    comment="Every name that a voice agent has had.",
)

locations = sa.Table(
    "locations",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True, comment="HighLevel's id of the location."),
    sa.Column("name", sa.Text, comment="The latest name from HighLevel."),
    sa.Column("timezone", sa.Text, comment="IANA name."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency of the location."),
    _instant("first_seen_at", nullable=False, comment="When the location was first read."),
    _instant("last_seen_at", nullable=False, comment="When the location was last read."),
    comment="The HighLevel locations that a user is or was connected to.",
)


CURRENT_CONNECTION = (
    sa.select(api_keys)
    .where(api_keys.c.user_id == users.c.id, api_keys.c.service == SERVICE)
    # The source system has no unique key here: a reconnect can leave older rows behind.
    .order_by(
        sa.func.coalesce(api_keys.c.is_active, sa.false()).desc(),
        api_keys.c.updated_at.desc().nulls_last(),
        api_keys.c.created_at.desc().nulls_last(),
        # A stable choice for every reader: the lease is on the row.
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
    # Rows from the source system have no state yet, and a newer version may have written a state
    # that this one does not know: the user must not disappear.
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
"""Every user (``user``, ``user_name``) with the ``state`` and row of their connection, by name."""

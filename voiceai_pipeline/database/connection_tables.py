"""The tables of users and their connections: tokens, audit log, consents, breaker, alerts."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from voiceai_pipeline.database.schema import instant, metadata

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Never changes; names may."),
    sa.Column("first_name", sa.Text, comment="The user's own name, if any."),
    sa.Column("last_name", sa.Text, comment="The user's own name, if any."),
    sa.Column("business_name", sa.Text, comment="The display name, if set."),
    instant("created_at", server_default=sa.func.now(), comment="When the user was added."),
    instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    comment="Users: the agency's customers, who connect HighLevel. The source system's table.",
)  # fmt: skip

NAME = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""),
    sa.func.nullif(
        sa.func.btrim(sa.func.concat_ws(" ", users.c.first_name, users.c.last_name)), ""
    ),
    # Columns that other applications' tables have, and ours need not.
    *(
        sa.func.nullif(sa.literal_column("to_jsonb(users)", JSONB)[name].astext, "")
        for name in ("full_name", "name", "email")
    ),
    sa.cast(users.c.id, sa.Text),
)
"""A user's display name, from what the table has: business name, first and last name, full name,
name, e-mail address, else id."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True,
              comment="The row's id; user_id identifies the user."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), index=True,
              comment="The connection's user."),
    sa.Column("name", sa.Text, comment="Required by the source system; always 'HighLevel'."),
    sa.Column("service", sa.Text, comment="Always 'highlevel'."),
    sa.Column("access_token", sa.Text, comment="enc:v2:..., or plain text from the source system."),
    sa.Column("refresh_token", sa.Text, comment="enc:v2:..., or plain text. Single use."),
    instant("token_expires_at", comment="When the access token expires."),
    sa.Column("location_id", sa.Text, comment="The HighLevel location whose calls the user sees."),
    sa.Column("location_name", sa.Text, comment="The latest name from HighLevel."),
    sa.Column("company_id", sa.Text, comment="The HighLevel agency of the location."),
    sa.Column("is_active", sa.Boolean, comment="False once the user was disconnected."),
    instant("created_at", server_default=sa.func.now(), comment="When the row was added."),
    instant("updated_at", server_default=sa.func.now(), comment="When the row last changed."),
    # Ours from here on.
    sa.Column("location_timezone", sa.Text, comment="IANA name."),
    sa.Column("user_type", sa.Text, comment="Token type: Location, Company or Private."),
    sa.Column("scope", sa.Text, comment="Granted scopes, space separated."),
    sa.Column("connection_state", sa.Text, comment="NULL: derived from is_active and the tokens."),
    sa.Column("connection_reason", sa.Text, comment="Failure class, if any."),
    instant("connection_since", comment="Since when it has this state."),
    instant("next_attempt_at", comment="A paused connection is not used before this."),
    sa.Column("token_version", sa.Integer, server_default="0", nullable=False,
              comment="Increases with every rotation; every write checks it or the lease."),
    sa.Column("lease_id", sa.Uuid, comment="Set before a token POST: lock and journal in one."),
    instant("lease_started_at", comment="Start of the POST; the expiry counts from here."),
    instant("lease_expires_at", comment="After this without a result, the POST is in doubt."),
    sa.Column("refresh_replayed", sa.Boolean, server_default=sa.false(), nullable=False,
              comment="The POST in doubt has been replayed; it is never replayed twice."),
    sa.Column("location_access_token", sa.Text,
              comment="enc:v2:...; minted from a Company token, can be minted again at any time."),
    instant("location_token_expires_at", comment="When the minted token expires."),
    instant("refreshed_at", comment="Last grant; the refresh token's year counts from here."),
    instant("refresh_at", comment="When a refresh is due; spread by a stable jitter."),
    sa.Column("failed_attempts", sa.Integer, server_default="0", nullable=False,
              comment="Consecutive refreshes that failed for a temporary reason."),
    sa.Column("last_failure", sa.Text, comment="Failure class of the last failed refresh."),
    sa.Column("tokens_mark", sa.Text,
              comment="SHA-256 of the stored tokens that the state describes; if the tokens have "
                      "another one, another application has replaced them since."),
    comment="Connections to HighLevel, with their tokens. The source system's table; analysts "
            "cannot read it.",
)  # fmt: skip


def mark_of(keys: sa.FromClause) -> sa.ColumnElement[str]:
    """The mark of the tokens in rows of ``api_keys``, as ``tokens_mark`` stores it."""
    tokens = sa.func.coalesce(keys.c.access_token, "").concat("|")
    tokens = tokens.concat(sa.func.coalesce(keys.c.refresh_token, ""))
    hashed = sa.func.sha256(sa.func.convert_to(tokens, "UTF8"))
    return sa.func.encode(hashed, "hex", type_=sa.Text)


token_events = sa.Table(
    "token_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True,
              comment="Increases with time."),
    instant("at", nullable=False, comment="When it happened."),
    sa.Column("user_id", sa.Uuid, comment="NULL: about the app, not a user."),
    sa.Column("event", sa.Text, nullable=False, comment="What happened, as a code."),
    sa.Column("state", sa.Text, comment="The connection's state afterwards."),
    sa.Column("reason", sa.Text, comment="Failure class, if any."),
    sa.Column("detail", sa.Text, nullable=False, server_default="",
              comment="Details such as status and path template, or the reason of a pause; no "
                      "personal data."),
    sa.Column("actor", sa.Text, nullable=False,
              comment="A part of the program, or an operator."),
    sa.Column("run_id", sa.Text, comment="The Dagster run, if any."),
    sa.Column("version_before", sa.Integer, comment="token_version before the event."),
    sa.Column("version_after", sa.Integer, comment="token_version after the event."),
    sa.Column("trace_id", sa.Text, comment="HighLevel's trace id of its response."),
    sa.Column("fingerprint", sa.Text, comment="Keyed hash of the new refresh token."),
    sa.Index("token_events_user_id_idx", "user_id", "id"),
    comment="Audit log: what happened to each connection, and why. Append-only.",
)  # fmt: skip

connect_requests = sa.Table(
    "connect_requests",
    metadata,
    sa.Column("state_hash", sa.LargeBinary, primary_key=True,
              comment="SHA-256 of OAuth's state, or of the code of a consent without one."),
    sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"),
              comment="The user to connect; NULL until an operator says whose consent it is."),
    sa.Column("code", sa.Text,
              comment="enc:v2:...; the code of a consent that began in HighLevel, until used."),
    sa.Column("location_id", sa.Text, comment="The requested location of an agency."),
    sa.Column("browser_bound", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="Only the browser that started it may finish it."),
    instant("created_at", nullable=False, comment="When it started."),
    instant("expires_at", nullable=False, comment="After this it cannot be finished."),
    instant("used_at", comment="When it was used; a state works once."),
    sa.Column("outcome", sa.Text, comment="The result, for a client that waits for it."),
    sa.Column("address", sa.Text,
              comment="The sender of a consent that began in HighLevel; NULL: an operator."),
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
    instant("failing_since", comment="When the first of these failures happened."),
    instant("opened_at", comment="Since when only probes are sent; NULL: the circuit is closed."),
    instant("next_probe_at", comment="When one request may test whether refreshes work again."),
    instant("replays_rest_until", comment="No exchange in doubt is replayed before this."),
    sa.Column("last_user_id", sa.Uuid,
              comment="The user who failed last; consecutive failures of one user count once."),
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
    instant("opened_at", nullable=False, comment="When it started."),
    sa.Column("opened_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that delivered the opening."),
    instant("closed_at", comment="When it was resolved; NULL while open."),
    sa.Column("closed_told", ARRAY(sa.Text), nullable=False, server_default="{}",
              comment="Channels that delivered the resolution."),
    sa.Column("closed_quietly", sa.Boolean, nullable=False, server_default=sa.false(),
              comment="No notification: an operator resolved it, or a lasting problem replaced "
                      "it."),
    sa.Index("connection_alerts_open_subject_idx", "subject", unique=True,
             postgresql_where=sa.text("closed_at IS NULL")),
    comment="Alerts: each is delivered once when it opens and once when it is resolved.",
)  # fmt: skip

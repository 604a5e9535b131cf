"""The query over all connections: every user with the current connection and its state."""

import sqlalchemy as sa

from voiceai_pipeline.core.connection import LIVE_STATES, SERVICE, ConnectionState
from voiceai_pipeline.database.connection_tables import NAME, api_keys, mark_of, users
from voiceai_pipeline.database.pause_table import sync_pauses

CURRENT_CONNECTION = (
    sa.select(api_keys)
    .where(api_keys.c.user_id == users.c.id, api_keys.c.service == SERVICE)
    # The source system has no unique key here: a reconnect can leave older rows behind.
    .order_by(
        sa.func.coalesce(api_keys.c.is_active, sa.false()).desc(),
        api_keys.c.updated_at.desc().nulls_last(),
        api_keys.c.created_at.desc().nulls_last(),
        # All readers must choose the same row: the lease is on it.
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

_HAS_TOKENS = sa.func.coalesce(
    CURRENT_CONNECTION.c.refresh_token, CURRENT_CONNECTION.c.access_token
).is_not(None)

_WAS_REPLACED = sa.func.coalesce(
    sa.and_(
        CURRENT_CONNECTION.c.tokens_mark != mark_of(CURRENT_CONNECTION),
        sa.or_(
            CURRENT_CONNECTION.c.access_token.not_like("enc:%"),
            CURRENT_CONNECTION.c.refresh_token.not_like("enc:%"),
        ),
    ),
    sa.false(),
)
"""Another application has stored plain-text tokens since we stored the state."""

CONNECTION_STATE = sa.case(
    (CURRENT_CONNECTION.c.id.is_(None), ConnectionState.NEVER_CONNECTED.value),
    # We never set this for a live connection, so another application did.
    (
        sa.and_(
            CURRENT_CONNECTION.c.is_active.is_(False),
            CURRENT_CONNECTION.c.connection_state.in_([state.value for state in LIVE_STATES]),
        ),
        ConnectionState.DISCONNECTED.value,
    ),
    (
        sa.and_(CURRENT_CONNECTION.c.connection_state.in_(_STORED_STATES), sa.not_(_WAS_REPLACED)),
        CURRENT_CONNECTION.c.connection_state,
    ),
    # is_active is false because we set it with this state: it says nothing about the new tokens.
    (
        sa.and_(
            CURRENT_CONNECTION.c.connection_state == ConnectionState.NEEDS_RECONNECT.value,
            _HAS_TOKENS,
        ),
        ConnectionState.CONNECTED.value,
    ),
    # Rows from the source system have no state yet, and a newer version may have written a state
    # that this one does not know: the user must not disappear.
    (CURRENT_CONNECTION.c.is_active.is_not(True), ConnectionState.DISCONNECTED.value),
    (sa.not_(_HAS_TOKENS), ConnectionState.DISCONNECTED.value),
    else_=ConnectionState.CONNECTED.value,
)

ALL_CONNECTIONS = (
    sa.select(
        users.c.id.label("user"),
        NAME.label("user_name"),
        CONNECTION_STATE.label("state"),
        sync_pauses.c.since.label("paused_since"),
        sync_pauses.c.paused_by,
        sync_pauses.c.reason.label("pause_reason"),
        CURRENT_CONNECTION,
    )
    .select_from(
        users.outerjoin(CURRENT_CONNECTION, sa.true()).outerjoin(
            sync_pauses, sync_pauses.c.user_id == users.c.id
        )
    )
    .order_by(NAME, users.c.id)
)
"""Every user (``user``, ``user_name``) with the pause of their syncs, if any, and the ``state`` and
row of their connection, by name."""

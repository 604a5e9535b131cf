"""``token_events``, the audit log of connections: what happened, when, by which actor.

Append-only: a trigger rejects updates and deletions. It holds no token: a fingerprint is a keyed
hash that only distinguishes generations.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.tables import token_events


class TokenEvent(StrEnum):
    """What can happen to a connection. The value is what the table stores."""

    CONNECTED = "connected"
    LOCATION_CHOSEN = "location_chosen"
    REFRESHED = "refreshed"
    RESTORED = "restored"
    REFRESH_FAILED = "refresh_failed"
    ANSWER_LOST = "answer_lost"
    REPLAY_BEGAN = "replay_began"
    GAVE_UP = "gave_up"
    MINTED = "minted"
    REPORTED = "reported"
    TESTED = "tested"
    DISCONNECTED = "disconnected"
    REPLACED = "replaced"
    PRIVATE_TOKEN_ENTERED = "private_token_entered"
    PRIVATE_TOKEN_WORKS = "private_token_works"
    SYNC_PAUSED = "sync_paused"
    SYNC_RESUMED = "sync_resumed"
    CIRCUIT_OPENED = "circuit_opened"
    CIRCUIT_CLOSED = "circuit_closed"

    @property
    def sentence(self) -> str:
        """What happened, as the UI shows it."""
        return _SENTENCES[self]


_SENTENCES: Final = {
    TokenEvent.CONNECTED: "Connected by consent in the browser",
    TokenEvent.LOCATION_CHOSEN: "A location of the agency was selected",
    TokenEvent.REFRESHED: "Token refreshed",
    TokenEvent.RESTORED: "Stored a token pair that the database lacked from the copy on disk",
    TokenEvent.REFRESH_FAILED: "Token refresh failed",
    TokenEvent.ANSWER_LOST: "HighLevel's answer to a token refresh was lost",
    TokenEvent.REPLAY_BEGAN: "Retrying, once, a token refresh whose result is unknown",
    TokenEvent.GAVE_UP: "HighLevel's answer was lost twice; the user must reconnect",
    TokenEvent.MINTED: "Location token minted from the agency's token",
    TokenEvent.REPORTED: "HighLevel's API refused the connection",
    TokenEvent.TESTED: "Connection tested",
    TokenEvent.DISCONNECTED: "Disconnected by an operator; the tokens were deleted",
    TokenEvent.REPLACED: "Another application stored new tokens; they are used from now on",
    TokenEvent.PRIVATE_TOKEN_ENTERED: "Connected with a private integration token",
    TokenEvent.PRIVATE_TOKEN_WORKS: "The private integration token works again",
    TokenEvent.SYNC_PAUSED: "Syncs paused by an operator",
    TokenEvent.SYNC_RESUMED: "Syncs resumed by an operator",
    TokenEvent.CIRCUIT_OPENED: "Token refresh suspended for all users",
    TokenEvent.CIRCUIT_CLOSED: "Token refresh resumed for all users",
}


@dataclass(frozen=True)
class Actor:
    """Who or what acted: an operator or a part of the program, and its Dagster run, if any."""

    name: str = "pipeline"
    run_id: str | None = None


@dataclass(frozen=True)
class Entry:
    """A row of ``token_events`` to show.

    Attributes:
        at: when it happened (UTC).
        event: a ``TokenEvent``, or the stored text of one that this version does not know.
        version_before, version_after: generations of the token pair; None if none was involved.
    """

    at: datetime
    event: TokenEvent | str
    state: str | None
    reason: FailureClass | None
    detail: str
    actor: str
    run_id: str | None
    version_before: int | None
    version_after: int | None
    trace_id: str | None

    @property
    def sentence(self) -> str:
        """What happened and why, in a line."""
        what = self.event.sentence if isinstance(self.event, TokenEvent) else str(self.event)
        why = f": {self.reason.explanation.message}" if self.reason else ""
        return f"{what}{why}{f' ({self.detail})' if self.detail else ''}"


def record(
    db: sa.Connection,
    event: TokenEvent,
    *,
    at: datetime,
    actor: Actor,
    user_id: UUID | None = None,
    state: ConnectionState | None = None,
    reason: FailureClass | None = None,
    detail: str = "",
    versions: tuple[int | None, int | None] = (None, None),
    trace_id: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """Add an event, in the transaction of the change it records.

    Args:
        user_id: None for events that affect all users.
        state: the connection's state afterwards.
        detail: helpful facts; never a token, a phone number or a response body.
    """
    before, after = versions
    db.execute(
        sa.insert(token_events).values(
            at=at,
            user_id=user_id,
            event=event.value,
            state=state.value if state else None,
            reason=reason.value if reason else None,
            detail=detail,
            actor=actor.name,
            run_id=actor.run_id,
            version_before=before,
            version_after=after,
            trace_id=trace_id,
            fingerprint=fingerprint,
        )
    )


def last_grant_at(db: sa.Connection, user_id: UUID) -> datetime | None:
    """When a token pair was last stored for a user (UTC); None if never."""
    stored = (TokenEvent.CONNECTED.value, TokenEvent.REFRESHED.value, TokenEvent.RESTORED.value)
    last: datetime | None = db.execute(
        sa.select(sa.func.max(token_events.c.at)).where(
            token_events.c.user_id == user_id, token_events.c.event.in_(stored)
        )
    ).scalar_one()
    return last


def refused_in_a_row(db: sa.Connection, since: datetime) -> tuple[set[UUID], bool]:
    """The users whose refresh tokens HighLevel has refused since the last successful refresh, and
    whether there was one. Only the last hundred answers after ``since`` (UTC) count."""
    decided = sa.or_(
        token_events.c.event == TokenEvent.REFRESHED.value,
        sa.and_(
            token_events.c.event == TokenEvent.REFRESH_FAILED.value,
            token_events.c.reason == FailureClass.REFRESH_REJECTED.value,
        ),
    )
    query = (
        sa.select(token_events.c.event, token_events.c.user_id)
        .where(decided, token_events.c.at > since)
        .order_by(token_events.c.id.desc())
        .limit(100)
    )
    rows = db.execute(query).all()
    refused = list(itertools.takewhile(lambda row: row.event != TokenEvent.REFRESHED.value, rows))
    return {row.user_id for row in refused}, len(refused) < len(rows)


def of_user(db: sa.Connection, user_id: UUID, limit: int = 20) -> list[Entry]:
    """The last events of a user, together with those that affect all users; newest first."""
    query = (
        sa.select(token_events)
        .where(sa.or_(token_events.c.user_id == user_id, token_events.c.user_id.is_(None)))
        .order_by(token_events.c.id.desc())
        .limit(limit)
    )
    return [_entry(row) for row in db.execute(query).mappings()]


def of_all(db: sa.Connection, limit: int) -> list[tuple[UUID | None, Entry]]:
    """The last events without the routine ones, newest first, each with its user (None: it affects
    all users)."""
    query = (
        sa.select(token_events)
        .where(token_events.c.event.not_in([event.value for event in _ROUTINE]))
        .order_by(token_events.c.id.desc())
        .limit(limit)
    )
    return [(row["user_id"], _entry(row)) for row in db.execute(query).mappings()]


_ROUTINE: Final = (TokenEvent.REFRESHED, TokenEvent.MINTED)


def _entry(row: sa.RowMapping) -> Entry:
    known: Sequence[str] = [event.value for event in TokenEvent]
    return Entry(
        at=row["at"],
        event=TokenEvent(row["event"]) if row["event"] in known else row["event"],
        state=row["state"],
        reason=FailureClass.stored(row["reason"]),
        detail=row["detail"],
        actor=row["actor"],
        run_id=row["run_id"],
        version_before=row["version_before"],
        version_after=row["version_after"],
        trace_id=row["trace_id"],
    )

"""A user's connection to HighLevel: its states, scopes and tokens, and the location it reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret

SERVICE: Final = "highlevel"
"""The only value of ``api_keys.service`` and ``sync_status.service``, as in the source system."""

SYNC_SCOPE: Final = "voice-ai-dashboard.readonly"
"""Without this scope no call log can be read (CONTRACT section 4)."""

REQUESTED_SCOPES: Final = (
    SYNC_SCOPE,
    "voice-ai-agents.readonly",
    "locations.readonly",
    "oauth.readonly",
    "oauth.write",
)
"""What a connection asks for: to read calls, agents' and locations' names; the ``oauth`` scopes let
an agency's token list its locations and mint a token for one (CONTRACT 4.4). Nothing writes data.
"""


REFRESH_MARGIN: Final = timedelta(minutes=5)
"""A token with this much left, or less, is renewed before it is used (source-system.md)."""

PROACTIVE_MARGIN: Final = timedelta(minutes=30)
"""A token is renewed at least this early by itself, so that a sync finds it fresh."""

REFRESH_TOKEN_LIFE: Final = timedelta(days=365)
"""A refresh token lives a year from the grant that gave it, unless it is used (CONTRACT 4.3)."""


class ConnectionState(StrEnum):
    """How a user's connection stands. ``api_keys.connection_state`` stores the value, except for
    EXPIRING and REFRESHING, which only the moment of looking can tell, and NEVER_CONNECTED, which
    has no row."""

    CONNECTED = "connected"
    EXPIRING = "expiring"
    REFRESHING = "refreshing"
    IN_DOUBT = "in_doubt"
    PAUSED = "paused"
    NEEDS_RECONNECT = "needs_reconnect"
    DISCONNECTED = "disconnected"
    NEVER_CONNECTED = "never_connected"

    @property
    def explanation(self) -> "StateExplanation":
        return STATES[self]


@dataclass(frozen=True)
class StateExplanation:
    """A state for people: what to call it, what it means, and what to do (empty: nothing)."""

    label: str
    meaning: str
    fix: str = ""


_CONNECT_FIX: Final = "Connect the user: voiceai-pipeline connect USER"

STATES: Final[Mapping[ConnectionState, StateExplanation]] = {
    ConnectionState.CONNECTED: StateExplanation(
        "connected", "Calls can be read; the token is renewed by itself before it expires"
    ),
    ConnectionState.EXPIRING: StateExplanation(
        "expiring", "The access token has 5 minutes left or less; it is renewed by itself"
    ),
    ConnectionState.REFRESHING: StateExplanation(
        "refreshing", "The token is being renewed right now"
    ),
    ConnectionState.IN_DOUBT: StateExplanation(
        "in doubt",
        "HighLevel's answer to a token refresh was lost; the refresh is repeated once by itself as "
        "soon as HighLevel answers",
    ),
    ConnectionState.PAUSED: StateExplanation(
        "paused by the provider",
        "HighLevel has paused the location (billing or agency); the connection is kept and tried "
        "again by itself every 6 hours",
        "Ask the agency to activate the location in HighLevel",
    ),
    ConnectionState.NEEDS_RECONNECT: StateExplanation(
        "needs reconnection",
        "The connection no longer reads calls, and only consent in the browser can mend it",
        "Reconnect the user: voiceai-pipeline connect USER",
    ),
    ConnectionState.DISCONNECTED: StateExplanation(
        "disconnected",
        "Somebody disconnected the user here; the tokens were destroyed, the calls stay",
        _CONNECT_FIX,
    ),
    ConnectionState.NEVER_CONNECTED: StateExplanation(
        "never connected", "Nobody has given consent for this user yet", _CONNECT_FIX
    ),
}


@dataclass(frozen=True)
class User:
    """A customer of the agency. ``name`` is for people; only ``id`` identifies."""

    id: UUID
    name: str


@dataclass(frozen=True)
class Connection:
    """A user's connection as stored, without its tokens.

    Attributes:
        state: as it is stored; ``status`` is what people are shown.
        reason: why the state is not CONNECTED, where a failure class says it.
        since: when the state began (UTC).
        token_expires_at: when the access token expires (UTC); None without a token.
        next_attempt_at: before this a paused connection is left alone (UTC).
        refreshed_at: when HighLevel last granted tokens (UTC); None if it is not known.
        refresh_at: when the next renewal is planned (UTC); None: shortly before the expiry.
        failed_attempts, last_failure: renewals in a row that failed for a passing reason.
        lease_expires_at: until when somebody's renewal may be under way (UTC).
        read_at: the moment of reading (UTC); None where nothing was read.
    """

    user: User
    state: ConnectionState
    reason: FailureClass | None = None
    since: datetime | None = None
    location_id: str | None = None
    location_name: str | None = None
    location_timezone: str | None = None
    company_id: str | None = None
    user_type: str | None = None
    scope: str | None = None
    token_expires_at: datetime | None = None
    token_version: int = 0
    next_attempt_at: datetime | None = None
    refreshed_at: datetime | None = None
    refresh_at: datetime | None = None
    failed_attempts: int = 0
    last_failure: FailureClass | None = None
    lease_expires_at: datetime | None = None
    read_at: datetime | None = None

    @property
    def status(self) -> ConnectionState:
        """The state as people see it: also whether it is expiring, being refreshed, or in doubt
        because whoever refreshed it is gone."""
        if self.read_at is None or self.state not in LIVE_STATES:
            return self.state
        if self.lease_expires_at is not None:
            under_way = self.lease_expires_at > self.read_at
            return ConnectionState.REFRESHING if under_way else ConnectionState.IN_DOUBT
        if self.state is ConnectionState.CONNECTED and (
            self.token_expires_at is None or self.token_expires_at - self.read_at <= REFRESH_MARGIN
        ):
            return ConnectionState.EXPIRING
        return self.state

    @property
    def obstacle(self) -> FailureClass | None:
        """What a person must mend before this user's calls can be read; None if nothing."""
        if self.state in (ConnectionState.NEVER_CONNECTED, ConnectionState.DISCONNECTED):
            return FailureClass.NO_CONNECTION
        if self.state in (ConnectionState.PAUSED, ConnectionState.NEEDS_RECONNECT):
            return self.reason or FailureClass.REFRESH_REJECTED
        if not self.location_id:
            return FailureClass.NO_LOCATION
        return None

    @property
    def can_sync(self) -> bool:
        return self.obstacle is None

    @property
    def label(self) -> str:
        """The status in a few words, such as ``needs reconnection: revoked``."""
        label = self.status.explanation.label
        if self.state is ConnectionState.NEEDS_RECONNECT:
            cause = CAUSES.get(self.obstacle)
            return f"{label}: {cause.label if cause else 'unknown'}"
        return label

    @property
    def cause(self) -> str:
        """Why the connection stands as it does, in a sentence without its full stop."""
        if self.state is ConnectionState.NEVER_CONNECTED:
            return "Not connected yet"
        if self.obstacle is not None:
            cause = CAUSES.get(self.obstacle)
            detail = cause.detail if cause else ""
            if self.obstacle is FailureClass.SCOPE_MISSING:
                detail = ", ".join(self.missing_scopes)
            return PipelineError(self.obstacle, detail).message
        if self.last_failure is not None:
            times = (
                "once" if self.failed_attempts == 1 else f"{self.failed_attempts} times in a row"
            )
            said = self.last_failure.explanation.message
            return f"Renewing the token has failed {times}: {said}"
        return self.status.explanation.meaning

    @property
    def fix(self) -> str:
        """What to do, in a sentence without its full stop; empty where nothing is to be done."""
        if self.state is ConnectionState.NEVER_CONNECTED:
            return "voiceai-pipeline connect USER"
        failure = self.obstacle or self.last_failure
        return failure.explanation.fix if failure else self.status.explanation.fix

    @property
    def message(self) -> str:
        """Cause and fix in one line."""
        return f"{self.cause}. Fix: {self.fix}" if self.fix else self.cause

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        return missing_scopes(self.scope)

    @property
    def refresh_token_ends_at(self) -> datetime | None:
        """When the refresh token dies unless it is used before (UTC). Where the last grant is not
        known, the end of the access token, a day later, stands for it."""
        granted_at = self.refreshed_at or self.token_expires_at
        return granted_at + REFRESH_TOKEN_LIFE if granted_at else None


LIVE_STATES: Final = (ConnectionState.CONNECTED, ConnectionState.IN_DOUBT, ConnectionState.PAUSED)
"""States with tokens that may still work."""


@dataclass(frozen=True)
class Cause:
    """Why a connection needs reconnection: in two words, and what is known beyond the message."""

    label: str
    detail: str = ""


CAUSES: Final[Mapping[FailureClass | None, Cause]] = {
    FailureClass.REFRESH_REJECTED: Cause(
        "revoked",
        "the app was removed in HighLevel, access was withdrawn, or an answer was lost twice; the "
        "history says which",
    ),
    FailureClass.SCOPE_MISSING: Cause("scopes missing"),
    FailureClass.NO_LOCATION: Cause("no location", "the consent names none"),
    FailureClass.WRONG_LOCATION: Cause("wrong location"),
}


def missing_scopes(granted: str | None) -> tuple[str, ...]:
    """The scopes that syncing needs and ``granted`` (see ``scopes_of``) lacks.

    An empty or unknown ``granted`` lacks nothing: rows written by the source system have no scope,
    and HighLevel itself says so if one is missing.
    """
    if not granted:
        return ()
    return () if SYNC_SCOPE in scopes_of(granted) else (SYNC_SCOPE,)


DOCUMENTED_LIFE: Final = timedelta(seconds=86_399)
"""Of an access token (CONTRACT 4.3)."""

MAX_LIFE: Final = timedelta(days=366)
"""An access token lives about a day, so more than a year is a broken answer."""


@dataclass(frozen=True)
class OAuthToken:
    """What the token endpoint granted.

    Attributes:
        access_token: None if only a refresh token arrived.
        expires_in: lifetime of the access token in seconds from the start of the request; 0 if it
            counts as expired, None if the answer does not say.
        expires_at: when the access token expires (UTC), where the answer says so instead.
        refresh_token, location_id, company_id, scope, user_type: None where the answer left them
            out; what is stored is kept then.
        scope: separated by blanks.
        trace_id: HighLevel's name for this answer, for its support.
        remark: what was odd about the answer, for the history; it quotes nothing of it.
    """

    access_token: Secret | None
    expires_in: int | None = None
    refresh_token: Secret | None = None
    location_id: str | None = None
    company_id: str | None = None
    user_type: str | None = None
    scope: str | None = None
    trace_id: str | None = None
    expires_at: datetime | None = None
    remark: str = ""

    def life(self, started_at: datetime) -> timedelta:
        """How long the access token lives from ``started_at``, the start of the request (UTC): the
        documented day where the answer does not say it or says more than a year."""
        if self.expires_in is not None:
            return timedelta(seconds=self.expires_in)
        life = self.expires_at - started_at if self.expires_at else DOCUMENTED_LIFE
        return DOCUMENTED_LIFE if life > MAX_LIFE else max(life, timedelta())


def scopes_of(text: str) -> list[str]:
    """The scopes named in a text that separates them by blanks, commas, semicolons or plus."""
    return [word for word in re.split(r"[\s,;+]+", text) if word]


@dataclass(frozen=True)
class Location:
    """A HighLevel location (sub-account). ``timezone`` is an IANA name, None if not given."""

    location_id: str
    name: str | None
    timezone: str | None
    company_id: str | None

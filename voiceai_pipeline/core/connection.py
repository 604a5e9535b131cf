"""A user's OAuth connection to HighLevel: state, scopes, granted tokens, and the location it reads.

Values and their texts only: storing, refreshing and testing a connection is in ``connections/``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.pause import Pause
from voiceai_pipeline.core.secret import Secret

SERVICE: Final = "highlevel"
"""The only value of ``api_keys.service`` and ``sync_status.service``, as in the source system."""

SYNC_SCOPE: Final = "voice-ai-dashboard.readonly"
"""Required to read call logs (CONTRACT 4)."""

REQUESTED_SCOPES: Final = (
    SYNC_SCOPE,
    "voice-ai-agents.readonly",
    "locations.readonly",
    "oauth.readonly",
    "oauth.write",
)
"""The scopes requested at consent: reading calls and the names of agents and locations. With the
``oauth`` scopes, an agency's token can list its locations and mint a token for one (CONTRACT 4.4).
None of them can change data.
"""

REFRESH_MARGIN: Final = timedelta(minutes=5)
"""A token that expires within this time is refreshed before it is used (source-system.md)."""

PROACTIVE_MARGIN: Final = timedelta(minutes=30)
"""The sensor refreshes a token at least this early, so that a sync finds a fresh one."""

REFRESH_TOKEN_LIFETIME: Final = timedelta(days=365)
"""An unused refresh token expires a year after it was granted (CONTRACT 4.3)."""


PRIVATE: Final = "Private"
"""``user_type`` of a connection with a private integration token, which is never refreshed."""

ROTATION: Final = timedelta(days=90)
"""The age at which a private integration token should be rotated (CONTRACT 14)."""

PRIVATE_FAILURES: Final[Mapping[FailureClass, FailureClass]] = {
    FailureClass.ACCESS_REJECTED: FailureClass.PRIVATE_TOKEN_REVOKED,
    FailureClass.SCOPE_MISSING: FailureClass.PRIVATE_TOKEN_SCOPE,
    FailureClass.WRONG_LOCATION: FailureClass.PRIVATE_TOKEN_LOCATION,
}
"""The failure class that replaces another for a private integration token, whose fix differs."""


class ConnectionState(StrEnum):
    """The state of a user's connection. ``api_keys.connection_state`` stores the value, except for
    EXPIRING and REFRESHING, which depend on the time of reading, and NEVER_CONNECTED, which has no
    row."""

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
    """A state in words: its label, what it means, and what to do (empty: nothing)."""

    label: str
    meaning: str
    fix: str = ""


_CONNECT_FIX: Final = "Connect the user: voiceai-pipeline connect USER"

STATES: Final[Mapping[ConnectionState, StateExplanation]] = {
    ConnectionState.CONNECTED: StateExplanation(
        "connected", "Calls can be read; the token is refreshed automatically before it expires"
    ),
    ConnectionState.EXPIRING: StateExplanation(
        "expiring",
        f"The access token expires within {REFRESH_MARGIN // timedelta(minutes=1)} minutes; it is "
        "refreshed automatically",
    ),
    ConnectionState.REFRESHING: StateExplanation(
        "refreshing", "The token is being refreshed right now"
    ),
    ConnectionState.IN_DOUBT: StateExplanation(
        "in doubt",
        "HighLevel's response to a token refresh was lost; the refresh is retried once, "
        "automatically, as soon as HighLevel responds",
    ),
    ConnectionState.PAUSED: StateExplanation(
        "paused by the provider",
        "HighLevel has paused the location (billing or agency); the connection is kept and "
        "retried automatically every 6 hours",
        "Ask the agency to activate the location in HighLevel",
    ),
    ConnectionState.NEEDS_RECONNECT: StateExplanation(
        "needs reconnection",
        "The connection can no longer read calls; only new consent in the browser, or a new "
        "private integration token, fixes it",
        "Reconnect the user: voiceai-pipeline connect USER",
    ),
    ConnectionState.DISCONNECTED: StateExplanation(
        "disconnected",
        "The user was disconnected here; the tokens were destroyed, the calls are kept",
        _CONNECT_FIX,
    ),
    ConnectionState.NEVER_CONNECTED: StateExplanation(
        "never connected", "Consent has not been given for this user yet", _CONNECT_FIX
    ),
}


@dataclass(frozen=True, slots=True)  # a hundred thousand of each
class User:
    """A customer of the agency. ``name`` is for display; only ``id`` identifies."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A user's connection as stored, without its tokens.

    Attributes:
        state: as stored; ``status`` is what is shown.
        reason: why the state is not CONNECTED, if a failure is the reason.
        since: start of the state (UTC).
        token_expires_at: when the access token expires (UTC); None without a token.
        next_attempt_at: a paused connection is not tried before this time (UTC).
        user_type: Location or Company, as granted, or PRIVATE.
        refreshed_at: when HighLevel last granted tokens, or a private integration token was entered
            (UTC); None if unknown.
        refresh_at: when the next refresh is planned (UTC); None: shortly before the expiry.
        failed_attempts, last_failure: consecutive refreshes that failed for a temporary reason.
        lease_expires_at: a refresh may be in progress until then (UTC); None: no refresh is.
        read_at: when this was read from the database (UTC); None if it was not.
        pause: an operator's pause of the user's syncs, whatever the state; None: not paused.
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
    pause: Pause | None = None

    @property
    def status(self) -> ConnectionState:
        """The state as shown. Unlike ``state`` it depends on ``read_at``: also expiring,
        refreshing, or in doubt because the process that was refreshing the token is gone."""
        if self.read_at is None or self.state not in LIVE_STATES:
            return self.state
        if self.lease_expires_at is not None:
            under_way = self.lease_expires_at > self.read_at
            return ConnectionState.REFRESHING if under_way else ConnectionState.IN_DOUBT
        if (
            self.state is ConnectionState.CONNECTED
            and not self.is_private
            and (
                self.token_expires_at is None
                or self.token_expires_at - self.read_at <= REFRESH_MARGIN
            )
        ):
            return ConnectionState.EXPIRING
        return self.state

    @property
    def obstacle(self) -> FailureClass | None:
        """What must be fixed before this connection can read calls; None if it can."""
        if self.state in (ConnectionState.NEVER_CONNECTED, ConnectionState.DISCONNECTED):
            return FailureClass.NO_CONNECTION
        if self.state in (ConnectionState.PAUSED, ConnectionState.NEEDS_RECONNECT):
            return self.reason or FailureClass.REFRESH_REJECTED
        if not self.location_id:
            return FailureClass.NO_LOCATION
        return None

    @property
    def sync_obstacle(self) -> FailureClass | None:
        """Why this user's calls are not read: a pause, or else ``obstacle``; None if they are."""
        return FailureClass.SYNC_PAUSED if self.pause is not None else self.obstacle

    @property
    def is_private(self) -> bool:
        """Whether it uses a private integration token."""
        return self.user_type == PRIVATE

    @property
    def rotation_is_due(self) -> bool:
        """Whether its private integration token is at least ``ROTATION`` old."""
        known = self.is_private and self.refreshed_at is not None and self.read_at is not None
        return known and self.read_at - self.refreshed_at >= ROTATION  # type: ignore[operator]

    @property
    def can_sync(self) -> bool:
        return self.sync_obstacle is None

    @property
    def label(self) -> str:
        """The status in a few words, such as ``needs reconnection: revoked``."""
        label = self.status.explanation.label
        if self.state is ConnectionState.NEEDS_RECONNECT:
            cause = CAUSES.get(self.obstacle)
            label += f": {cause.label if cause else 'unknown'}"
        return f"{label}, syncs paused" if self.pause is not None else label

    @property
    def cause(self) -> str:
        """Why the user is not synced, or why the connection is in this state, as a sentence or two
        without the last full stop."""
        if self.pause is None:
            return self.own_cause
        said = self.pause.error.message
        return said if self.obstacle is None else f"{said}. {self.own_cause}"

    @property
    def own_cause(self) -> str:
        """Why the connection is in this state, without a pause of the syncs."""
        if self.state is ConnectionState.NEVER_CONNECTED:
            return "Not connected yet"
        if self.obstacle is not None:
            cause = CAUSES.get(self.obstacle)
            detail = cause.detail if cause else ""
            if self.obstacle is FailureClass.SCOPE_MISSING:
                detail = ", ".join(self.missing_scopes)
            return PipelineError(self.obstacle, detail).message
        if self.rotation_is_due:
            return FailureClass.PRIVATE_TOKEN_OLD.explanation.message
        if self.is_private and self.state is ConnectionState.CONNECTED:
            return "Calls can be read with a private integration token, which does not expire"
        if self.last_failure is not None:
            times = (
                "once" if self.failed_attempts == 1 else f"{self.failed_attempts} times in a row"
            )
            said = self.last_failure.explanation.message
            return f"Refreshing the token has failed {times}: {said}"
        return self.status.explanation.meaning

    @property
    def fix(self) -> str:
        """What to do, as a sentence without its full stop; empty if there is nothing to do."""
        if self.pause is not None:
            return FailureClass.SYNC_PAUSED.explanation.fix
        if self.state is ConnectionState.NEVER_CONNECTED:
            return "voiceai-pipeline connect USER"
        failure = self.obstacle or self.last_failure
        if failure is None and self.rotation_is_due:
            failure = FailureClass.PRIVATE_TOKEN_OLD
        return failure.explanation.fix if failure else self.status.explanation.fix

    @property
    def message(self) -> str:
        """Cause and fix in one line."""
        return f"{self.cause}. Fix: {self.fix}" if self.fix else self.cause

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        return missing_scopes(self.scope)

    @property
    def refresh_token_expires_at(self) -> datetime | None:
        """When the refresh token expires unless it is used (UTC); None for a private integration
        token. If the time of the last grant is unknown, the access token's expiry, a day later,
        stands in for it; without either: None."""
        granted_at = None if self.is_private else self.refreshed_at or self.token_expires_at
        return granted_at + REFRESH_TOKEN_LIFETIME if granted_at else None


LIVE_STATES: Final = (ConnectionState.CONNECTED, ConnectionState.IN_DOUBT, ConnectionState.PAUSED)
"""States with tokens that may still work."""


@dataclass(frozen=True)
class Cause:
    """Why a connection needs reconnection: a short label, and details beyond the message."""

    label: str
    detail: str = ""


CAUSES: Final[Mapping[FailureClass | None, Cause]] = {
    FailureClass.REFRESH_REJECTED: Cause(
        "revoked",
        "the app was removed in HighLevel, access was withdrawn, or a response was lost twice; "
        "the history says which",
    ),
    FailureClass.SCOPE_MISSING: Cause("scopes missing"),
    FailureClass.NO_LOCATION: Cause("no location", "the consent names none"),
    FailureClass.WRONG_LOCATION: Cause("wrong location"),
    FailureClass.PRIVATE_TOKEN_REVOKED: Cause("private token revoked"),
    FailureClass.PRIVATE_TOKEN_SCOPE: Cause("private token lacks a scope", SYNC_SCOPE),
    FailureClass.PRIVATE_TOKEN_LOCATION: Cause("private token of another location"),
}


def missing_scopes(granted: str | None) -> tuple[str, ...]:
    """The scopes that a sync needs and ``granted`` (see ``scopes_of``) lacks.

    Nothing is missing from an empty or unknown ``granted``: rows of the source system have no
    scope, and HighLevel rejects the request if one is missing.
    """
    if not granted:
        return ()
    return () if SYNC_SCOPE in scopes_of(granted) else (SYNC_SCOPE,)


DOCUMENTED_LIFETIME: Final = timedelta(seconds=86_399)
"""Lifetime of an access token (CONTRACT 4.3)."""

MAX_LIFETIME: Final = timedelta(days=366)
"""An access token usually lives a day; a longer lifetime than this is an error in the response."""


@dataclass(frozen=True)
class OAuthToken:
    """What the token endpoint granted.

    Attributes:
        access_token: None if only a refresh token arrived.
        expires_in: lifetime of the access token in seconds from the start of the request; 0 if the
            token counts as expired, None if the response does not state it.
        expires_at: when the access token expires (UTC), if the response states that instead.
        refresh_token, location_id, company_id, scope, user_type: None if not in the response; the
            stored values are kept then.
        scope: separated by spaces.
        trace_id: identifies the response to HighLevel's support.
        remark: what was odd about the response, for the history; never a quote from it.
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

    def lifetime(self, started_at: datetime) -> timedelta:
        """Lifetime of the access token from ``started_at``, the start of the request (UTC). If the
        response does not state it, or states more than ``MAX_LIFETIME``: the documented day."""
        if self.expires_in is not None:
            return timedelta(seconds=self.expires_in)
        life = self.expires_at - started_at if self.expires_at else DOCUMENTED_LIFETIME
        return DOCUMENTED_LIFETIME if life > MAX_LIFETIME else max(life, timedelta())


def scopes_of(text: str) -> list[str]:
    """The scopes in a text that separates them by white space, commas, semicolons or plus signs."""
    return [word for word in re.split(r"[\s,;+]+", text) if word]


@dataclass(frozen=True)
class Location:
    """A HighLevel location (sub-account). ``timezone`` is an IANA name, None if unknown."""

    location_id: str
    name: str | None
    timezone: str | None
    company_id: str | None

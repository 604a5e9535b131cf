"""The words everybody here shares: users, connections, tokens, calls, windows, failures.

Dataclasses and enums, and the hash by which calls are told apart. No HTTP, no SQL, no Dagster, no
clock: whoever needs the time passes it, always as an aware UTC ``datetime``.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

ACTION_TYPES: Final = frozenset(
    {
        "CALL_TRANSFER",
        "DATA_EXTRACTION",
        "IN_CALL_DATA_EXTRACTION",
        "WORKFLOW_TRIGGER",
        "SMS",
        "APPOINTMENT_BOOKING",
        "CUSTOM_ACTION",
        "KNOWLEDGE_BASE",
    }
)
"""What an agent can do in a call, as HighLevel documents it (CONTRACT 2.4)."""

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


class Secret:
    """A string that refuses to be shown: repr, str, format, JSON and pickle never reveal it.

    Only ``reveal()`` hands it out, so every place that can leak is found by searching for that
    word. Compared in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('…')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")


class Remedy(StrEnum):
    """What it takes to get past a failure, and so what colour its day has in Dagster."""

    RERUN = "rerun"
    """It may pass by itself: the day is red, and the pipeline asks again with growing delay."""
    PERSON = "person"
    """Somebody must act: no rerun helps, the day is not red, a warning names the user."""
    OPERATOR = "operator"
    """Our configuration or code: the day is red, and a rerun helps once that is mended."""


class FailureClass(StrEnum):
    """Why a user's window could not be synced. The value is what the tables store."""

    NO_CONNECTION = "no_connection"
    REFRESH_REJECTED = "refresh_rejected"
    ACCESS_REJECTED = "access_rejected"
    NO_LOCATION = "no_location"
    SCOPE_MISSING = "scope_missing"
    WRONG_LOCATION = "wrong_location"
    LOCATION_PAUSED = "location_paused"
    IN_DOUBT = "in_doubt"
    CLIENT_REFUSED = "client_refused"
    TOKEN_UNREADABLE = "token_unreadable"
    OUR_REQUEST = "our_request"
    CONTRACT_DRIFT = "contract_drift"
    RATE_LIMITED = "rate_limited"
    PROVIDER_ERROR = "provider_error"
    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"
    UNKNOWN_ANSWER = "unknown_answer"
    INCOMPLETE = "incomplete"
    BUSY = "busy"
    DATABASE = "database"
    DAGSTER_SILENT = "dagster_silent"
    INTERNAL = "internal"

    @classmethod
    def stored(cls, value: str | None) -> "FailureClass | None":
        """The class a table names; INTERNAL for one that this version does not know."""
        if value is None:
            return None
        return cls(value) if value in cls._value2member_map_ else cls.INTERNAL

    @property
    def explanation(self) -> "Explanation":
        return EXPLANATIONS[self]

    @property
    def waits_for_person(self) -> bool:
        return self.explanation.remedy is Remedy.PERSON


PROVIDER_FAILURES: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.UNREACHABLE,
        FailureClass.RATE_LIMITED,
        FailureClass.MALFORMED,
    }
)
"""HighLevel, or the way to it, does not work now: it passes by itself, whoever asks."""

OUR_FAILURES: Final = frozenset(
    {FailureClass.CLIENT_REFUSED, FailureClass.CONTRACT_DRIFT, FailureClass.OUR_REQUEST}
)
"""Our configuration or code: it concerns every user, and is no user's fault."""


CREDENTIAL_FAILURES: Final = frozenset(
    {
        FailureClass.REFRESH_REJECTED,
        FailureClass.ACCESS_REJECTED,
        FailureClass.NO_CONNECTION,
        FailureClass.NO_LOCATION,
        FailureClass.SCOPE_MISSING,
        FailureClass.WRONG_LOCATION,
        FailureClass.IN_DOUBT,
        FailureClass.TOKEN_UNREADABLE,
    }
)
"""Of one user's credentials: somebody else's may still read the location they share."""


@dataclass(frozen=True)
class Explanation:
    """A failure class for people: what happened, what to do, and who or what it takes."""

    message: str
    fix: str
    remedy: Remedy


# The first four messages and their fixes are the source system's own, word for word
# (source-system.md, "Common Error Messages").
EXPLANATIONS: Final[Mapping[FailureClass, Explanation]] = {
    FailureClass.NO_CONNECTION: Explanation(
        "No valid OAuth connection found",
        "Reconnect the user: voiceai-pipeline connect USER",
        Remedy.PERSON,
    ),
    FailureClass.REFRESH_REJECTED: Explanation(
        "Failed to refresh token",
        "Re-authorize the OAuth connection: voiceai-pipeline connect USER",
        Remedy.PERSON,
    ),
    FailureClass.ACCESS_REJECTED: Explanation(
        "HighLevel API error: 401 Unauthorized",
        "Check if the token expired and verify its scopes: voiceai-pipeline check USER",
        Remedy.RERUN,
    ),
    FailureClass.NO_LOCATION: Explanation(
        "No location ID found for user",
        "Disconnect and reconnect to get a location: voiceai-pipeline connect USER",
        Remedy.PERSON,
    ),
    FailureClass.SCOPE_MISSING: Explanation(
        "The connection lacks a scope",
        "Add the scope to the app in the HighLevel marketplace, then re-authorize: "
        "voiceai-pipeline connect USER",
        Remedy.PERSON,
    ),
    FailureClass.WRONG_LOCATION: Explanation(
        "The token does not have access to the user's location",
        "Reconnect and choose the right location: voiceai-pipeline connect USER",
        Remedy.PERSON,
    ),
    FailureClass.LOCATION_PAUSED: Explanation(
        "HighLevel has paused the location (billing or agency)",
        "Ask the agency to activate the location in HighLevel; the connection is kept and tried "
        "again by itself every 6 hours",
        Remedy.PERSON,
    ),
    FailureClass.IN_DOUBT: Explanation(
        "HighLevel's answer to a token refresh was lost",
        "Rerun: the refresh is repeated once; if that fails too, the user is asked to reconnect",
        Remedy.RERUN,
    ),
    FailureClass.CLIENT_REFUSED: Explanation(
        "HighLevel refused this app's client id or client secret",
        "Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET, then rerun; no user has to "
        "reconnect",
        Remedy.OPERATOR,
    ),
    FailureClass.TOKEN_UNREADABLE: Explanation(
        "The stored token cannot be decrypted",
        "Put the key that encrypted it back into VOICEAI_TOKEN_KEYS and rerun, or reconnect the "
        "user: voiceai-pipeline connect USER",
        Remedy.OPERATOR,
    ),
    FailureClass.OUR_REQUEST: Explanation(
        "HighLevel rejected our request as invalid",
        "Check HIGHLEVEL_API_VERSION with voiceai-pipeline doctor; if it is right, report this as "
        "a bug",
        Remedy.OPERATOR,
    ),
    FailureClass.CONTRACT_DRIFT: Explanation(
        "HighLevel no longer offers what was asked for in this API version",
        "Set HIGHLEVEL_API_VERSION to a version that HighLevel supports, then rerun",
        Remedy.OPERATOR,
    ),
    FailureClass.RATE_LIMITED: Explanation(
        "HighLevel's rate limit did not clear in time",
        "Wait: the sync is repeated by itself; a rerun works too",
        Remedy.RERUN,
    ),
    FailureClass.PROVIDER_ERROR: Explanation(
        "HighLevel answered with a server error",
        "Wait: the sync is repeated by itself; a rerun works too once HighLevel has recovered",
        Remedy.RERUN,
    ),
    FailureClass.UNREACHABLE: Explanation(
        "HighLevel could not be reached",
        "Check the network and HIGHLEVEL_API_URL; the sync is repeated by itself",
        Remedy.RERUN,
    ),
    FailureClass.MALFORMED: Explanation(
        "HighLevel's answer was not what its API promises",
        "Wait: the sync is repeated by itself; if it stays, report it with the trace id",
        Remedy.RERUN,
    ),
    FailureClass.UNKNOWN_ANSWER: Explanation(
        "HighLevel gave an answer that is not documented",
        "The sync is repeated by itself; if it stays, report it with the status and trace id",
        Remedy.RERUN,
    ),
    FailureClass.INCOMPLETE: Explanation(
        "The calls that arrived do not add up to the total that HighLevel gave",
        "Wait: what is stored stays as it is, and the day is read again by itself",
        Remedy.RERUN,
    ),
    FailureClass.BUSY: Explanation(
        "Another run is reading this location",
        "Wait: the sync is repeated by itself; if that run hangs, end it in the UI",
        Remedy.RERUN,
    ),
    FailureClass.DATABASE: Explanation(
        "The database refused or lost the connection",
        "Check the database with voiceai-pipeline doctor, then rerun; nothing was half written",
        Remedy.RERUN,
    ),
    FailureClass.DAGSTER_SILENT: Explanation(
        "Dagster's daemon and sensors have given no sign of life for half an hour",
        "See under Deployment in Dagster's UI what stands still, and start it again: make up, or "
        "dagster-daemon run",
        Remedy.OPERATOR,
    ),
    FailureClass.INTERNAL: Explanation(
        "Something failed that nobody foresaw",
        "Report it with the error's name; the other users are not touched; a rerun is safe",
        Remedy.OPERATOR,
    ),
}


class PipelineError(Exception):
    """A failure with a class, fit to be shown: its text never holds a token, a number or a body.

    Args:
        failure: what kind of failure, with its message and fix.
        detail: facts that help (status, path template, trace id), never personal data.
    """

    def __init__(self, failure: FailureClass, detail: str = "") -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = detail

    @property
    def message(self) -> str:
        """What happened, in one line, for ``sync_status.last_sync_message`` and the UI."""
        message = self.failure.explanation.message
        return f"{message} ({self.detail})" if self.detail else message

    def __str__(self) -> str:
        return f"{self.message}. Fix: {self.failure.explanation.fix}."


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


def for_user(text: str, user_id: UUID) -> str:
    """A text whose commands can be copied: with the user's id in the place of USER."""
    return text.replace(" USER", f" {user_id}")


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


def digest(hasher: "hashlib._Hash | hashlib.blake2b", content: bytes | msgspec.Raw) -> bytes:
    """The hash of a call, without letting go of the interpreter's lock, as ``hashlib`` does for
    more than 2,047 bytes: among many threads that costs several times the hash."""
    view = memoryview(content)
    for start in range(0, len(view), 2047):
        hasher.update(view[start : start + 2047])
    return hasher.digest()


@dataclass(slots=True)
class ListedCall:
    """A call as a list of HighLevel showed it: as much as tells whether it is known already. A
    window may have a million of them.

    Attributes:
        started_at: ``createdAt``, UTC.
        sent: the whole item as JSON in UTF-8, with whatever secrets are in it.
        unknown_actions: its actions of a type that is not documented.
    """

    call_id: str
    started_at: datetime
    sent: msgspec.Raw = field(repr=False)
    unknown_actions: int = 0


@dataclass(frozen=True)
class CallLog:
    """One call as HighLevel lists it, redacted, ready to store (CONTRACT 2.3).

    Attributes:
        started_at: ``createdAt``, UTC.
        content_hash: SHA-256 of ``content``; equal hash, equal call.
        content: the whole item, redacted, as canonical JSON in UTF-8.
    """

    call_id: str
    started_at: datetime
    content_hash: bytes
    content: bytes = field(repr=False)
    agent_id: str | None = None
    contact_id: str | None = field(default=None, repr=False)
    from_number: str | None = field(default=None, repr=False)
    duration_seconds: float | None = None
    is_trial: bool | None = None
    is_agent_deleted: bool | None = None
    summary: str | None = field(default=None, repr=False)
    transcript: str | None = field(default=None, repr=False)
    executed_call_actions: list[Any] = field(default_factory=list, repr=False)
    extracted_data: Any = field(default=None, repr=False)
    translation: Any = field(default=None, repr=False)
    message_id: str | None = None


@dataclass(frozen=True)
class SetAsideCall:
    """An item that cannot be stored as a call, kept with the reason instead of failing its day.

    ``call_id`` and ``started_at`` are None where the item does not say.
    """

    reason: str
    content_hash: bytes
    raw: Any = field(repr=False)
    call_id: str | None = None
    started_at: datetime | None = None


@dataclass(frozen=True)
class Agent:
    """A Voice AI agent of a location."""

    agent_id: str
    name: str
    raw: Mapping[str, Any] = field(repr=False)
    timezone: str | None = None


@dataclass(frozen=True)
class Location:
    """A HighLevel location (sub-account). ``timezone`` is an IANA name, None if not given."""

    location_id: str
    name: str | None
    timezone: str | None
    company_id: str | None


@dataclass(frozen=True)
class Window:
    """The instants from ``start`` (inclusive) to ``end`` (exclusive), UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @classmethod
    def of_day(cls, day: date, zone: ZoneInfo) -> "Window":
        """A local day: 23 or 25 hours long where the clocks change."""
        return cls(_midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.min, zone).astimezone(UTC)


class DayState(StrEnum):
    """How a user's day stands in ``sync_ledger``."""

    COMPLETE = "complete"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)  # ten thousand users have a third of a million in a month
class DayResult:
    """One user's day after a sync: a row of ``sync_ledger``.

    Attributes:
        day: a day of the pipeline's time zone.
        location_id: "" while the user has never had a location.
        read_until: up to here the day was read (UTC, exclusive); None if it was not.
        api_total: calls HighLevel listed for the day, those set aside included.
        stored: calls in ``call_logs`` for the day after the write, missing ones not counted.
        new, changed, missing, set_aside: what the write did, in calls.
        unknown_actions: call actions of a type that is not documented.
        pages: HTTP requests spent on the window that covered the day.
        attempt: how often in a row this day has been tried without becoming complete.
    """

    user: User
    location_id: str
    day: date
    state: DayState
    failure: FailureClass | None = None
    message: str = ""
    read_until: datetime | None = None
    api_total: int | None = None
    stored: int | None = None
    new: int = 0
    changed: int = 0
    missing: int = 0
    set_aside: int = 0
    unknown_actions: int = 0
    pages: int = 0
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None

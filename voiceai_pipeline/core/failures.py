"""Why something failed, and what to do: failure classes, their explanations, ``PipelineError``."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID


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
    def needs_action(self) -> bool:
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
        "Unexpected error",
        "Report this as a bug with the frames from the log: of the run in Dagster, or of the "
        "program that printed this (make up keeps its logs in VOICEAI_HOME/logs); no other user is "
        "affected, and a rerun is safe",
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


def for_user(text: str, user_id: UUID) -> str:
    """A text whose commands can be copied: with the user's id in the place of USER."""
    return text.replace(" USER", f" {user_id}")

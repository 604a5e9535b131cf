"""Failure classes with their messages and fixes, and ``PipelineError``, which carries one.

Every text that a user or operator reads about a failure is in ``EXPLANATIONS``. How an answer or an
exception becomes a failure class is decided where it occurs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from voiceai_pipeline.core.installation import START


class Remedy(StrEnum):
    """What resolves a failure; it decides the colour of the day in Dagster."""

    RERUN = "rerun"
    """A retry: the day is red, and the pipeline retries with increasing delay."""
    ACTION = "action"
    """The user, the agency or an operator must act: a rerun does not help, the day is not red, and
    a warning names the user."""
    OPERATOR = "operator"
    """A fix of our configuration or code: the day is red, and a rerun helps after the fix."""


class FailureClass(StrEnum):
    """Why something failed. The tables store the value."""

    NO_CONNECTION = "no_connection"
    REFRESH_REJECTED = "refresh_rejected"
    ACCESS_REJECTED = "access_rejected"
    NO_LOCATION = "no_location"
    SCOPE_MISSING = "scope_missing"
    WRONG_LOCATION = "wrong_location"
    PRIVATE_TOKEN_REVOKED = "private_token_revoked"
    PRIVATE_TOKEN_SCOPE = "private_token_scope"
    PRIVATE_TOKEN_LOCATION = "private_token_location"
    PRIVATE_TOKEN_OLD = "private_token_old"
    LOCATION_PAUSED = "location_paused"
    SYNC_PAUSED = "sync_paused"
    IN_DOUBT = "in_doubt"
    CLIENT_REFUSED = "client_refused"
    TOKENS_SPENT = "tokens_spent"
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
    DISK_FULL = "disk_full"
    UNSTORABLE = "unstorable"
    ROWS_HIDDEN = "rows_hidden"
    DAGSTER_SILENT = "dagster_silent"
    LOGINS_FAILING = "logins_failing"
    INTERNAL = "internal"

    @classmethod
    def stored(cls, value: str | None) -> "FailureClass | None":
        """The class stored as ``value``; INTERNAL if this version does not know it."""
        if value is None:
            return None
        return cls(value) if value in cls._value2member_map_ else cls.INTERNAL

    @property
    def explanation(self) -> "Explanation":
        return EXPLANATIONS[self]

    @property
    def needs_action(self) -> bool:
        return self.explanation.remedy is Remedy.ACTION


PROVIDER_FAILURES: Final = frozenset(
    {
        FailureClass.PROVIDER_ERROR,
        FailureClass.UNREACHABLE,
        FailureClass.RATE_LIMITED,
        FailureClass.MALFORMED,
    }
)
"""HighLevel, or the network on the way to it, is down: temporary, and the same for every user."""

OUR_FAILURES: Final = frozenset(
    {FailureClass.CLIENT_REFUSED, FailureClass.CONTRACT_DRIFT, FailureClass.OUR_REQUEST}
)
"""Our configuration or code is wrong: every user is affected, and no user is the cause."""

CREDENTIAL_FAILURES: Final = frozenset(
    {
        FailureClass.REFRESH_REJECTED,
        FailureClass.ACCESS_REJECTED,
        FailureClass.NO_CONNECTION,
        FailureClass.NO_LOCATION,
        FailureClass.SCOPE_MISSING,
        FailureClass.WRONG_LOCATION,
        FailureClass.PRIVATE_TOKEN_REVOKED,
        FailureClass.PRIVATE_TOKEN_SCOPE,
        FailureClass.PRIVATE_TOKEN_LOCATION,
        FailureClass.IN_DOUBT,
        FailureClass.TOKEN_UNREADABLE,
        FailureClass.SYNC_PAUSED,
    }
)
"""One user's credentials fail, or may not be used: another user's may still read a location they
share."""


@dataclass(frozen=True)
class Explanation:
    """A failure class in words: what happened, what to do, and what resolves it."""

    message: str
    fix: str
    remedy: Remedy


# The first four messages and their fixes are the source system's own, word for word
# (source-system.md, "Common Error Messages").
EXPLANATIONS: Final[Mapping[FailureClass, Explanation]] = {
    FailureClass.NO_CONNECTION: Explanation(
        "No valid OAuth connection found",
        "Reconnect the user: voiceai-pipeline connect USER",
        Remedy.ACTION,
    ),
    FailureClass.REFRESH_REJECTED: Explanation(
        "Failed to refresh token",
        "Re-authorize the OAuth connection: voiceai-pipeline connect USER",
        Remedy.ACTION,
    ),
    FailureClass.ACCESS_REJECTED: Explanation(
        "HighLevel API error: 401 Unauthorized",
        "Check if the token expired and verify its scopes: voiceai-pipeline check USER",
        Remedy.RERUN,
    ),
    FailureClass.NO_LOCATION: Explanation(
        "No location ID found for user",
        "Disconnect and reconnect to get a location: voiceai-pipeline connect USER",
        Remedy.ACTION,
    ),
    FailureClass.SCOPE_MISSING: Explanation(
        "The connection lacks a scope",
        "Add the scope to the app in the HighLevel marketplace, then re-authorize: "
        "voiceai-pipeline connect USER",
        Remedy.ACTION,
    ),
    FailureClass.WRONG_LOCATION: Explanation(
        "The token does not have access to the user's location",
        "Reconnect and choose the right location: voiceai-pipeline connect USER",
        Remedy.ACTION,
    ),
    FailureClass.PRIVATE_TOKEN_REVOKED: Explanation(
        "HighLevel no longer accepts the private integration token",
        "Rotate it or make a new one in HighLevel (Settings, Private Integrations), then enter it: "
        "voiceai-pipeline connect USER --private-token",
        Remedy.ACTION,
    ),
    FailureClass.PRIVATE_TOKEN_SCOPE: Explanation(
        "The private integration token lacks a scope",
        "Tick the scope in HighLevel (Settings, Private Integrations; the token stays the same), "
        "then test it: voiceai-pipeline check USER",
        Remedy.ACTION,
    ),
    FailureClass.PRIVATE_TOKEN_LOCATION: Explanation(
        "The private integration token is not for this location",
        "Enter the id of the token's own location, or a token made in this location: "
        "voiceai-pipeline connect USER --private-token",
        Remedy.ACTION,
    ),
    FailureClass.PRIVATE_TOKEN_OLD: Explanation(
        "The private integration token is older than 90 days",
        "Rotate it in HighLevel (Settings, Private Integrations; the old one works for 7 more "
        "days), then enter the new one: voiceai-pipeline connect USER --private-token",
        Remedy.ACTION,
    ),
    FailureClass.LOCATION_PAUSED: Explanation(
        "HighLevel has paused the location (billing or agency)",
        "Ask the agency to activate the location in HighLevel; the connection is kept and retried "
        "automatically every 6 hours",
        Remedy.ACTION,
    ),
    FailureClass.SYNC_PAUSED: Explanation(
        "An operator has paused the user's syncs",
        "Resume the user: voiceai-pipeline resume USER",
        Remedy.ACTION,
    ),
    FailureClass.IN_DOUBT: Explanation(
        "HighLevel's response to a token refresh was lost",
        "Rerun: the refresh is retried once; if that fails too, the user must reconnect",
        Remedy.RERUN,
    ),
    FailureClass.CLIENT_REFUSED: Explanation(
        "HighLevel refused this app's client id or client secret",
        "Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET, then rerun; no user has to "
        "reconnect",
        Remedy.OPERATOR,
    ),
    FailureClass.TOKENS_SPENT: Explanation(
        "HighLevel refused the refresh tokens of several users in a row, as happens after the "
        "database was restored from a backup",
        "If a backup was restored, put the latest VOICEAI_HOME/pairs beside it: the newer tokens "
        "in it are used automatically. Otherwise no action is needed: one user is tried each hour, "
        "and the first success resumes all refreshes",
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
        "HighLevel no longer supports this request in the configured API version",
        "Set HIGHLEVEL_API_VERSION to a version that HighLevel supports, then rerun",
        Remedy.OPERATOR,
    ),
    FailureClass.RATE_LIMITED: Explanation(
        "HighLevel's rate limit did not clear in time",
        "No action needed: it is retried automatically; you can also rerun it",
        Remedy.RERUN,
    ),
    FailureClass.PROVIDER_ERROR: Explanation(
        "HighLevel answered with a server error",
        "No action needed: it is retried automatically; you can also rerun it once HighLevel is "
        "back",
        Remedy.RERUN,
    ),
    FailureClass.UNREACHABLE: Explanation(
        "HighLevel could not be reached",
        "Check the network and HIGHLEVEL_API_URL; it is retried automatically",
        Remedy.RERUN,
    ),
    FailureClass.MALFORMED: Explanation(
        "HighLevel's response did not match its API",
        "No action needed: it is retried automatically; if it persists, report it with the trace "
        "id",
        Remedy.RERUN,
    ),
    FailureClass.UNKNOWN_ANSWER: Explanation(
        "HighLevel sent a response that is not documented",
        "No action needed: it is retried automatically; if it persists, report it with the status "
        "and trace id",
        Remedy.RERUN,
    ),
    FailureClass.INCOMPLETE: Explanation(
        "The calls received do not add up to HighLevel's total",
        "No action needed: the stored calls are kept, and the day is re-read automatically",
        Remedy.RERUN,
    ),
    FailureClass.BUSY: Explanation(
        "Another run is reading this location",
        "No action needed: it is retried automatically; if that run hangs, terminate it in "
        "Dagster's UI",
        Remedy.RERUN,
    ),
    FailureClass.DISK_FULL: Explanation(
        "The disk of the database is full",
        "Free some space on it: what could not run is then retried automatically; no partial data "
        "was written",
        Remedy.RERUN,
    ),
    FailureClass.DATABASE: Explanation(
        "The database refused or lost the connection",
        "Check the database with voiceai-pipeline doctor, then rerun; no partial data was written",
        Remedy.RERUN,
    ),
    FailureClass.UNSTORABLE: Explanation(
        "The database cannot store a value that HighLevel sent",
        "Report this as a bug with the location and the day; other days and users are not "
        "affected, and a rerun is safe",
        Remedy.OPERATOR,
    ),
    FailureClass.ROWS_HIDDEN: Explanation(
        "Row level security hides rows from the pipeline's database user",
        "Ask the tables' owner to run these statements (voiceai-pipeline doctor repeats them), "
        "then rerun",
        Remedy.OPERATOR,
    ),
    FailureClass.DAGSTER_SILENT: Explanation(
        "Dagster's daemon and sensors have given no sign of life for half an hour",
        "Find out under Deployment in Dagster's UI what has stopped, and restart it: "
        f"{START}, or dagster-daemon run",
        Remedy.OPERATOR,
    ),
    FailureClass.LOGINS_FAILING: Explanation(
        "Ten logins to the pages failed within ten minutes",
        "Look up their addresses under Logins on the pages. If you do not know them, let only your "
        "own networks reach the pages; if one of them logged in, change VOICEAI_PAGE_SECRET and "
        "VOICEAI_ANALYST_SECRET",
        Remedy.OPERATOR,
    ),
    FailureClass.INTERNAL: Explanation(
        "Unexpected error",
        "Report this as a bug with the stack frames from the log: the run's log in Dagster, or the "
        f"output of the program that showed this (with {START}: VOICEAI_HOME/logs); other users "
        "are not affected, and a rerun is safe",
        Remedy.OPERATOR,
    ),
}


class PipelineError(Exception):
    """A failure that can be shown: its text never holds a token, a phone number or a body.

    Args:
        failure: what kind of failure, with its message and fix.
        detail: facts for diagnosis (status, path template, trace id), never personal data.
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
    """The text with the user's id instead of USER, so that its commands can be copied."""
    return text.replace(" USER", f" {user_id}")

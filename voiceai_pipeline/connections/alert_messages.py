"""The text of an alert: one message per notice, or a digest of many.

Which alerts exist is in ``alerts.py``; nothing here sends.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from voiceai_pipeline.connections.alerts import Notice
from voiceai_pipeline.core.failures import FailureClass, for_user
from voiceai_pipeline.core.foreign_text import cleaned, unlinked
from voiceai_pipeline.core.settings import PageSettings

LINES: Final = 50
"""How many notices a digest lists at most."""

_NAME_LENGTH: Final = 80


@dataclass(frozen=True)
class Message:
    """A message in plain text.

    Attributes:
        id: stable across retries; ASCII letters, digits and dots.
        headline: one line.
        body: the lines below it.
        user_id: the user it is about; None if it is about all users or several.
        link: the page where the problem can be fixed.
    """

    id: str
    headline: str
    body: tuple[str, ...]
    user_id: UUID | None
    link: str

    @property
    def text(self) -> str:
        return "\n".join((self.headline, *self.body))


# Words -------------------------------------------------------------------------------------------


def message_of(notice: Notice, page: PageSettings) -> Message:
    """The message of one notice: the user, what happened, since when, what to do, and where."""
    user_id = notice.user.id if notice.user else None
    is_login = notice.reason is FailureClass.LOGINS_FAILING
    link = f"{page.url}/logins" if is_login else page_link(page, user_id)
    if notice.moment == "closed":
        body = [f"Since {_utc(notice.at)}. No action needed. {_what_follows(notice)}"]
    else:
        body = [
            f"Since {_utc(notice.at)}. {_impact(notice)}",
            f"What to do: {_fix(notice)}.",
        ]
    if notice.reason is FailureClass.DAGSTER_SILENT:
        body += [f"Dagster: {page.dagster_url}/deployment/daemons"]
    elif is_login:
        body += [f"Logins: {link}"]
    else:
        body += [f"Connection: {link}", f"Dagster: {dagster_link(page, user_id)}"]
    return Message(
        id=_id(notice),
        headline=headline(notice),
        body=tuple(body),
        user_id=user_id,
        link=link,
    )


def digest(notices: Sequence[Notice], page: PageSettings) -> Message:
    """Many notices in one message: how many of each kind, and a line for each of the first
    ``LINES``."""
    opened = [notice for notice in notices if notice.moment == "opened"]
    closed = [notice for notice in notices if notice.moment == "closed"]
    # A problem of all users explains the rest.
    first = sorted(notices, key=lambda notice: notice.user is not None)
    lines = [f"- {headline(notice)}, since {_utc(notice.at)}" for notice in first[:LINES]]
    rest = len(notices) - len(lines)
    link = page_link(page, None)
    ids = "/".join(_id(notice) for notice in notices)
    return Message(
        id=f"digest.{hashlib.sha256(ids.encode()).hexdigest()[:16]}",
        headline=f"{_count(opened, 'new problem')}, {len(closed)} resolved",
        body=(
            *lines,
            *([f"and {rest} more"] if rest else []),
            f"All connections: {link}",
            f"Dagster: {dagster_link(page, None)}",
        ),
        user_id=None,
        link=link,
    )


def headline(notice: Notice) -> str:
    """A notice in one line without a full stop."""
    said = notice.reason.explanation.message
    who = _name(notice)
    if notice.reason is FailureClass.DAGSTER_SILENT:
        closed = notice.moment == "closed"
        return "Dagster works again" if closed else f"Scheduling has stopped: {said}"
    if notice.reason is FailureClass.LOGINS_FAILING:
        return "No login has failed for an hour" if notice.moment == "closed" else said
    if notice.moment == "closed":
        return f"{who} works again" if notice.user else "Token refresh works again for all users"
    if not notice.user:
        return f"Token refresh is suspended for all users: {said}"
    if notice.reason is FailureClass.LOCATION_PAUSED:
        return f"{who} has been paused for so long that the connection will be lost"
    if not notice.reason.needs_action:
        return f"{who}: token refresh keeps failing: {said}"
    return f"{who} needs action: {said}"


def page_link(page: PageSettings, user_id: UUID | None) -> str:
    """The page where the problem can be fixed."""
    return f"{page.url}/users/{user_id}" if user_id else f"{page.url}/"


def dagster_link(page: PageSettings, user_id: UUID | None) -> str:
    """Where Dagster's UI shows the connection, or the refreshes of all users."""
    if user_id is None:
        return f"{page.dagster_url}/assets/refreshed_credentials"
    return f"{page.dagster_url}/assets/user_tokens?view=partitions&partition={user_id}"


def _id(notice: Notice) -> str:
    # With the time, because the ids of a new database start at 1 again.
    return f"{notice.alert_id}.{notice.moment}.{notice.at.timestamp():.0f}"


def _name(notice: Notice) -> str:
    """The business's name, cleaned to one line that no program shows as a link."""
    return unlinked(cleaned(notice.user.name, _NAME_LENGTH)) if notice.user else ""


def _fix(notice: Notice) -> str:
    fix = notice.reason.explanation.fix
    return for_user(fix, notice.user.id) if notice.user else fix


def _impact(notice: Notice) -> str:
    if notice.reason is FailureClass.DAGSTER_SILENT:
        return "No day is synced and no token refreshed until it runs again; nothing is lost yet."
    if notice.reason is FailureClass.LOGINS_FAILING:
        return "No address is locked out for good; each address is slowed down on its own."
    if notice.reason is FailureClass.TOKENS_SPENT:
        return "The refused users have to reconnect, unless newer tokens are found."
    if notice.user is None:
        return "No user has to reconnect; calls are synced while the current tokens are valid."
    if notice.reason is FailureClass.LOCATION_PAUSED:
        return (
            "HighLevel has paused the location (billing or agency). In less than 30 days the "
            "refresh token expires, and then the user has to reconnect."
        )
    if notice.reason is FailureClass.PRIVATE_TOKEN_OLD:
        return "It still works and calls are synced; HighLevel advises a new one every 90 days."
    if not notice.reason.needs_action:
        return "It is retried automatically; calls are synced while the current token is valid."
    return (
        "Until then no calls of this user are synced; the gap is filled automatically afterwards."
    )


def _what_follows(notice: Notice) -> str:
    if notice.reason is FailureClass.DAGSTER_SILENT:
        return "The next nightly run re-syncs the last days; earlier days show as missing."
    if notice.reason is FailureClass.LOGINS_FAILING:
        return "The attempts stay listed."
    if notice.user is None:
        return "Refreshes that were skipped are made up for."
    return "Days that were waiting are filled automatically."


def _count(notices: Sequence[Notice], noun: str) -> str:
    return f"{len(notices)} {noun}{'s' * (len(notices) != 1)}"


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"

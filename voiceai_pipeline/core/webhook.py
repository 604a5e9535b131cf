"""What the pipeline reads from a HighLevel webhook message. Values only: verifying and parsing are
in ``highlevel/webhook.py``; what a message triggers is in ``calls/hints.py``."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class MessageType(StrEnum):
    """What a message is about. OTHER: an event that the pipeline ignores."""

    CALL_ENDED = "call_ended"
    INSTALLED = "installed"
    UNINSTALLED = "uninstalled"
    OTHER = "other"


@dataclass(frozen=True)
class WebhookMessage:
    """The ids and times of a message.

    Attributes:
        message_id: the same each time a message is delivered: ``webhookId``, else the body's hash.
        location_id, company_id, app_id, call_id: None if absent or not an id.
        call_started_at: the call's ``createdAt`` (UTC); None if absent or unreadable.
    """

    message_id: str
    type: MessageType
    location_id: str | None = None
    company_id: str | None = None
    app_id: str | None = None
    call_id: str | None = None
    call_started_at: datetime | None = None


class Refusal(StrEnum):
    """Why a message was refused. ``webhook_refusals`` stores the value."""

    UNSIGNED = "unsigned"
    OTHER_APP = "other_app"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"

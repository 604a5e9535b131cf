"""A webhook message of HighLevel's, as far as the pipeline reads it. Values only: verifying and
parsing are in ``highlevel/webhook.py``, what follows from a message is in ``calls/hints.py``."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class MessageType(StrEnum):
    """What a message is about. OTHER: an event that the pipeline has no use for."""

    CALL_ENDED = "call_ended"
    INSTALLED = "installed"
    UNINSTALLED = "uninstalled"
    OTHER = "other"


@dataclass(frozen=True)
class WebhookMessage:
    """The ids and times of a message.

    Attributes:
        message_id: identifies it among its repetitions: ``webhookId``, else a hash of the body.
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
    """Why a message does not count. The value is what ``webhook_refusals`` stores."""

    UNSIGNED = "unsigned"
    OTHER_APP = "other_app"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"

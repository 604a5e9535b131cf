"""A call as HighLevel lists it and as it is stored, its hash, and its agent. Reading calls is in
``highlevel/calls.py``.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned

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
"""The actions of an agent in a call that HighLevel documents (CONTRACT 2.4)."""

LONGEST_SECONDS: Final = 86_400
"""The longest plausible duration, a day. More is a timestamp or another unit, and less than 0 is an
error: both are stored as unknown."""


def digest(hasher: "hashlib._Hash | hashlib.blake2b", content: bytes | msgspec.Raw) -> bytes:
    """The hash of ``content``, computed in pieces of at most 2,047 bytes. For longer ones
    ``hashlib`` releases the GIL, which takes several times as long with many threads."""
    view = memoryview(content)
    for start in range(0, len(view), 2047):
        hasher.update(view[start : start + 2047])
    return hasher.digest()


@dataclass(slots=True)
class ListedCall:
    """A call as listed, with just enough to tell whether it is already stored. A window may have a
    million of them.

    Attributes:
        started_at: ``createdAt``, UTC.
        sent: the whole item as JSON in UTF-8, secrets included.
        unknown_actions: number of its actions whose type is not documented.
        is_duration_odd: its duration is implausible, so the call is stored without one.
    """

    call_id: str
    started_at: datetime
    sent: msgspec.Raw = field(repr=False)
    unknown_actions: int = 0
    is_duration_odd: bool = False


@dataclass(slots=True)
class CallLog:
    """One call as HighLevel lists it, redacted, ready to store (CONTRACT 2.3). A JSON value is
    either parsed or text (``msgspec.Raw``).

    Attributes:
        started_at: ``createdAt``, UTC.
        content_hash: SHA-256 of ``content``; equal hashes mean equal calls.
        content: the whole item, redacted, as canonical JSON in UTF-8.
        unheld: the members that cannot be reproduced exactly from the other attributes, as JSON;
            None if there are none.
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
    executed_call_actions: Any = field(default_factory=list, repr=False)
    extracted_data: Any = field(default=None, repr=False)
    translation: Any = field(default=None, repr=False)
    message_id: str | None = None
    unheld: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SetAsideCall:
    """An item that cannot be stored as a call; kept with the reason, so that its day does not fail.

    ``call_id`` and ``started_at`` are None if the item does not have them.
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


def agent_label(agent_id: str | None, name: str | None, *, is_deleted: bool) -> str:
    """What every screen calls an agent: its last known name, else the beginning of its id; and
    whether it was deleted, or HighLevel never listed it."""
    if not agent_id:
        return "no agent"
    known = cleaned(name or "", NAME_LENGTH)
    if is_deleted:
        return f"{known or _nameless(agent_id)} (deleted)"
    return known or f"{_nameless(agent_id)} (never listed)"


def _nameless(agent_id: str) -> str:
    return f"agent {cleaned(agent_id, NAME_LENGTH)[:8]}"

"""The fast path from an ordinary item to its call. An item is ordinary if every field is published
and has its published type, and no text looks like a credential.

Most items are ordinary. For others, ``ordinary_call`` returns None and ``calls.call_of`` takes the
slow path; a test checks that both give the same result. An agent's actions are configured once and
come with every call, so what is kept of their parameters is cached.
"""

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from voiceai_pipeline.core.call import (
    ACTION_TYPES,
    LONGEST_SECONDS,
    CallLog,
    ListedCall,
    digest,
)
from voiceai_pipeline.highlevel.allow_list import (
    is_instant,
    parameters_of_action,
    translation_of_call,
)
from voiceai_pipeline.highlevel.credentials import may_hold_credentials, text_may_hold_credentials
from voiceai_pipeline.highlevel.plain_json import DECODER, ENCODER
from voiceai_pipeline.highlevel.redaction import clean, redact
from voiceai_pipeline.highlevel.unheld import as_highlevel_writes

_LONGEST_ID: Final = 200
_NULL: Final = Raw(b"null")
_REMEMBERED: Final = 2_000
"""The most bytes of a part that is cached: a thousand of them take a few MB."""

_Text = str | None | UnsetType
_Part = Raw | UnsetType


class _Action(msgspec.Struct, forbid_unknown_fields=True):
    actionType: str  # noqa: N815 - HighLevel's names
    actionId: str | UnsetType = UNSET  # noqa: N815
    actionName: str | UnsetType = UNSET  # noqa: N815
    actionParameters: Raw | UnsetType = UNSET  # noqa: N815
    executedAt: str | UnsetType = UNSET  # noqa: N815
    triggerReceivedAt: str | UnsetType = UNSET  # noqa: N815


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    createdAt: str  # noqa: N815
    executedCallActions: Any  # noqa: N815
    agentId: _Text = UNSET  # noqa: N815
    contactId: _Text = UNSET  # noqa: N815
    fromNumber: _Text = UNSET  # noqa: N815
    messageId: _Text = UNSET  # noqa: N815
    duration: int | UnsetType = UNSET
    trialCall: bool | UnsetType = UNSET  # noqa: N815
    isAgentDeleted: bool | UnsetType = UNSET  # noqa: N815
    summary: _Text = UNSET
    transcript: _Text = UNSET
    translation: _Part = UNSET
    extractedData: _Part = UNSET  # noqa: N815


class _ItemAsSent(_Item, forbid_unknown_fields=True):
    executedCallActions: list[_Action]  # noqa: N815


_ITEM: Final = msgspec.json.Decoder(_ItemAsSent)


def ordinary_call(listed: ListedCall) -> CallLog | None:
    """The call of an ordinary item, redacted; None if the item is not ordinary."""
    try:
        item = _ITEM.decode(listed.sent)
        return _call(item, listed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class _UnusualError(ValueError):
    """The item is not ordinary."""


def _call(item: _Item, listed: ListedCall) -> CallLog | None:
    texts = [item.id, item.createdAt]
    actions = _kept_actions(item.executedCallActions, texts)
    translation, extracted = _translation(item.translation), _extracted(item.extractedData)
    item.translation, item.extractedData = (
        translation or item.translation,
        extracted or item.extractedData,
    )
    agent_id, contact_id = _id(item.agentId, texts), _id(item.contactId, texts)
    from_number, message_id = _id(item.fromNumber, texts), _id(item.messageId, texts)
    summary, transcript = _prose(item.summary, texts), _prose(item.transcript, texts)
    duration = None if item.duration is UNSET else item.duration
    if duration is not None and not 0 <= duration <= LONGEST_SECONDS:
        return None
    if item.id != listed.call_id or text_may_hold_credentials("\n".join(texts)):
        return None
    unheld = _unheld(item)
    item.executedCallActions = actions
    content = ENCODER.encode(item)
    if b"\\u0000" in content:
        return None
    if item.createdAt != as_highlevel_writes(listed.started_at):
        unheld["createdAt"] = item.createdAt
    return CallLog(
        call_id=listed.call_id,
        started_at=listed.started_at,
        content_hash=digest(hashlib.sha256(), content),
        content=content,
        agent_id=agent_id,
        contact_id=contact_id,
        from_number=from_number,
        duration_seconds=None if duration is None else float(duration),
        is_trial=None if item.trialCall is UNSET else item.trialCall,
        is_agent_deleted=None if item.isAgentDeleted is UNSET else item.isAgentDeleted,
        summary=summary,
        transcript=transcript,
        executed_call_actions=actions,
        extracted_data=extracted,
        translation=translation,
        message_id=message_id,
        unheld=ENCODER.encode(unheld) if unheld else None,
    )


def _unheld(item: _Item) -> dict[str, Any]:
    """The members that are null or empty: the columns do not distinguish them from absent ones."""
    members = (
        ("agentId", item.agentId),
        ("contactId", item.contactId),
        ("fromNumber", item.fromNumber),
        ("messageId", item.messageId),
        ("summary", item.summary),
        ("transcript", item.transcript),
    )
    found: dict[str, Any] = {name: value for name, value in members if value is None or value == ""}
    if not item.executedCallActions:
        found["executedCallActions"] = []
    if item.translation == _NULL:
        found["translation"] = None
    if item.extractedData == _NULL:
        found["extractedData"] = None
    return found


def _id(value: _Text, texts: list[str]) -> str | None:
    if not isinstance(value, str):
        return None
    if len(value) > _LONGEST_ID or not value.strip():
        raise _UnusualError
    texts.append(value)
    return value


def _prose(value: _Text, texts: list[str]) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    texts.append(value)
    return value


def _kept_actions(actions: list[_Action], texts: list[str]) -> Raw:
    """What is kept of the actions, as canonical JSON.

    Args:
        texts: their free texts are appended to it.
    """
    for action in actions:
        if action.actionType not in ACTION_TYPES:
            raise _UnusualError
        for text in (action.actionId, action.actionName):
            if isinstance(text, str):
                texts.append(text)
        for instant in (action.executedAt, action.triggerReceivedAt):
            if instant is not UNSET and not is_instant(instant):
                raise _UnusualError
        if action.actionParameters is not UNSET:
            action.actionParameters = _kept(action.actionType, action.actionParameters)
    return Raw(ENCODER.encode(actions))


def _translation(sent: _Part) -> Raw | None:
    """What is kept of the translation, as canonical JSON; None if it is null or absent."""
    return _kept("translation", sent) if isinstance(sent, Raw) and sent != _NULL else None


def _kept(what: str, sent: Raw) -> Raw:
    """What is kept of a part of an item, as canonical JSON.

    Args:
        what: the type of the action whose parameters it is, or "translation".
    """
    text = bytes(sent)
    return (_remembered if len(text) <= _REMEMBERED else _kept_of)(what, text)


def _kept_of(what: str, sent: bytes) -> Raw:
    value = DECODER.decode(sent)
    if what == "translation":
        return Raw(ENCODER.encode(clean(translation_of_call(value))))
    return Raw(ENCODER.encode(clean(parameters_of_action(what, value))))


_remembered: Final = lru_cache(maxsize=1024)(_kept_of)


def _extracted(sent: _Part) -> Raw | None:
    """What is kept of the extracted data, as canonical JSON; None if it is null or absent."""
    if sent is UNSET or sent == _NULL:
        return None
    value = DECODER.decode(sent)
    kept = ENCODER.encode(redact(value))
    if may_hold_credentials(kept):
        raise _UnusualError
    return Raw(kept)

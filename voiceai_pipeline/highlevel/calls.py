"""Parses HighLevel's call-log items into calls.

Every field but the id and the time is optional, whatever the specification says (CONTRACT 2.3): an
item that lacks either is set aside with the reason, and nothing else in an item is an error. A
value of an undocumented type is converted if its meaning is clear ("65" is a duration); otherwise
it counts as absent. Most items are stored already, so only their head is parsed, and the rest on
demand. No HTTP here.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from voiceai_pipeline.core.call import (
    ACTION_TYPES,
    LONGEST_SECONDS,
    CallLog,
    ListedCall,
    SetAsideCall,
    digest,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.allow_list import allowed, redact_call
from voiceai_pipeline.highlevel.answer import whole_or_text
from voiceai_pipeline.highlevel.credentials import may_hold_credentials
from voiceai_pipeline.highlevel.ordinary_calls import ordinary_call
from voiceai_pipeline.highlevel.plain_json import DECODER, ENCODER
from voiceai_pipeline.highlevel.redaction import clean, clean_text
from voiceai_pipeline.highlevel.unheld import unheld

PAGE_SIZE: Final = 50
"""The most one request returns (CONTRACT 2.1)."""

ID_LENGTH: Final = 500
"""The most characters of an id or a phone number: PostgreSQL cannot index a few thousand."""

YEARS: Final = range(2015, 2100)
"""A ``createdAt`` in another year is a default value such as 1970 or 0001, not a call's time."""


@dataclass(frozen=True)
class Page:
    """A page of the list: its unparsed items, and the query's total; None if it states none."""

    items: list[msgspec.Raw]
    total: int | None


@dataclass(slots=True)
class Item:
    """An item of the list, of which only the head has been parsed.

    Attributes:
        sent: the item as JSON, secrets included.
        call_id, created_at (UTC): None if missing or unreadable.
        unknown_actions: number of its actions whose type is not documented (REQUIREMENTS S7).
        is_duration_odd: its duration is implausible.
        is_implausible: its time is readable, but not in ``YEARS``.
    """

    sent: msgspec.Raw = field(repr=False)
    call_id: str | None = None
    created_at: datetime | None = None
    unknown_actions: int = 0
    is_duration_odd: bool = False
    is_implausible: bool = False


_TIMESTAMP: Final = re.compile(r"[0-9]{9,14}(\.[0-9]{1,9})?")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


def parse_instant(value: Any) -> datetime:
    """An aware UTC time from ISO 8601 or a Unix timestamp in seconds or milliseconds.

    The specification says ISO for ``createdAt``, and "Unix timestamp" with an example in
    milliseconds for its dates (CONTRACT 2.1, 2.3). From 1e11 on, a number is in milliseconds: as
    seconds, it would be after the year 5000. A time without a zone is read as UTC.

    Raises:
        ValueError: it is neither, or outside the years that Python supports.
    """
    try:
        if isinstance(value, str):
            # fromisoformat would read 1712113000000 as a day in 1712.
            if _TIMESTAMP.fullmatch(value):
                return parse_instant(float(value))
            instant = datetime.fromisoformat(value)
            if instant.tzinfo is UTC:
                return instant
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value >= 1e11 else value, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("outside the years that Python supports") from error
    raise ValueError("not a time")


class _Action(msgspec.Struct):
    actionType: str | None = None  # noqa: N815 - HighLevel's name


class _Head(msgspec.Struct):
    """The fields that are parsed of every item, by HighLevel's names."""

    id: Any = None
    createdAt: Any = None  # noqa: N815
    duration: Any = None
    executedCallActions: list[_Action] | None = None  # noqa: N815


_HEAD: Final = msgspec.json.Decoder(_Head)


def head_of(sent: msgspec.Raw) -> Item:
    """Parse just enough of an item to tell whether the call is already stored."""
    try:
        head = _HEAD.decode(sent)
        call_id, created_at, duration = head.id, head.createdAt, head.duration
        types: Iterable[Any] = [action.actionType for action in head.executedCallActions or ()]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # Not an object, or a field has an undocumented type.
        value = value_of(sent)
        if not isinstance(value, dict):
            return Item(sent)
        call_id, created_at = value.get("id"), value.get("createdAt")
        duration = value.get("duration")
        actions = value.get("executedCallActions")
        types = [
            action.get("actionType")
            for action in (actions if isinstance(actions, list) else ())
            if isinstance(action, dict)
        ]
    unknown = 0
    for kind in types:
        if isinstance(kind, str) and kind not in ACTION_TYPES:
            unknown += 1
    try:
        instant = parse_instant(created_at)
    except ValueError:
        instant = None
    is_implausible = instant is not None and instant.year not in YEARS
    return Item(
        sent,
        _text(call_id),
        None if is_implausible else instant,
        unknown,
        is_duration_odd=duration not in (None, "") and _seconds(duration) is None,
        is_implausible=is_implausible,
    )


def call_or_set_aside(item: Item) -> ListedCall | SetAsideCall:
    """The item as a call, or as set aside with the reason."""
    if flaw := _flaw(item):
        return set_aside(item, flaw)
    assert item.call_id is not None and item.created_at is not None  # noqa: S101, PT018 - no flaw
    call_id = clean_text(item.call_id)
    return ListedCall(
        call_id, item.created_at, item.sent, item.unknown_actions, item.is_duration_odd
    )


def set_aside(item: Item, reason: str) -> SetAsideCall:
    """The item, redacted, to be stored as set aside."""
    raw, content = _redacted(item.sent)
    return SetAsideCall(
        reason if isinstance(raw, dict) else "the item is not a JSON object",
        digest(hashlib.sha256(), content),
        raw,
        None if item.call_id is None else clean_text(item.call_id),
        item.created_at,
    )


def is_zone_assumed(item: Item) -> bool:
    """Whether the item's time has no zone and was therefore read as UTC."""
    created_at = value_of(item.sent).get("createdAt")
    if not isinstance(created_at, str) or _TIMESTAMP.fullmatch(created_at):
        return False
    time_of_day = created_at.replace(" ", "T").partition("T")[2]
    return not re.search(r"[Zz+-]", time_of_day)


def _flaw(item: Item) -> str:
    """Why an item is not a call; empty if it is one."""
    if item.call_id is None:
        return "the call has no id"
    if len(item.call_id) > ID_LENGTH:
        return f"the call's id has {len(item.call_id)} characters"
    if item.is_implausible:
        return f"the call's createdAt is not between {YEARS.start} and {YEARS.stop}"
    return "" if item.created_at else "the call has no readable createdAt"


def call_of(listed: ListedCall) -> CallLog:
    """A listed call with its columns, redacted. A field that does not match the documentation is
    None; its value is kept in ``content``.

    Raises:
        PipelineError: MALFORMED: it is not JSON after all.
    """
    return ordinary_call(listed) or _any_call(listed)


def _any_call(listed: ListedCall) -> CallLog:
    raw, content = _redacted(listed.sent)
    actions = raw.get("executedCallActions")
    call = CallLog(
        call_id=listed.call_id,
        started_at=listed.started_at,
        content_hash=digest(hashlib.sha256(), content),
        content=content,
        agent_id=_short(raw, "agentId"),
        contact_id=_short(raw, "contactId"),
        from_number=_short(raw, "fromNumber"),
        duration_seconds=_seconds(raw.get("duration")),
        is_trial=_boolean(raw, "trialCall"),
        is_agent_deleted=_boolean(raw, "isAgentDeleted"),
        summary=_string(raw, "summary"),
        transcript=_string(raw, "transcript"),
        executed_call_actions=actions if isinstance(actions, list) else [],
        extracted_data=raw.get("extractedData"),
        translation=raw.get("translation"),
        message_id=_short(raw, "messageId"),
    )
    if rest := unheld(raw, call):
        call.unheld = ENCODER.encode(rest)
    return call


def call_redacted_again(stored: ListedCall) -> CallLog | None:
    """A stored call, redacted by the current rules; None if they remove nothing more.

    Args:
        stored: its ``sent`` is the stored content.
    """
    call = _any_call(stored)
    # Hashes of equal values could differ: PostgreSQL writes numbers in its own way.
    return None if json.loads(call.content) == value_of(stored.sent) else call


def item_redacted_again(stored: msgspec.Raw) -> tuple[Any, bytes] | None:
    """What the current rules keep of an item that was set aside, with its content hash; None if
    they remove nothing more."""
    raw, content = _redacted(stored)
    same = json.loads(content) == value_of(stored)
    return None if same else (raw, digest(hashlib.sha256(), content))


def _redacted(sent: msgspec.Raw) -> tuple[Any, bytes]:
    """An item without its secrets, and the same as canonical JSON.

    Stored content hashes depend on that JSON, so its format must not change: sorted keys, no
    spaces, UTF-8, numbers as Python writes them.
    """
    value, is_ordinary = _value_of(sent)
    encode = ENCODER.encode if is_ordinary else _canonical
    try:
        redacted = allowed(value)
        if is_ordinary:
            content = encode(redacted)
            if b"\\u0000" not in content and not may_hold_credentials(content):
                return redacted, content
        cleaned = clean(redacted)
        return cleaned, encode(cleaned)
    except RecursionError:
        if isinstance(value, dict):
            flat = {name: _shallow(member) for name, member in value.items()}
            shallow = redact_call(flat)
        else:
            shallow = _shallow(value)
        return shallow, _canonical(shallow)


def _shallow(value: Any) -> Any:
    return "nested too deeply" if isinstance(value, (dict, list)) else value


def value_of(sent: msgspec.Raw) -> Any:
    """An item as a JSON value, secrets included.

    Raises:
        PipelineError: MALFORMED: it is not JSON after all.
    """
    return _value_of(sent)[0]


def _value_of(sent: msgspec.Raw) -> tuple[Any, bool]:
    """The value of an item, and whether all JSON libraries would write it alike, as most values.

    Raises:
        PipelineError: MALFORMED.
    """
    try:
        return DECODER.decode(sent), True
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        # A lone surrogate, an unusual number, or bytes that are not UTF-8.
        text = bytes(sent).decode("utf-8", "replace")
        return json.loads(text, parse_int=whole_or_text), False
    except (ValueError, RecursionError):
        raise PipelineError(FailureClass.MALFORMED, "a call is not JSON") from None


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


class _Listing(msgspec.Struct):
    """A page of the list, by HighLevel's names (CONTRACT 2.2)."""

    callLogs: list[msgspec.Raw]  # noqa: N815
    total: Any = None
    totalRecords: Any = None  # noqa: N815
    statusCode: Any = None  # noqa: N815


_LISTING: Final = msgspec.json.Decoder(_Listing)


def listing_of(content: bytes) -> dict[str, Any] | None:
    """The body of a page, with the items unparsed; None if it is not a page, or has an error
    status, or is JSON that only Python's own library accepts."""
    try:
        page = _LISTING.decode(content.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if page.statusCode is not None:
        return None
    return {"callLogs": page.callLogs, "total": page.total, "totalRecords": page.totalRecords}


def as_sent(value: Any) -> msgspec.Raw:
    """A value as an unparsed item of a page."""
    return msgspec.Raw(json.dumps(value))


def _string(raw: Mapping[str, Any], key: str) -> str | None:
    """The text; None if it is absent, not a text, or empty, which means the same as absent here."""
    value = raw.get(key)
    return value if isinstance(value, str) and value else None


def _short(raw: Mapping[str, Any], key: str) -> str | None:
    """An id or phone number, also if sent as a JSON number; None if it is absent or too long."""
    text = _text(raw.get(key))
    return text if text is None or len(text) <= ID_LENGTH else None


def _text(value: Any) -> str | None:
    """A text that is not blank, or a whole number as text; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _seconds(value: Any) -> float | None:
    """A duration in seconds, also if sent as text; None if it is not a number, or implausible."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= LONGEST_SECONDS else None


_BOOLEANS: Final[Mapping[Any, bool]] = {"true": True, "false": False, 1: True, 0: False}


def _boolean(raw: Mapping[str, Any], key: str) -> bool | None:
    """A flag, also if sent as "true", "false", 1 or 0; None for anything else."""
    value = raw.get(key)
    if isinstance(value, str):
        value = value.strip().lower()
    return _BOOLEANS.get(value) if isinstance(value, (str, int, float)) else None

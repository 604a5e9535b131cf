"""From HighLevel's call-log items to calls, and a complete, verified read of a window.

Every field but the id and the time is optional, whatever the specification says (CONTRACT 2.3):
an item without those two is set aside with its reason, and nothing else about an item can fail.
A window may hold a million calls: they are passed on page by page, and none is kept here. Most are
known already, so of each only its head is read; the whole of it once somebody asks for it.
"""

import hashlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from voiceai_pipeline.core.call import ACTION_TYPES, CallLog, ListedCall, SetAsideCall, digest
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.redaction import is_plain, redact

PAGE_SIZE: Final = 50
"""The most one request returns (CONTRACT 2.1)."""

OVERLAP: Final = timedelta(seconds=1)
"""Whether the bounds are inclusive is unknown (CONTRACT 2.1): ask for more, keep what belongs."""

SET_ASIDE_AT_MOST: Final = 5
SET_ASIDE_SHARE: Final = 0.05
"""A read with more unreadable items than both of these is refused."""

READS: Final = 3
"""How often a window is read again while its total and its calls disagree."""


@dataclass(frozen=True)
class Page:
    """One answer of the list: its items as they were sent, and the total of the query, None where
    left out."""

    items: list[msgspec.Raw]
    total: int | None


@dataclass(slots=True)
class Item:
    """An item of the list, of which no more than its head has been read.

    Attributes:
        sent: the item as JSON, with whatever secrets are in it.
        call_id, created_at (UTC): None if it does not say so readably.
        unknown_actions: its actions of a type that is not documented (REQUIREMENTS S7).
    """

    sent: msgspec.Raw = field(repr=False)
    call_id: str | None = None
    created_at: datetime | None = None
    unknown_actions: int = 0


_DIGITS: Final = re.compile(r"[0-9]{9,14}")

FetchPage = Callable[[datetime, datetime, int], Page]
"""``(from, to, page number from 1) -> Page``, oldest call first, both bounds asked for."""

Take = Callable[[list[ListedCall]], None]
"""Takes calls of a read: each once, inside the window, oldest first."""


@dataclass(frozen=True)
class WindowRead:
    """A complete read of a window, whose calls have been passed on.

    Attributes:
        set_aside: items that cannot be stored; those without a time are taken to be inside.
        pages: requests spent, re-reads included.
    """

    set_aside: list[SetAsideCall]
    pages: int


def read_window(fetch: FetchPage, window: Window, begin: Callable[[], Take]) -> WindowRead:
    """Read a closed window until what arrived adds up to the total HighLevel gave for it.

    Args:
        begin: called when a read begins; it gives what takes the calls of this read. What was
            passed on before is void then, and so it is if this raises.

    Raises:
        PipelineError: INCOMPLETE when it does not add up after ``READS`` reads; whatever ``fetch``
            and ``begin`` raise.
    """
    pages, in_order = 0, True
    for _ in range(READS):
        items = _Items(window, begin())
        walk = _walk(fetch, window.start - OVERLAP, window.end + OVERLAP, items, in_order=in_order)
        pages += walk.requests
        if walk.adds_up:
            _refuse_drift(len(items.set_aside), items.count)
            return WindowRead(items.set_aside, pages)
        in_order = walk.in_order
    raise PipelineError(
        FailureClass.INCOMPLETE,
        f"{walk.count} calls arrived, total {walk.total}, {READS} reads",
    )


def _refuse_drift(aside: int, listed: int) -> None:
    """One bad call is set aside; many mean that the format changed, and nothing may be stored."""
    if aside > max(SET_ASIDE_AT_MOST, listed * SET_ASIDE_SHARE):
        raise PipelineError(FailureClass.MALFORMED, f"{aside} of {listed} calls cannot be read")


@dataclass
class _Items:
    """Takes the items of one pass: passes calls on, keeps the few that are none.

    Attributes:
        count: distinct items so far.
    """

    window: Window
    take: Take
    set_aside: list[SetAsideCall] = field(default_factory=list)
    count: int = 0

    def __call__(self, items: Iterable[Item]) -> None:
        calls = []
        for item in items:
            self.count += 1
            if item.created_at is not None and item.created_at not in self.window:
                continue
            call = call_or_set_aside(item)
            if isinstance(call, ListedCall):
                calls.append(call)
            else:
                self.set_aside.append(call)
        calls.sort(key=lambda call: (call.started_at, call.call_id))
        self.take(calls)


@dataclass(frozen=True)
class _Walk:
    """One pass over the list.

    Attributes:
        count: distinct items that arrived.
        total: what the first answer said there would be; None if it did not say.
        ended: the list came to an end, it was not given up.
        in_order: the list is ascending and keeps to the dates, as far as it was seen.
    """

    count: int
    total: int | None
    requests: int
    ended: bool
    in_order: bool

    @property
    def adds_up(self) -> bool:
        return self.ended if self.total is None else self.count == self.total


def _walk(
    fetch: FetchPage, start: datetime, end: datetime, items: _Items, *, in_order: bool
) -> _Walk:
    """Follow the list from its oldest call to its newest.

    Page numbers shift when a call vanishes while they are counted: the call that moves up onto a
    page already read is never seen. So the next request starts at the last call seen instead
    (1 ms before it, since the bound may be exclusive) and asks for page 1 again. Page numbers are
    used only where that cannot advance: more than a page of calls in one millisecond, or a list
    that does not come in ascending order.

    Only what the list may still show again is kept: calls from the next request's start on, and
    items without a time. A list that turns out not to be in order could show anything again: it is
    given up and, by the next pass, kept whole.
    """
    held: dict[str, Item] = {}
    timeless: dict[str, Item] = {}
    total: int | None = None
    requests, number, stale, cursor = 0, 1, 0, start

    def walk(*, ended: bool) -> _Walk:
        items(itertools.chain(held.values(), timeless.values()))
        return _Walk(items.count, total, requests, ended, in_order)

    while True:
        page = fetch(cursor, end, number)
        requests += 1
        if requests == 1:
            total = page.total
        listed = [head_of(sent) for sent in page.items]
        known = [item.created_at for item in listed if item.created_at is not None]
        if in_order and not _ascend(known, cursor):
            in_order = False
            if items.count:
                return _Walk(items.count, None, requests, ended=False, in_order=False)
        before = len(held) + len(timeless)
        for key, item in _keyed(listed):
            (timeless if item.created_at is None else held)[key] = item
        if len(listed) < PAGE_SIZE:
            return walk(ended=True)
        # A server that ignores the page number would be asked for ever.
        stale = stale + 1 if len(held) + len(timeless) == before else 0
        if stale > 2:
            return walk(ended=False)
        following = _where_to_go_on(known)
        if following is None or following <= cursor:
            number += 1
            continue
        cursor, number = following, 1
        if in_order:
            over = [key for key, item in held.items() if _is_before(item, following)]
            items([held.pop(key) for key in over])
        if total is not None:
            # What can no longer be stored need not be kept in memory to its end.
            _refuse_drift(len(items.set_aside) + len(timeless), total)


def _is_before(item: Item, instant: datetime) -> bool:
    return item.created_at is not None and item.created_at < instant


def _ascend(instants: list[datetime], start: datetime) -> bool:
    return all(a <= b for a, b in itertools.pairwise([start, *instants]))


def _where_to_go_on(instants: list[datetime]) -> datetime | None:
    """1 ms before the last time of a page, so that a tie with it is seen whatever the bound means.

    None where that leads nowhere: the page is not ascending, or lies within that millisecond. A
    list that goes on from there would begin with calls already seen, and a page of one single
    instant does not even show that the list is ascending.
    """
    if not instants or not _ascend(instants, instants[0]):
        return None
    last = instants[-1]
    # HighLevel's dates are whole milliseconds.
    following = last - timedelta(microseconds=last.microsecond % 1000, milliseconds=1)
    return following if instants[0] < following else None


def _keyed(items: list[Item]) -> Iterator[tuple[str, Item]]:
    """Items by id. One without is known by its content and, among equals, by its place."""
    equals: Counter[bytes] = Counter()
    for item in items:
        if item.call_id is not None:
            yield f"id {item.call_id}", item
        else:
            content = bytes(item.sent)
            equals[content] += 1
            yield f"{equals[content]} {content!r}", item


def parse_instant(value: Any) -> datetime:
    """An aware UTC time from ISO 8601 or a Unix timestamp in seconds or milliseconds.

    The specification says ISO for ``createdAt`` and "Unix timestamp" with a millisecond example
    for its dates (CONTRACT 2.1, 2.3); milliseconds since 1973 exceed any plausible seconds.

    Raises:
        ValueError: it is neither, or outside the years PostgreSQL and Python share.
    """
    try:
        if isinstance(value, str):
            # fromisoformat would read 1712113000000 as a day in 1712.
            if value.isdigit() and _DIGITS.fullmatch(value):
                return parse_instant(int(value))
            instant = datetime.fromisoformat(value)
            if instant.tzinfo is UTC:
                return instant
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value >= 1e11 else value, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("outside the years that exist here") from error
    raise ValueError("not a time")


class _Action(msgspec.Struct):
    actionType: str | None = None  # noqa: N815 - HighLevel's name


class _Head(msgspec.Struct):
    """What is read of every item, by HighLevel's names."""

    id: Any = None
    createdAt: Any = None  # noqa: N815
    executedCallActions: list[_Action] | None = None  # noqa: N815


_HEAD: Final = msgspec.json.Decoder(_Head)


def head_of(sent: msgspec.Raw) -> Item:
    """An item with as much as tells whether it is known already."""
    try:
        head = _HEAD.decode(sent)
        call_id, created_at = head.id, head.createdAt
        types: Iterable[Any] = [action.actionType for action in head.executedCallActions or ()]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # It is no object, or something in it is of another type than documented.
        value = value_of(sent)
        if not isinstance(value, dict):
            return Item(sent)
        call_id, created_at = value.get("id"), value.get("createdAt")
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
    return Item(sent, call_id if isinstance(call_id, str) and call_id else None, instant, unknown)


def call_or_set_aside(item: Item) -> ListedCall | SetAsideCall:
    """An item as a call, or why it can be none."""
    if item.call_id is not None and item.created_at is not None:
        call_id: str = redact(item.call_id)
        return ListedCall(call_id, item.created_at, item.sent, item.unknown_actions)
    raw, content = _redacted(item.sent)
    content_hash = digest(hashlib.sha256(), content)
    if not isinstance(raw, dict):
        return SetAsideCall("the item is not a JSON object", content_hash, raw)
    if item.call_id is None:
        return SetAsideCall("the call has no id", content_hash, raw, started_at=item.created_at)
    return SetAsideCall("the call has no readable createdAt", content_hash, raw, raw["id"])


def call_of(listed: ListedCall) -> CallLog:
    """A listed call with its columns, redacted. What is not as documented is kept in ``content``
    and left empty.

    Raises:
        PipelineError: MALFORMED: it is no JSON after all.
    """
    raw, content = _redacted(listed.sent)
    actions = raw.get("executedCallActions")
    return CallLog(
        call_id=listed.call_id,
        started_at=listed.started_at,
        content_hash=digest(hashlib.sha256(), content),
        content=content,
        agent_id=_string(raw, "agentId"),
        contact_id=_string(raw, "contactId"),
        from_number=_string(raw, "fromNumber"),
        duration_seconds=_number(raw, "duration"),
        is_trial=_boolean(raw, "trialCall"),
        is_agent_deleted=_boolean(raw, "isAgentDeleted"),
        summary=_string(raw, "summary"),
        transcript=_string(raw, "transcript"),
        executed_call_actions=actions if isinstance(actions, list) else [],
        extracted_data=raw.get("extractedData"),
        translation=raw.get("translation"),
        message_id=_string(raw, "messageId"),
    )


def _redacted(sent: msgspec.Raw) -> tuple[Any, bytes]:
    """An item without its secrets, and the same as canonical JSON.

    Content hashes are of that JSON and tables hold them, so it stays as it is: sorted, without
    spaces, in UTF-8, numbers as Python writes them.
    """
    value, is_ordinary = _value_of(sent)
    encode = _ENCODER.encode if is_ordinary else _canonical
    try:
        if is_ordinary and is_plain(value):
            content = encode(value)
            if b"://" not in content and b"\\u0000" not in content:
                return value, content
        value = redact(value)
        return value, encode(value)
    except RecursionError:
        if isinstance(value, dict):
            shallow = redact({name: _shallow(member) for name, member in value.items()})
        else:
            shallow = _shallow(value)
        return shallow, _canonical(shallow)


def _shallow(value: Any) -> Any:
    return "nested too deeply" if isinstance(value, (dict, list)) else value


def value_of(sent: msgspec.Raw) -> Any:
    """An item as a JSON value, with whatever secrets are in it.

    Raises:
        PipelineError: MALFORMED: it is no JSON after all.
    """
    return _value_of(sent)[0]


def _value_of(sent: msgspec.Raw) -> tuple[Any, bool]:
    """The value of an item, and whether every library would write it alike: most are.

    Raises:
        PipelineError: MALFORMED.
    """
    try:
        return _DECODER.decode(sent), True
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        # Half a surrogate pair, a number out of the ordinary, bytes that are no UTF-8.
        return json.loads(bytes(sent).decode("utf-8", "replace")), False
    except (ValueError, RecursionError):
        raise PipelineError(FailureClass.MALFORMED, "a call is no JSON") from None


def _ordinary(number: str) -> float:
    """A fraction that all libraries write alike: they differ in how they write an exponent."""
    value = float(number)
    if value and not 1e-4 <= abs(value) < 1e16:
        raise ValueError("a number out of the ordinary")
    return value


_DECODER: Final = msgspec.json.Decoder(float_hook=_ordinary)
_ENCODER: Final = msgspec.json.Encoder(order="sorted")


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
    """The body of a page, its items left as they were sent; None if it is another answer, or JSON
    that only Python's own library takes."""
    try:
        page = _LISTING.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if page.statusCode is not None:
        return None
    return {"callLogs": page.callLogs, "total": page.total, "totalRecords": page.totalRecords}


def as_sent(value: Any) -> msgspec.Raw:
    """A value as an item of a page."""
    return msgspec.Raw(json.dumps(value))


def _string(raw: Mapping[str, Any], key: str) -> str | None:
    """The text, or None where it is absent, empty or no text: "" and absent mean the same here."""
    value = raw.get(key)
    return value if isinstance(value, str) and value else None


def _number(raw: Mapping[str, Any], key: str) -> float | None:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def _boolean(raw: Mapping[str, Any], key: str) -> bool | None:
    value = raw.get(key)
    return value if isinstance(value, bool) else None

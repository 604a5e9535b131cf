"""From HighLevel's call-log items to calls, and a complete, verified read of a window.

Every field but the id and the time is optional, whatever the specification says (CONTRACT 2.3):
an item without those two is set aside with its reason, and nothing else about an item can fail.
A window may hold a million calls: they are passed on page by page, and none is kept here.
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

import orjson

from voiceai_pipeline.highlevel.redaction import is_plain, redact
from voiceai_pipeline.models import (
    ACTION_TYPES,
    CallLog,
    FailureClass,
    ListedCall,
    PipelineError,
    SetAsideCall,
    Window,
)

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
    """One answer of the list: its raw items and the total of the query, None where left out."""

    items: list[Any]
    total: int | None


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

    def __call__(self, items: Iterable[tuple[datetime | None, Any]]) -> None:
        calls = []
        for instant, item in items:
            self.count += 1
            if instant is not None and instant not in self.window:
                continue
            read = read_item(item, instant)
            if isinstance(read, ListedCall):
                calls.append(read)
            else:
                self.set_aside.append(read)
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
    held: dict[str, tuple[datetime | None, Any]] = {}
    timeless: dict[str, Any] = {}
    total: int | None = None
    requests, number, stale, cursor = 0, 1, 0, start

    def walk(*, ended: bool) -> _Walk:
        items(itertools.chain(held.values(), ((None, item) for item in timeless.values())))
        return _Walk(items.count, total, requests, ended, in_order)

    while True:
        page = fetch(cursor, end, number)
        requests += 1
        if requests == 1:
            total = page.total
        instants = [instant_of(item) for item in page.items]
        known = [instant for instant in instants if instant is not None]
        if in_order and not _ascend(known, cursor):
            in_order = False
            if items.count:
                return _Walk(items.count, None, requests, ended=False, in_order=False)
        before = len(held) + len(timeless)
        for instant, (key, item) in zip(instants, _keyed(page.items), strict=True):
            if instant is None:
                timeless[key] = item
            else:
                held[key] = (instant, item)
        if len(page.items) < PAGE_SIZE:
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
            over = [key for key, (instant, _) in held.items() if instant and instant < following]
            items([held.pop(key) for key in over])
        if total is not None:
            # What can no longer be stored need not be kept in memory to its end.
            _refuse_drift(len(items.set_aside) + len(timeless), total)


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


def instant_of(item: Any) -> datetime | None:
    """When the call of an item was created (UTC); None if it does not say so readably."""
    try:
        return parse_instant(item["createdAt"])
    except (TypeError, KeyError, ValueError):
        return None


def _keyed(items: list[Any]) -> Iterator[tuple[str, Any]]:
    """Items by id. One without is known by its content and, among equals, by its place."""
    equals: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("id"), str) and item["id"]:
            yield f"id {item['id']}", item
        else:
            content = _canonical(item)
            equals[content] += 1
            yield f"{equals[content]} {content}", item


def parse_instant(value: Any) -> datetime:
    """An aware UTC time from ISO 8601 or a Unix timestamp in seconds or milliseconds.

    The specification says ISO for ``createdAt`` and "Unix timestamp" with a millisecond example
    for its dates (CONTRACT 2.1, 2.3); milliseconds since 1973 exceed any plausible seconds.

    Raises:
        ValueError: it is neither, or outside the years PostgreSQL and Python share.
    """
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        # fromisoformat would read 1712113000000 as a day in 1712.
        value = int(value)
    if isinstance(value, bool):
        raise ValueError("a boolean is not a time")
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value / 1000 if value >= 1e11 else value, UTC)
        if isinstance(value, str):
            instant = datetime.fromisoformat(value)
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("outside the years that exist here") from error
    raise ValueError("not a time")


def read_item(item: Any, started_at: datetime | None) -> ListedCall | SetAsideCall:
    """Read one item of the list, redacted.

    Args:
        started_at: what ``instant_of`` says of it.
    """
    raw, content = item, _plain_content(item)
    if content is None:
        try:
            raw = redact(item)
        except RecursionError:
            raw = "nested too deeply"
        content = _canonical(raw).encode()
    content_hash = hashlib.sha256(content).digest()
    if not isinstance(raw, dict):
        return SetAsideCall("the item is not a JSON object", content_hash, raw)
    call_id = raw.get("id")
    if not isinstance(call_id, str) or not call_id:
        return SetAsideCall("the call has no id", content_hash, raw, started_at=started_at)
    if started_at is None:
        return SetAsideCall("the call has no readable createdAt", content_hash, raw, call_id)
    actions = raw.get("executedCallActions")
    unknown = sum(map(_is_unknown, actions)) if actions and isinstance(actions, list) else 0
    return ListedCall(call_id, started_at, content_hash, content, unknown)


def call_of(listed: ListedCall) -> CallLog:
    """A listed call with its columns. What is not as documented is kept in ``raw`` and left
    empty."""
    raw = json.loads(listed.content)
    actions = raw.get("executedCallActions")
    return CallLog(
        call_id=listed.call_id,
        started_at=listed.started_at,
        content_hash=listed.content_hash,
        raw=raw,
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


def _is_unknown(action: Any) -> bool:
    """Whether its type is none of the documented eight (REQUIREMENTS S7)."""
    kind = action.get("actionType") if isinstance(action, dict) else None
    return isinstance(kind, str) and kind not in ACTION_TYPES


def _canonical(value: Any) -> str:
    """The JSON that content hashes are of: tables hold hashes of it, so it stays as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain_content(item: Any) -> bytes | None:
    """``_canonical(redact(item))`` in UTF-8, in a sixth of the time; None if that needs a closer
    look, as one item in ten does."""
    try:
        if not isinstance(item, dict) or not is_plain(item):
            return None
        content = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, RecursionError):
        # Half a surrogate pair, an integer of more than 64 bits, a depth of more than 254.
        return None
    return None if b"://" in content or b"\\u0000" in content else content


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

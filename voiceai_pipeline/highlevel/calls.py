"""From HighLevel's call-log items to ``CallLog``, and a complete, verified read of a window.

Every field but the id and the time is optional, whatever the specification says (CONTRACT 2.3):
an item without those two is set aside with its reason, and nothing else about an item can fail.
"""

import hashlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from voiceai_pipeline.highlevel.redaction import redact
from voiceai_pipeline.models import CallLog, FailureClass, PipelineError, SetAsideCall, Window

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


@dataclass(frozen=True)
class WindowRead:
    """Every call of a window as HighLevel listed it.

    Attributes:
        calls: distinct, inside the window, oldest first.
        set_aside: items that cannot be stored; those without a time are taken to be inside.
        pages: requests spent, re-reads included.
    """

    calls: list[CallLog]
    set_aside: list[SetAsideCall]
    pages: int


def read_window(fetch: FetchPage, window: Window) -> WindowRead:
    """Read a closed window until what arrived adds up to the total HighLevel gave for it.

    Raises:
        PipelineError: INCOMPLETE when it does not add up after ``READS`` reads; whatever ``fetch``
            raises.
    """
    pages = 0
    for _ in range(READS):
        walk = _walk(fetch, window.start - OVERLAP, window.end + OVERLAP)
        pages += walk.requests
        if walk.adds_up:
            parsed = [parse_call(item) for item in walk.items.values()]
            calls = [c for c in parsed if isinstance(c, CallLog) and c.started_at in window]
            aside = [
                c
                for c in parsed
                if isinstance(c, SetAsideCall) and (c.started_at is None or c.started_at in window)
            ]
            _refuse_drift(len(aside), len(parsed))
            calls.sort(key=lambda call: (call.started_at, call.call_id))
            return WindowRead(calls, aside, pages)
    raise PipelineError(
        FailureClass.INCOMPLETE,
        f"{len(walk.items)} calls arrived, total {walk.total}, {READS} reads",
    )


def _refuse_drift(aside: int, listed: int) -> None:
    """One bad call is set aside; many mean that the format changed, and nothing may be stored."""
    if aside > max(SET_ASIDE_AT_MOST, listed * SET_ASIDE_SHARE):
        raise PipelineError(FailureClass.MALFORMED, f"{aside} of {listed} calls cannot be read")


@dataclass(frozen=True)
class _Walk:
    """One pass over the list.

    Attributes:
        items: what arrived, by key.
        total: what the first answer said there would be; None if it did not say.
        ended: the list came to an end, it was not given up.
    """

    items: dict[str, Any]
    total: int | None
    requests: int
    ended: bool

    @property
    def adds_up(self) -> bool:
        return self.ended if self.total is None else len(self.items) == self.total


def _walk(fetch: FetchPage, start: datetime, end: datetime) -> _Walk:
    """Follow the list from its oldest call to its newest.

    Page numbers shift when a call vanishes while they are counted: the call that moves up onto a
    page already read is never seen. So the next request starts at the last call seen instead
    (1 ms before it, since the bound may be exclusive) and asks for page 1 again. Page numbers are
    used only where that cannot advance: more than a page of calls in one millisecond, or a list
    that does not come in ascending order.
    """
    items: dict[str, Any] = {}
    total: int | None = None
    requests, number, stale, cursor = 0, 1, 0, start
    while True:
        page = fetch(cursor, end, number)
        requests += 1
        if requests == 1:
            total = page.total
        before = len(items)
        items.update(_keyed(page.items))
        if len(page.items) < PAGE_SIZE:
            return _Walk(items, total, requests, ended=True)
        # A server that ignores the page number would be asked for ever.
        stale = stale + 1 if len(items) == before else 0
        if stale > 2:
            return _Walk(items, total, requests, ended=False)
        following = _where_to_go_on(page.items)
        if following is not None and following > cursor:
            cursor, number = following, 1
        else:
            number += 1


def _where_to_go_on(items: list[Any]) -> datetime | None:
    """1 ms before the last time of a page, so that a tie with it is seen whatever the bound means.

    None where that leads nowhere: the page is not ascending, or lies within that millisecond. A
    list that goes on from there would begin with calls already seen, and a page of one single
    instant does not even show that the list is ascending.
    """
    instants = [instant for item in items if (instant := _instant_of(item)) is not None]
    if not instants or any(a > b for a, b in itertools.pairwise(instants)):
        return None
    following = instants[-1] - timedelta(milliseconds=1)
    return following if instants[0] < following else None


def _instant_of(item: Any) -> datetime | None:
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


def parse_call(item: Any) -> CallLog | SetAsideCall:
    """Read one item, redacted. What is not as documented is kept in ``raw`` and left empty."""
    try:
        raw = redact(item)
    except RecursionError:
        raw = "nested too deeply"
    content_hash = hashlib.sha256(_canonical(raw).encode()).digest()
    if not isinstance(raw, dict):
        return SetAsideCall("the item is not a JSON object", content_hash, raw)
    started_at = _instant_of(raw)
    call_id = raw.get("id")
    if not isinstance(call_id, str) or not call_id:
        return SetAsideCall("the call has no id", content_hash, raw, started_at=started_at)
    if started_at is None:
        return SetAsideCall("the call has no readable createdAt", content_hash, raw, call_id)
    actions = raw.get("executedCallActions")
    return CallLog(
        call_id=call_id,
        started_at=started_at,
        content_hash=content_hash,
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


def unknown_actions(call: CallLog) -> list[str]:
    """The types of its actions that are none of the documented eight (REQUIREMENTS S7)."""
    kinds = (a.get("actionType") for a in call.executed_call_actions if isinstance(a, dict))
    return [kind for kind in kinds if isinstance(kind, str) and kind not in ACTION_TYPES]


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


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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

"""Reads a window of call logs page by page to the end of its list, and checks HighLevel's total.

It relies neither on the size of a page nor on the total: a page may be shorter than requested, and
the total may be absent or wrong (REQUIREMENTS S6). A window may hold a million calls, so they are
passed on page by page and not kept. Parsing a call is in ``calls.py``. No HTTP here: the caller
passes ``fetch``.
"""

import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from voiceai_pipeline.core.call import ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.calls import (
    PAGE_SIZE,
    Item,
    Page,
    call_or_set_aside,
    head_of,
    is_zone_assumed,
    set_aside,
)

OVERLAP: Final = timedelta(seconds=1)
"""Whether bounds are inclusive is unknown (CONTRACT 2.1), so more is requested, then filtered."""

SET_ASIDE_AT_MOST: Final = 5
SET_ASIDE_SHARE: Final = 0.05
"""A read with more unreadable items than both of these is rejected."""

STRAYS_AT_MOST: Final = 5
"""If more items than this are outside the requested time, the server ignores dates, and the items
belong to other days."""

READS: Final = 3
"""The most reads of a window until its calls add up to its total or two reads agree."""

_MILLISECOND: Final = timedelta(milliseconds=1)

FetchPage = Callable[[datetime, datetime, int], Page]
"""``(from, to, page number from 1) -> Page``: oldest call first; the bounds may or may not be
inclusive."""

Take = Callable[[list[ListedCall]], None]
"""Receives the calls of a read: each once, inside the window, oldest first."""


@dataclass(frozen=True)
class WindowRead:
    """A complete read of a window, whose calls have been passed on.

    Attributes:
        set_aside: items that cannot be stored; those without a time count as inside the window.
        pages: number of requests, including re-reads.
        total: number of calls in the list according to HighLevel; None if it does not say.
        count: distinct items in the list: inside the window, and up to ``OVERLAP`` around it.
        repeats: further items with the id of an earlier one.
        strays: ignored items of other days, listed because the server ignores dates.
    """

    set_aside: list[SetAsideCall]
    pages: int
    total: int | None
    count: int
    repeats: int = 0
    strays: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether HighLevel's total, if any, matches its list, with or without repeats."""
        return self.total is None or self.total in (self.count, self.count + self.repeats)


def read_window(fetch: FetchPage, window: Window, begin: Callable[[], Take]) -> WindowRead:
    """Read a window to the end of its list, until the items add up to HighLevel's total.

    If they do not, the list is re-read: calls may have arrived or vanished. If the next read finds
    exactly the same items, the total is wrong, and the list is accepted.

    Args:
        begin: called at the start of each read; returns the receiver of its calls. Each new read,
            and any exception raised, voids the calls passed on before.

    Raises:
        PipelineError: INCOMPLETE: in ``READS`` reads, the items did not add up and no two reads in
            a row agreed; MALFORMED: too many items are unreadable; or what the callables raise.
    """
    pages, in_order = 0, True
    before: _Walk | None = None
    for _ in range(READS):
        repeated = before.repeated if before else frozenset[int]()
        items = _Items(window, begin(), repeated)
        walk = _walk(fetch, window.start - OVERLAP, window.end + OVERLAP, items, in_order=in_order)
        pages += walk.requests
        read = items.read(walk, pages)
        is_same = before is not None and before.ended and before.content == walk.content
        if walk.ended and not walk.repeated and (read.adds_up or is_same):
            _refuse_drift(len(items.set_aside), items.count)
            return read
        in_order, before = walk.in_order, walk
    raise PipelineError(
        FailureClass.INCOMPLETE,
        f"{read.count} calls arrived, total {read.total}, {READS} reads",
    )


def _refuse_drift(aside: int, listed: int) -> None:
    """A few bad calls are set aside; many mean that the format has changed, and nothing may be
    stored."""
    if aside > max(SET_ASIDE_AT_MOST, listed * SET_ASIDE_SHARE):
        raise PipelineError(FailureClass.MALFORMED, f"{aside} of {listed} calls cannot be read")


def _no_marks() -> "array[int]":
    return array("q")


@dataclass
class _Items:
    """Receives the items of one pass: passes on calls, keeps the few items that are not calls.

    Attributes:
        expected: marks of items that the last pass passed on twice, with different times; now only
            the earliest is.
        count: distinct items so far.
        repeats: further items with the id of an earlier one.
        content: a fingerprint of the distinct items, whatever their order.
    """

    window: Window
    take: Take
    expected: frozenset[int] = frozenset()
    set_aside: list[SetAsideCall] = field(default_factory=list)
    count: int = 0
    repeats: int = 0
    content: int = 0
    _met: set[int] = field(default_factory=set)
    _marks: defaultdict[int, "array[int]"] = field(default_factory=lambda: defaultdict(_no_marks))

    def __call__(self, items: Iterable[tuple[str, Item]]) -> None:
        calls = []
        for key, item in items:
            mark = hash(key)
            if mark in self.expected:
                if mark in self._met:
                    self.repeats += 1
                    continue
                self._met.add(mark)
            self._marks[mark % 64].append(mark)
            self.count += 1
            self.content ^= mark
            if item.created_at is not None and item.created_at not in self.window:
                continue
            call = call_or_set_aside(item)
            if isinstance(call, ListedCall):
                calls.append(call)
            else:
                self.set_aside.append(call)
        calls.sort(key=lambda call: (call.started_at, call.call_id))
        self.take(calls)

    def take_strays(self, strays: Mapping[str, Item]) -> int:
        """Take items whose time is outside the requested times; return how many are ignored.

        A few are set aside, since perhaps no other day lists them. Of many, only those whose time
        has no zone are: in their own zone, it may be inside the window.
        """
        ignored = 0
        for key, item in strays.items():
            self.count += 1
            self.content ^= hash(key)
            if len(strays) > STRAYS_AT_MOST and not is_zone_assumed(item):
                ignored += 1
            else:
                self.set_aside.append(set_aside(item, "its time is not in these days"))
        return ignored

    def repeated(self) -> frozenset[int]:
        """Marks of items that were passed on twice. A mark takes 8 bytes, and marks are compared in
        64 parts to save memory: a window may hold a million calls."""
        found: set[int] = set()
        for marks in self._marks.values():
            if len(set(marks)) < len(marks):
                found |= {mark for mark, times in Counter(marks).items() if times > 1}
        return frozenset(found)

    def read(self, walk: "_Walk", pages: int) -> WindowRead:
        return WindowRead(self.set_aside, pages, walk.total, self.count, self.repeats, walk.strays)


@dataclass(frozen=True)
class _Walk:
    """One pass over the list.

    Attributes:
        total: according to the first page; None if it does not say.
        ended: the end of the list was reached.
        in_order: the list is ascending from the requested start, as far as it was read.
        content: ``_Items.content``.
        strays: items of other times that were ignored.
        repeated: ``_Items.repeated``.
    """

    total: int | None
    requests: int
    ended: bool
    in_order: bool
    content: int = 0
    strays: int = 0
    repeated: frozenset[int] = frozenset()


def _walk(
    fetch: FetchPage, start: datetime, end: datetime, items: _Items, *, in_order: bool
) -> _Walk:
    """Follow the list from the oldest call to the newest.

    Page numbers shift if a call disappears during the read: a call that moves to a page already
    read would be missed. Instead, each request asks for page 1 from the last call seen (1 ms before
    it, since the bound may be exclusive). Page numbers are used only if that cannot advance: more
    than a page of calls in one millisecond, or a list that is not ascending.

    The list ends with a response that is empty, whose own total is the number of its items, or
    that has nothing new and is shorter than others. Adding up to the first total does not prove the
    end: a late arrival can make up for a call that was not reached.

    Only items that may appear again are kept: calls from the start of the next request on, and
    items without a time. If the list is not in order, any item may appear again: the pass is
    abandoned, and the next one keeps the whole list.
    """
    held: dict[str, Item] = {}
    timeless: dict[str, Item] = {}
    strays: dict[str, Item] = {}
    twice: set[str] = set()
    near = Window(start - _MILLISECOND, end + 2 * _MILLISECOND)
    total: int | None = None
    requests, number, stale, cursor, longest = 0, 1, 0, start, 0

    def walk(*, ended: bool) -> _Walk:
        items(itertools.chain(held.items(), timeless.items()))
        ignored = items.take_strays(strays)
        items.repeats += len(twice)
        return _Walk(total, requests, ended, in_order, items.content, ignored, items.repeated())

    while True:
        page = fetch(cursor, end, number)
        requests += 1
        if requests == 1:
            total = page.total if page.total is None or page.total >= 0 else None
        listed = [head_of(sent) for sent in page.items]
        known = [at for item in listed if (at := item.created_at) is not None and at in near]
        if in_order and not _ascend(known, cursor):
            in_order = False
            if items.count:
                return _Walk(None, requests, ended=False, in_order=False)
        before = len(held) + len(timeless) + len(strays)
        keyed = list(_keyed(listed))
        for key, item in keyed:
            if item.created_at is None:
                timeless[key] = item
            elif item.created_at not in near:
                strays[key] = item
            elif key not in held or held[key].created_at == item.created_at:
                held[key] = item
        twice |= {key for key, times in Counter(key for key, _ in keyed).items() if times > 1}
        # The total is trusted only if the page is not full, as far as is known: it may be too low.
        is_short = len(listed) != PAGE_SIZE and (requests == 1 or len(listed) < longest)
        if not listed or (number == 1 and is_short and page.total == len(listed)):
            return walk(ended=True)
        is_new = len(held) + len(timeless) + len(strays) > before
        longest = max(longest, len(listed))
        if not is_new and len(listed) < longest:
            return walk(ended=True)
        # Stop asking a server that ignores the page number. If its pages are full, it may hold
        # back more calls of the same time.
        stale = 0 if is_new else stale + 1
        if stale > 2:
            return walk(ended=longest != PAGE_SIZE)
        following = _where_to_go_on(known)
        if following is None or following <= cursor:
            number += 1
            continue
        cursor, number = following, 1
        if in_order:
            over = [key for key, item in held.items() if _is_before(item, following)]
            items([(key, held.pop(key)) for key in over])
        # Stop early: a read that will be rejected need not be kept in memory.
        _refuse_drift(len(items.set_aside) + len(timeless), max(total or 0, items.count))


def _is_before(item: Item, instant: datetime) -> bool:
    return item.created_at is not None and item.created_at < instant


def _ascend(instants: list[datetime], start: datetime) -> bool:
    return all(a <= b for a, b in itertools.pairwise([start, *instants]))


def _where_to_go_on(instants: list[datetime]) -> datetime | None:
    """The start of the next request: 1 ms before the last time of a page, so that calls at that
    time are seen whether or not the bound is inclusive.

    None if the page is not ascending, or spans no more than that millisecond: then the next request
    would not advance, and a page of a single instant does not show that the list is ascending.
    """
    if not instants or not _ascend(instants, instants[0]):
        return None
    last = instants[-1]
    # HighLevel's dates are whole milliseconds.
    following = last - timedelta(microseconds=last.microsecond % 1000, milliseconds=1)
    return following if instants[0] < following else None


def _keyed(items: list[Item]) -> Iterator[tuple[str, Item]]:
    """Items with their keys: the id, or the content and its number among equal items."""
    equals: Counter[bytes] = Counter()
    for item in items:
        if item.call_id is not None:
            yield f"id {item.call_id}", item
        else:
            content = bytes(item.sent)
            equals[content] += 1
            yield f"{equals[content]} {content!r}", item

"""Reads a window of call logs page by page until the calls add up to HighLevel's total.

A window may hold a million calls: they are passed on page by page, and none is kept. Parsing a call
is in ``calls.py``. No HTTP here: the caller passes ``fetch``.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from voiceai_pipeline.core.call import ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.calls import PAGE_SIZE, Item, Page, call_or_set_aside, head_of

OVERLAP: Final = timedelta(seconds=1)
"""Whether the bounds are inclusive is unknown (CONTRACT 2.1): more is requested, and filtered."""

SET_ASIDE_AT_MOST: Final = 5
SET_ASIDE_SHARE: Final = 0.05
"""A read with more unreadable items than both of these is rejected."""

READS: Final = 3
"""Reads of a window, at most, while its calls do not add up to its total."""

FetchPage = Callable[[datetime, datetime, int], Page]
"""``(from, to, page number from 1) -> Page``: oldest call first, bounds included if possible."""

Take = Callable[[list[ListedCall]], None]
"""Receives the calls of a read: each once, inside the window, oldest first."""


@dataclass(frozen=True)
class WindowRead:
    """A complete read of a window, whose calls have been passed on.

    Attributes:
        set_aside: items that cannot be stored; those without a time count as inside the window.
        pages: requests made, re-reads included.
    """

    set_aside: list[SetAsideCall]
    pages: int


def read_window(fetch: FetchPage, window: Window, begin: Callable[[], Take]) -> WindowRead:
    """Read a window until the calls received add up to HighLevel's total.

    Args:
        begin: called at the start of each read; returns the receiver of its calls. Each new read,
            and any exception raised, voids the calls passed on before.

    Raises:
        PipelineError: INCOMPLETE if they do not add up after ``READS`` reads; whatever ``fetch``
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
    """A bad call is set aside; many mean that the format has changed: nothing may be stored."""
    if aside > max(SET_ASIDE_AT_MOST, listed * SET_ASIDE_SHARE):
        raise PipelineError(FailureClass.MALFORMED, f"{aside} of {listed} calls cannot be read")


@dataclass
class _Items:
    """Receives the items of one pass: passes on calls, keeps the few items that are not calls.

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
        total: according to the first page; None if it does not say.
        ended: the end of the list was reached.
        in_order: the list is ascending and within the dates, as far as it was read.
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
    """Follow the list from the oldest call to the newest.

    Page numbers shift if a call disappears during the read: the call that moves up to a page
    already read would be missed. Instead, each request starts at the last call seen (1 ms before
    it, since the bound may be exclusive) and asks for page 1. Page numbers are used only if that
    cannot advance: more than a page of calls in one millisecond, or a list that is not ascending.

    Only items that may appear again are kept: calls from the start of the next request on, and
    items without a time. If the list turns out not to be in order, any item may appear again: the
    pass is abandoned, and the next one keeps the whole list.
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
        # A server that ignores the page number would be asked forever.
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
            # Stop early: a read that will be rejected need not be kept in memory.
            _refuse_drift(len(items.set_aside) + len(timeless), total)


def _is_before(item: Item, instant: datetime) -> bool:
    return item.created_at is not None and item.created_at < instant


def _ascend(instants: list[datetime], start: datetime) -> bool:
    return all(a <= b for a, b in itertools.pairwise([start, *instants]))


def _where_to_go_on(instants: list[datetime]) -> datetime | None:
    """1 ms before the last time of a page, so that calls at the same time are seen whether or not
    the bound is inclusive.

    None if that does not advance: the page is not ascending, or all of it is within that
    millisecond. The next page would begin with calls already seen, and a page of a single instant
    does not show that the list is ascending.
    """
    if not instants or not _ascend(instants, instants[0]):
        return None
    last = instants[-1]
    # HighLevel's dates are whole milliseconds.
    following = last - timedelta(microseconds=last.microsecond % 1000, milliseconds=1)
    return following if instants[0] < following else None


def _keyed(items: list[Item]) -> Iterator[tuple[str, Item]]:
    """Items by id; an item without one by its content and its position among equal items."""
    equals: Counter[bytes] = Counter()
    for item in items:
        if item.call_id is not None:
            yield f"id {item.call_id}", item
        else:
            content = bytes(item.sent)
            equals[content] += 1
            yield f"{equals[content]} {content!r}", item

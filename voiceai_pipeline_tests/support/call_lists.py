"""Lists of calls that keep or break HighLevel's promises, and reads of them."""

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec

from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.highlevel.calls import (
    PAGE_SIZE,
    Page,
    as_sent,
    call_of,
)
from voiceai_pipeline.highlevel.window import FetchPage, Take, read_window

DAY = Window(
    dt.datetime(2026, 11, 19, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 20, tzinfo=dt.UTC),
)
MS = dt.timedelta(milliseconds=1)


def iso(instant: dt.datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def item(call_id: str = "call", at: dt.datetime = DAY.start, **fields: Any) -> dict[str, Any]:
    return {"id": call_id, "createdAt": iso(at)} | fields


@dataclass(frozen=True)
class WholeRead:
    """A read with the calls it passed on."""

    listed: list[ListedCall]
    set_aside: list[SetAsideCall]
    pages: int

    @property
    def calls(self) -> list[CallLog]:
        return [call_of(listed) for listed in self.listed]


def read_whole(fetch: FetchPage, window: Window) -> WholeRead:
    taken: list[ListedCall] = []

    def begin() -> Take:
        taken.clear()
        return taken.extend

    read = read_window(fetch, window, begin)
    return WholeRead(taken, read.set_aside, read.pages)


# A whole window, over a list that keeps its promises --------------------------------------------


@dataclass
class CallList:
    """HighLevel's list in memory: ascending, in pages of 50, while calls come and go.

    Attributes:
        calls: id to createdAt.
        churn: what happens before each request: how many calls vanish, how many arrive.
        existed: the calls that were there during the whole of the walk under way.
    """

    calls: dict[str, dt.datetime]
    inclusive: bool = True
    tells_total: bool = True
    churn: list[tuple[int, int]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    window: Window = DAY
    requests: int = 0
    existed: set[str] = field(default_factory=set)
    ever: dict[str, dt.datetime] = field(default_factory=dict)

    def __call__(self, start: dt.datetime, end: dt.datetime, page: int) -> Page:
        if self.requests < len(self.churn):
            self.come_and_go(*self.churn[self.requests])
        self.requests += 1
        self.ever |= self.calls
        if start == self.window.start - dt.timedelta(seconds=1) and page == 1:
            self.existed = set(self.calls)
        self.existed &= set(self.calls)
        listed = self.listed(start, end)
        part = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        return Page(part, len(listed) if self.tells_total else None)

    def listed(self, start: dt.datetime, end: dt.datetime) -> list[msgspec.Raw]:
        """Everything between two instants."""
        found = [
            (at, call_id)
            for call_id, at in self.calls.items()
            if (start <= at <= end if self.inclusive else start < at < end)
        ]
        return [as_sent(self.item(call_id, at)) for at, call_id in self.order(found)]

    def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
        return item(call_id, at)

    def order(self, listed: list[tuple[dt.datetime, str]]) -> list[tuple[dt.datetime, str]]:
        return sorted(listed)

    def come_and_go(self, vanish: int, arrive: int) -> None:
        for call_id in self.chance.sample(sorted(self.calls), min(vanish, len(self.calls))):
            del self.calls[call_id]
        span = (self.window.end - self.window.start) // MS
        for _ in range(arrive):
            at = self.window.start + self.chance.randrange(span) * MS
            self.calls[f"new{len(self.ever)}-{self.chance.random()}"] = at


def minutes(count: int) -> dict[str, dt.datetime]:
    """A call a minute from the day's start."""
    return {f"call{n}": DAY.start + n * dt.timedelta(minutes=1) for n in range(count)}


def spread(count: int, chance: random.Random, *, within: int, step: int = 1) -> dict[str, Any]:
    """``count`` calls at multiples of ``step`` ms in the first ``within`` ms around the start."""
    start = DAY.start - dt.timedelta(seconds=3)
    return {
        f"call{n}": start + chance.randrange(0, max(within, 1), step) * MS for n in range(count)
    }

"""A list is read to its end whatever its pages and its total are like (REQUIREMENTS S6)."""

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voiceai_pipeline.highlevel.calls import PAGE_SIZE, Page
from voiceai_pipeline.highlevel.window import FetchPage, WindowRead, read_window
from voiceai_pipeline_tests.support.call_lists import DAY, MS, CallList, minutes


@dataclass
class Server:
    """How a list is cut into pages, and what is said of it.

    Attributes:
        most: items of a page at most, whatever was asked for.
        hides: so many items at the end of a page show on the next one only.
        total: what is said of a number of matching items.
    """

    calls: CallList
    most: int = PAGE_SIZE
    hides: int = 0
    total: Callable[[int], int | None] = lambda count: count

    def __call__(self, start: dt.datetime, end: dt.datetime, number: int) -> Page:
        found = self.calls.listed(start, end)
        part = found[(number - 1) * self.most : number * self.most]
        if len(found) > number * self.most:
            part = part[: self.most - self.hides]
        return Page(part, self.total(len(found)))


TOTALS: dict[str, Callable[[int], int | None]] = {
    "right": lambda count: count,
    "absent": lambda _count: None,
    "zero": lambda _count: 0,
    "negative": lambda _count: -1,
    "capped": lambda count: min(count, 100),
    "one too few": lambda count: count - 1,
    "a thousand too many": lambda count: count + 1000,
}


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(0, 170),
    most=st.integers(12, PAGE_SIZE),
    hides=st.integers(0, 1),
    total=st.sampled_from(sorted(TOTALS)),
    inclusive=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_pages_and_the_total_are_like_all_that_is_listed_is_read(
    count: int, most: int, hides: int, total: str, inclusive: bool, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    places = chance.sample(range(86_400_000 // 7), count)
    calls = CallList(
        {f"call{n}": DAY.start + at * 7 * MS for n, at in enumerate(places)}, inclusive
    )
    read = read_window_of(Server(calls, most, hides, TOTALS[total]))
    assert read.count == count
    said = TOTALS[total](count)
    assert read.total == (said if said is None or said >= 0 else None)
    assert read.adds_up is (read.total in (None, count))


def read_window_of(fetch: FetchPage) -> WindowRead:
    return read_window(fetch, DAY, lambda: lambda _calls: None)


@pytest.mark.parametrize(
    ("server", "requests"),
    [
        (Server(CallList(minutes(45))), 1),
        (Server(CallList(minutes(45), tells_total=False), total=TOTALS["absent"]), 2),
        (Server(CallList(minutes(45)), most=20), 3),
        (Server(CallList(minutes(45)), most=20, total=TOTALS["absent"]), 4),
        (Server(CallList(minutes(120)), hides=1, total=TOTALS["absent"]), 4),
        (Server(CallList(minutes(160)), total=TOTALS["capped"]), 8),
        (Server(CallList(minutes(45)), total=TOTALS["zero"]), 4),
        (Server(CallList(minutes(45)), total=TOTALS["negative"]), 2),
    ],
)
def test_a_list_is_read_to_its_end_in_the_fewest_requests(server: Server, requests: int) -> None:
    assert read_window_of(server).pages == requests

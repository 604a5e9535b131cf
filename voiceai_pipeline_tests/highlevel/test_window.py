"""A window is read completely or not at all, whatever its list does to order, paging and total, and
whatever changes during the read.
"""

import datetime as dt
import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.calls import (
    PAGE_SIZE,
    Page,
    as_sent,
)
from voiceai_pipeline.highlevel.window import (
    SET_ASIDE_AT_MOST,
    FetchPage,
    Take,
    read_window,
)
from voiceai_pipeline_tests.support.call_lists import (
    DAY,
    MS,
    CallList,
    WholeRead,
    iso,
    item,
    read_whole,
    spread,
)
from voiceai_pipeline_tests.support.repetition import repeated, soak


def check(calls: CallList, read: WholeRead) -> None:
    found = [call.call_id for call in read.calls]
    assert len(found) == len(set(found)), "a call twice"
    assert all(call.started_at in DAY for call in read.calls), "a call outside the window"
    assert set(found) <= set(calls.ever)
    inside = {call_id for call_id in calls.existed if calls.ever[call_id] in DAY}
    assert inside <= set(found), "a call is missing that was there all the time"
    assert read.pages == calls.requests
    order = [(call.started_at, call.call_id) for call in read.calls]
    assert order == sorted(order)


def complete_or_nothing(calls: CallList) -> WholeRead | None:
    """A read that has been checked; None if it was refused as incomplete."""
    try:
        read = read_whole(calls, DAY)
    except PipelineError as error:
        if error.failure is not FailureClass.INCOMPLETE:
            raise
        return None
    check(calls, read)
    return read


@soak
@settings(max_examples=repeated(100, 1000), suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 260),
    within=st.sampled_from([200, 5_000, 86_406_000]),
    seed=st.integers(0, 2**32),
    churn=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    inclusive=st.booleans(),
    tells_total=st.booleans(),
)
def test_calls_that_come_and_go_between_pages_cost_no_other_call(
    count: int,
    within: int,
    seed: int,
    churn: list[tuple[int, int]],
    inclusive: bool,
    tells_total: bool,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    there = spread(count, chance, within=within)
    calls = CallList(there, inclusive, tells_total, churn, chance)
    read = complete_or_nothing(calls)
    if read is None:
        assert tells_total
        assert any(vanish or arrive for vanish, arrive in churn)


@soak
@settings(max_examples=repeated(50, 150))
@given(
    count=st.integers(0, 400),
    step=st.sampled_from([2, 7, 1000]),
    seed=st.integers(0, 2**32),
    inclusive=st.booleans(),
    tells_total=st.booleans(),
)
def test_a_list_that_stands_still_is_read_at_once(
    count: int, step: int, seed: int, inclusive: bool, tells_total: bool
) -> None:
    chance = random.Random(seed)  # noqa: S311
    places = chance.sample(range(86_400_000 // step), count)
    there = {f"call{n}": DAY.start + place * step * MS for n, place in enumerate(places)}
    calls = CallList(there, inclusive, tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == count
    assert read.pages <= math.ceil(count / 49) + 1


@pytest.mark.parametrize("inclusive", [True, False])
def test_a_call_at_midnight_belongs_to_the_day_that_begins(inclusive: bool) -> None:
    there = {
        "before": DAY.start - MS,
        "first": DAY.start,
        "last": DAY.end - MS,
        "after": DAY.end,
    }
    read = read_whole(CallList(there, inclusive), DAY)
    assert [call.call_id for call in read.calls] == ["first", "last"]


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize(("before", "tied"), [(0, 50), (0, 51), (30, 40), (10, 230), (49, 150)])
def test_more_than_a_page_of_calls_in_one_millisecond_are_all_read(
    inclusive: bool, tells_total: bool, before: int, tied: int
) -> None:
    noon = DAY.start + dt.timedelta(hours=12)
    there = {f"before{n}": noon - MS for n in range(before)}
    there |= {f"tied{n}": noon for n in range(tied)}
    there |= {f"after{n}": noon + (n + 1) * MS for n in range(60)}
    calls = CallList(there, inclusive, tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == before + tied + 60


@soak
@settings(max_examples=repeated(50, 200))
@given(st.integers(51, 200), st.lists(st.integers(0, 2), max_size=8), st.integers(0, 2**32))
def test_ties_that_vanish_between_page_numbers_are_noticed(
    tied: int, vanishing: list[int], seed: int
) -> None:
    noon = DAY.start + dt.timedelta(hours=12)
    calls = CallList(
        {f"tied{n}": noon for n in range(tied)},
        churn=[(0, 0)] + [(count, 0) for count in vanishing],
        chance=random.Random(seed),  # noqa: S311
    )
    complete_or_nothing(calls)


# A list that breaks its promises ------------------------------------------------------------------


class NewestFirst(CallList):
    def order(self, listed: list[tuple[dt.datetime, str]]) -> list[tuple[dt.datetime, str]]:
        return sorted(listed, reverse=True)


@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize("within", [2, 86_400_000])
def test_a_list_that_ignores_the_sort_order_is_read_all_the_same(
    tells_total: bool, within: int
) -> None:
    chance = random.Random(3)  # noqa: S311
    there = {f"call{n}": DAY.start + chance.randrange(within) * MS for n in range(230)}
    calls = NewestFirst(there, tells_total=tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == 230


def ignoring(calls: CallList, *, page: bool = False, dates: bool = False) -> FetchPage:
    wide = Window(DAY.start - dt.timedelta(days=400), DAY.end + dt.timedelta(days=400))

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        if dates:
            start, end = wide.start, wide.end
        return calls(start, end, 1 if page else number)

    return fetch


def test_a_list_that_ignores_page_numbers_is_read_by_its_dates() -> None:
    calls = CallList(spread(200, random.Random(4), within=86_400_000))  # noqa: S311
    read = read_whole(ignoring(calls, page=True), DAY)
    assert len(read.calls) == sum(at in DAY for at in calls.calls.values())


@pytest.mark.parametrize("tells_total", [True, False])
def test_ties_behind_ignored_page_numbers_end_as_incomplete(tells_total: bool) -> None:
    there = {f"tied{n}": DAY.start for n in range(60)}
    calls = CallList(there, tells_total=tells_total)
    with pytest.raises(PipelineError) as caught:
        read_whole(ignoring(calls, page=True), DAY)
    assert caught.value.failure is FailureClass.INCOMPLETE
    assert calls.requests < 30


def test_a_list_that_ignores_dates_gives_only_the_windows_calls() -> None:
    there = {f"call{n}": DAY.start + (n - 20) * dt.timedelta(hours=1) for n in range(45)}
    read = read_whole(ignoring(CallList(there), dates=True), DAY)
    assert len(read.calls) == 24


@pytest.mark.parametrize("tells_total", [True, False])
def test_a_long_list_that_ignores_dates_is_never_taken_for_complete(tells_total: bool) -> None:
    there = {f"call{n}": DAY.start + n * dt.timedelta(minutes=1) for n in range(400)}
    calls = CallList(there, tells_total=tells_total)
    with pytest.raises(PipelineError) as caught:
        read_whole(ignoring(calls, dates=True), DAY)
    assert caught.value.failure is FailureClass.INCOMPLETE


@pytest.mark.parametrize("tells_total", [True, False])
def test_times_finer_than_highlevels_dates_cost_no_call_and_no_second_read(
    tells_total: bool,
) -> None:
    """A date in a request is cut to milliseconds, and then shows calls before it again."""
    us = dt.timedelta(microseconds=1)
    there = {f"call{n}": DAY.start + n * 357 * us for n in range(300)}

    class Finer(CallList):
        def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
            return item(call_id) | {"createdAt": at.isoformat(timespec="microseconds")}

    calls = Finer(there, tells_total=tells_total)

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        return calls(start.replace(microsecond=start.microsecond // 1000 * 1000), end, number)

    read = read_whole(fetch, DAY)
    assert len(read.calls) == len({call.call_id for call in read.calls}) == 300
    assert read.pages == calls.requests <= 7 + (not tells_total)


def test_memory_stays_flat_while_a_long_list_is_in_order() -> None:
    """What was passed on is not kept: at most two pages of calls are waiting at any time."""
    there = {f"call{n}": DAY.start + n * MS * 10 for n in range(1_000)}
    calls = CallList(there)
    passed = 0
    most = 0

    def take(listed: list[ListedCall]) -> None:
        nonlocal passed, most
        most = max(most, min(calls.requests * PAGE_SIZE, 1_000) - passed)
        passed += len(listed)

    read_window(calls, DAY, lambda: take)
    assert passed == 1_000
    assert most <= 2 * PAGE_SIZE


def test_items_of_other_times_are_set_aside_unless_the_server_ignores_dates() -> None:
    """Many belong to other days, which list them too. One that names no zone may be of this one."""
    elsewhere = DAY.start - dt.timedelta(days=3)
    zoneless = {"id": "zoneless", "createdAt": "2026-11-17T05:00:00"}

    def listing(strays: int) -> FetchPage:
        items = [item(f"stray{n}", elsewhere + n * MS) for n in range(strays)]
        items += [zoneless, *(item(f"call{n}", DAY.start + n * MS) for n in range(30))]
        return lambda *_asked: Page([as_sent(one) for one in items], len(items))

    few, many = (read_whole(listing(strays), DAY) for strays in (2, 20))
    assert [len(read.calls) for read in (few, many)] == [30, 30]
    assert {call.call_id for call in few.set_aside} == {"stray0", "stray1", "zoneless"}
    assert [call.call_id for call in many.set_aside] == ["zoneless"]
    assert {call.reason for call in few.set_aside} == {"its time is not in these days"}


def test_a_list_that_turns_out_not_to_be_in_order_is_re_read_and_passed_on_again() -> None:
    """Some of it has been passed on when it shows, and that may be listed again."""
    there = {f"call{n:03}": DAY.start + n * dt.timedelta(minutes=5) for n in range(130)}
    calls = CallList(there)

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        return calls(DAY.start, DAY.end, number)  # the dates are ignored, page numbers are not

    began: list[list[ListedCall]] = []

    def begin() -> Take:
        began.append([])
        return began[-1].extend

    read_window(fetch, DAY, begin)
    assert [bool(taken) for taken in began] == [True, True]
    assert [call.call_id for call in began[-1]] == sorted(there)


def test_a_call_that_is_listed_twice_is_one_call() -> None:
    """Next to itself, or once more at another time: then the earlier one is the call."""
    there = [item(f"call{n}", DAY.start + n * dt.timedelta(minutes=1)) for n in range(120)]
    again = [there[7], item("call9", DAY.start + dt.timedelta(hours=23), summary="later")]
    read = read_whole(once([*there, *again]), DAY)
    assert len(read.calls) == len({call.call_id for call in read.calls}) == 120
    assert {call.summary for call in read.calls} == {None}


def test_a_total_that_comes_right_is_read_again() -> None:
    there = {f"call{n}": DAY.start + n * dt.timedelta(minutes=1) for n in range(120)}
    calls = CallList(there, churn=[(0, 0), (0, 1)])
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == 121
    assert read.pages == 6


def test_what_the_fetch_raises_comes_through() -> None:
    def fetch(*_asked: object) -> Page:
        raise PipelineError(FailureClass.RATE_LIMITED)

    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, DAY)
    assert caught.value.failure is FailureClass.RATE_LIMITED


# Items that cannot be stored ----------------------------------------------------------------------


def once(items: list[Any]) -> FetchPage:
    """A list that stands still: what has a time comes in its order, after what has none."""

    def fetch(start: dt.datetime, end: dt.datetime, page: int) -> Page:
        times = [one.get("createdAt", "") if isinstance(one, dict) else "" for one in items]
        order = sorted(range(len(items)), key=lambda n: times[n])
        listed = [items[n] for n in order if not times[n] or iso(start) <= times[n] <= iso(end)]
        part = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        return Page([as_sent(one) for one in part], len(listed))

    return fetch


def test_a_few_unreadable_items_are_set_aside_and_the_others_stored() -> None:
    items: list[Any] = [item(f"call{n}") for n in range(10)]
    items += [{"createdAt": iso(DAY.start)}, {"id": "x"}, "odd", None]
    read = read_whole(once(items), DAY)
    assert len(read.calls) == 10
    assert len(read.set_aside) == 4


def test_equal_items_without_id_are_counted_one_by_one() -> None:
    read = read_whole(once([None, None, {}, {}, item()]), DAY)
    assert (len(read.calls), len(read.set_aside)) == (1, 4)


def test_an_unreadable_item_outside_the_window_is_left_to_its_own_day() -> None:
    read = read_whole(once([{"createdAt": iso(DAY.end)}, item()]), DAY)
    assert (len(read.calls), len(read.set_aside)) == (1, 0)


def test_unreadable_times_do_not_stop_the_way_through_the_list() -> None:
    class Unclear(CallList):
        def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
            unclear = call_id in ("call30", "call49", "call120")
            return item(call_id, at) | ({"createdAt": "soon"} if unclear else {})

    calls = Unclear({f"call{n}": DAY.start + n * dt.timedelta(minutes=5) for n in range(180)})
    read = read_whole(calls, DAY)
    assert len(read.calls) == 177
    assert len(read.set_aside) == 3


@pytest.mark.parametrize(
    ("readable", "unreadable", "refused"),
    [
        (0, SET_ASIDE_AT_MOST, False),
        (0, SET_ASIDE_AT_MOST + 1, True),
        (10, SET_ASIDE_AT_MOST + 1, True),
        (190, 10, False),
        (189, 11, True),
    ],
)
def test_a_window_of_too_many_unreadable_items_is_refused(
    readable: int, unreadable: int, refused: bool
) -> None:
    items: list[Any] = [{"odd": n, "createdAt": iso(DAY.start)} for n in range(unreadable)]
    items += [item(f"call{n}", DAY.start + n * MS) for n in range(readable)]
    fetch = once(items)
    if not refused:
        assert len(read_whole(fetch, DAY).set_aside) == unreadable
        return
    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, DAY)
    assert caught.value.failure is FailureClass.MALFORMED

"""Numbers as texts: differences with their size, small samples marked, unknown never 0."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from voiceai_pipeline.marts.insights import BUCKETS, SUMS, Days, DaySums, Scope
from voiceai_pipeline.web.insight_numbers import UNKNOWN, Change, change, coverage, points, sums

DAYS, BEFORE = Days(date(2026, 11, 18), date(2026, 11, 19)), Days(date(2026, 11, 11),
                                                                  date(2026, 11, 12))  # fmt: skip


@pytest.mark.parametrize(
    ("now", "before", "shown"),
    [
        (40, 32, Change("+8 (+25 %)", "up")),
        (32, 40, Change("-8 (-20 %)", "down")),
        (1_040, 1_040, Change("no change")),
        (19, 3, Change("+16 (+533 %)", "up", is_small=True)),
        (25, 0, Change("+25", "up")),
        (0, None, Change(UNKNOWN)),
        (None, 5, Change(UNKNOWN)),
    ],
)
def test_a_difference_has_its_size_and_is_marked_where_it_says_little(
    now: int | None, before: int | None, shown: Change
) -> None:
    assert change("calls", now, before) == shown


def test_a_difference_of_shares_is_in_points_and_needs_both() -> None:
    def of(over: int, under: int) -> Mapping[str, Any]:
        return {"goal": over, "engaged": under}

    assert points(of(10, 40), of(5, 40), "goal", "engaged") == Change("+12 points", "up")
    assert points(of(1, 4), of(5, 40), "goal", "engaged").is_small
    assert points(of(0, 0), of(5, 40), "goal", "engaged").text == UNKNOWN
    assert points(of(0, 9), None, "goal", "engaged").text == UNKNOWN


def day(day: date, read: int = 2, complete: int = 2, locations: int = 2, calls: int = 3) -> DaySums:
    found = dict.fromkeys((*SUMS, *BUCKETS), calls if read else None)
    return DaySums(day, locations, read, complete, found)


def test_days_that_were_not_all_read_compare_with_nothing() -> None:
    half = [day(BEFORE.first), day(BEFORE.last, read=0, complete=0)]
    whole = sums([*half, day(DAYS.first)], BEFORE)
    assert whole is not None
    assert whole["calls"] == 3
    assert sums(half, BEFORE, of_all=True) is None
    assert sums([day(BEFORE.last, read=0, complete=0)], BEFORE) is None


def test_what_is_missing_is_said_in_a_sentence() -> None:
    scope = Scope(DAYS, BEFORE)
    every = [day(BEFORE.first), day(BEFORE.last), day(DAYS.first), day(DAYS.last)]
    assert coverage(every, scope) == []
    lacking = [
        day(BEFORE.first, locations=1, read=1, complete=1), every[2], day(DAYS.last, complete=1),
    ]  # fmt: skip
    assert coverage(lacking, scope) == [
        "1 of these days was not read completely.",
        "1 of the days before was never read.",
        "1 of the days before was read for fewer locations.",
    ]  # fmt: skip

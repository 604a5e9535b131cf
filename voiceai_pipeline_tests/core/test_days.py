"""Days neither overlap nor leave a gap, and are as long as the clocks make them."""

from datetime import UTC, date, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.core.days import DaysError, Window, days_to_sync, stretches


@given(
    st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Pacific/Auckland"]),
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(0, 26 * 3600),
)
def test_an_instant_lies_in_exactly_one_day(name: str, day: date, seconds: int) -> None:
    zone = ZoneInfo(name)
    instant = Window.of_day(day, zone).start + timedelta(seconds=seconds)
    around = [day + timedelta(days=n) for n in range(-2, 4)]
    assert [d for d in around if instant in Window.of_day(d, zone)] == [
        instant.astimezone(zone).date()
    ]


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25), (date(2026, 6, 1), 24)],
)
def test_days_are_as_long_as_the_clocks_make_them(day: date, hours: int) -> None:
    window = Window.of_day(day, ZoneInfo("America/New_York"))
    assert window.end - window.start == timedelta(hours=hours)
    assert window.start in window
    assert window.end not in window
    assert window.start.tzinfo is UTC


def test_stretches_are_runs_of_days() -> None:
    days = [date(2026, 11, 18) + timedelta(days=n) for n in (0, 1, 2, 5, 6, 9)]
    assert [len(run) for run in stretches(days)] == [3, 2, 1]
    assert [len(run) for run in stretches(days, at_most=2)] == [2, 1, 2, 1]
    assert stretches([]) == []


def test_days_to_sync_include_the_first_and_the_last() -> None:
    first, today = date(2026, 11, 18), date(2026, 11, 20)
    days = days_to_sync(first, today, earliest=first, today=today)
    assert days == [first, date(2026, 11, 19), today]


@pytest.mark.parametrize(
    ("first", "last", "sentence"),
    [
        (date(2026, 11, 18), date(2026, 11, 21), "2026-11-21 is in the future"),
        (date(2026, 10, 31), date(2026, 11, 20), "2026-10-31 is before 2026-11-01, the first day"),
        (date(2026, 11, 19), date(2026, 11, 18), "2026-11-18 is before 2026-11-19. Enter"),
    ],
)
def test_days_that_cannot_be_synced_are_refused_with_a_sentence(
    first: date, last: date, sentence: str
) -> None:
    with pytest.raises(DaysError, match=sentence):
        days_to_sync(first, last, earliest=date(2026, 11, 1), today=date(2026, 11, 20))


def test_days_that_are_no_longer_kept_are_refused_with_what_to_change() -> None:
    """The command line and the pages ask here."""
    today, kept = date(2026, 11, 20), date(2026, 9, 1)
    with pytest.raises(DaysError) as refused:
        days_to_sync(date(2026, 8, 31), kept, earliest=date(2025, 1, 1), today=today, keep_days=60)
    assert str(refused.value) == (
        "2026-08-31 is before 2026-09-01: calls before that are no longer kept "
        "(VOICEAI_KEEP_CALLS_DAYS is 60). Choose a later day, or set a higher number and restart."
    )
    assert days_to_sync(kept, kept, earliest=kept, today=today, keep_days=60) == [kept]

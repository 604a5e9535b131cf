"""What is usual for a weekday, and what stands out."""

import random
from datetime import date, timedelta

from voiceai_pipeline.calls import volume_anomalies
from voiceai_pipeline.calls.volume_anomalies import Band, judge, usual_band

MONDAY = date(2026, 11, 23)


def weeks(location: str, calls: list[int], day: date = MONDAY) -> dict[tuple[str, date], int]:
    """``calls`` of ``day``, and of the same weekday before it, newest first."""
    return {(location, day - timedelta(weeks=ago)): number for ago, number in enumerate(calls)}


def test_nothing_is_said_before_there_are_four_weeks_to_compare_with() -> None:
    assert usual_band([50, 50, 50]) is None
    assert usual_band([50, 50, 50, 50]) == Band(26, 74, 4)
    assert judge(weeks("A", [0, 50, 50, 50]), [MONDAY]) == []


def test_one_odd_week_widens_nothing() -> None:
    calm = usual_band([50, 52, 48, 50, 51, 49, 50, 50])
    assert calm == usual_band([50, 52, 48, 50, 51, 49, 50, 5_000])
    assert calm is not None
    assert 25 not in calm
    assert 75 not in calm


def test_weeks_that_differ_widely_make_a_wide_band() -> None:
    band = usual_band([20, 80, 30, 90, 25, 85, 40, 70])
    assert band is not None
    assert 10 in band
    assert 120 in band


def test_a_day_without_calls_stands_out_where_there_always_are_some_and_only_there() -> None:
    counts = weeks("Busy", [0] + [14] * 8) | weeks("Quiet", [0] + [3] * 8)
    odd = [one for one in judge(counts, [MONDAY]) if not one.is_usual]
    assert [(one.location_id, one.calls, one.band.low) for one in odd] == [
        (None, 0, 3),
        ("Busy", 0, 1),
    ]


def test_a_new_location_is_no_rise_and_an_unread_week_no_fall() -> None:
    old = weeks("Old", [100] * 9)
    del old["Old", MONDAY - timedelta(weeks=2)]
    judged = judge(old | weeks("New", [500, 500]), [MONDAY])
    assert [(one.location_id, one.calls, one.is_usual) for one in judged] == [
        (None, 100, True),
        ("Old", 100, True),
    ]
    assert judged[0].band.weeks == 7


def test_only_the_same_weekday_is_compared() -> None:
    sunday = MONDAY - timedelta(days=1)
    counts = weeks("A", [100] * 9) | weeks("A", [0] * 9, sunday)
    assert all(one.is_usual for one in judge(counts, [sunday, MONDAY]))
    needed = volume_anomalies.days_needed([MONDAY])
    assert {day.weekday() for day in needed} == {0}
    assert len(needed) == volume_anomalies.WEEKS + 1


def test_calls_that_come_by_chance_alone_seldom_stand_out() -> None:
    chance = random.Random(7)  # noqa: S311 - a simulation
    counts = {
        (f"L{location}", MONDAY - timedelta(days=ago)): sum(
            chance.random() < 0.1 for _ in range(10 * (1 + location))
        )
        for location in range(60)
        for ago in range(100)
    }
    days = [MONDAY - timedelta(days=ago) for ago in range(40)]
    judged = judge(counts, days)
    assert len(judged) == 61 * 40
    assert sum(not one.is_usual for one in judged) < 0.005 * len(judged)

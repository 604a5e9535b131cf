"""The demo's story: growth, weekdays, and agents that get better or worse."""

import datetime as dt
from collections.abc import Sequence

import pytest

from voiceai_pipeline.sandbox.calls import Call, calls_of_day, outline_of_day
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, SandboxLocation, with_stories
from voiceai_pipeline.sandbox.story import WEEKS

FIRST = dt.date(2026, 10, 5)
TOLD = {one.name: one for one in with_stories(DEMO_LOCATIONS, FIRST)}


def week(location: SandboxLocation, number: int) -> list[Call]:
    """The calls of a week of the story, the first is 0."""
    days = [FIRST + dt.timedelta(days=7 * number + ahead) for ahead in range(7)]
    return [call for day in days for call in outline_of_day(1, location, day)]


def half(location: SandboxLocation, numbers: Sequence[int], agent: int) -> list[Call]:
    return [
        call
        for number in numbers
        for call in week(location, number)
        if call.agent_id == location.agents[agent].id
    ]


def share_booked(calls: Sequence[Call]) -> float:
    talked = [call for call in calls if call.duration > 0]
    return sum("APPOINTMENT_BOOKING" in call.action_types for call in talked) / len(talked)


def test_a_business_grows_for_eight_weeks_and_then_stays() -> None:
    harbor = TOLD["Harbor Dental"]
    sizes = [len(week(harbor, number)) for number in range(20)]

    assert 1.3 < sum(sizes[6:9]) / sum(sizes[:3]) < 1.6
    assert 0.9 < sum(sizes[15:20]) / sum(sizes[10:15]) < 1.1
    assert sum(sizes[6:8]) / 2 == pytest.approx(7 * 0.8 * harbor.calls_per_day, rel=0.2)


def test_one_agent_gets_better_and_one_gets_worse() -> None:
    first, last = range(2), range(WEEKS - 2, WEEKS)
    harbor, sunrise = TOLD["Harbor Dental"], TOLD["Sunrise Clinic"]

    assert share_booked(half(harbor, last, 0)) > share_booked(half(harbor, first, 0)) + 0.15
    assert share_booked(half(sunrise, last, 0)) < share_booked(half(sunrise, first, 0)) - 0.1
    assert share_booked(half(harbor, last, 1)) == pytest.approx(
        share_booked(half(harbor, first, 1)), abs=0.1
    )


def test_an_office_has_busy_mondays_and_a_caterer_busy_saturdays() -> None:
    def calls_on(name: str, weekday: int) -> int:
        days = (FIRST + dt.timedelta(days=7 * number + weekday) for number in range(WEEKS))
        return sum(len(outline_of_day(1, TOLD[name], day)) for day in days)

    assert calls_on("Harbor Dental", 0) > 2 * calls_on("Harbor Dental", 5)
    assert calls_on("Copper Kettle Catering", 5) > 1.5 * calls_on("Copper Kettle Catering", 0)


def test_a_story_is_the_same_each_time_and_without_one_no_call_changes() -> None:
    harbor = next(one for one in DEMO_LOCATIONS if one.name == "Harbor Dental")
    told = calls_of_day(1, TOLD["Harbor Dental"], FIRST)
    outline_of_day.cache_clear()

    assert calls_of_day(1, TOLD["Harbor Dental"], FIRST) == told
    assert calls_of_day(1, harbor, FIRST) != told

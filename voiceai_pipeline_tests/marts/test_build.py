"""Builds: local days, completeness, publication only if numbers add up, no personal data."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.mart_tables import MARTS
from voiceai_pipeline.marts import metrics
from voiceai_pipeline.marts.call_reader import LedgerDay
from voiceai_pipeline.marts.mart_status import read_windows
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk


def test_a_day_is_the_locations_own_and_23_or_25_hours_long_when_clocks_change(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "America/New_York")
    book.read(LOCATION, date(2026, 10, 30), date(2026, 11, 3))
    for hour in range(28):  # 1 November starts at 04:00 UTC and ends at 05:00 UTC
        book.call(LOCATION, datetime(2026, 11, 1, 3, 30, tzinfo=UTC) + timedelta(hours=hour))
    first, second = date(2026, 11, 1), date(2026, 11, 2)
    desk.build(first - DAY, first, second)
    assert [desk.row(day)["calls"] for day in (first - DAY, first, second)] == [1, 25, 2]
    hours = {row["hour"]: row["calls"] for row in desk.rows("hourly_activity", day=first)}
    assert hours == {hour: 2 if hour == 1 else 1 for hour in range(24)}
    assert {row["weekday"] for row in desk.rows("hourly_activity", day=first)} == {7}


def test_a_location_without_a_time_zone_gets_the_pipelines_and_is_marked(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, None)
    book.location("LocZoned", "Europe/Berlin")
    for location_id in (LOCATION, "LocZoned"):
        book.read(location_id, D - DAY, D + DAY)
        book.call(location_id, datetime(2026, 11, 10, 23, 30, tzinfo=UTC))
    desk.build(D, D + DAY)
    here, there = desk.row(location_id=LOCATION), desk.row(location_id="LocZoned")
    assert (here["timezone"], here["is_timezone_assumed"], here["calls"]) == ("UTC", True, 1)
    zoned = ("Europe/Berlin", False, 0)
    assert (there["timezone"], there["is_timezone_assumed"], there["calls"]) == zoned
    assert desk.row(D + DAY, location_id="LocZoned")["calls"] == 1


def test_a_day_is_complete_once_it_has_been_read_to_its_local_end(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "America/New_York")  # the day ends at 05:00 UTC of the next one
    end = datetime(2026, 11, 11, 5, tzinfo=UTC)
    book.read(LOCATION, D - DAY, D + DAY, until=end - timedelta(seconds=1))
    desk.build(D)
    row = desk.row()
    assert row["is_complete"] is False
    assert row["calls_known_until"] == end - timedelta(seconds=1)
    assert row["incomplete_sync_days"] == 1
    book.read(LOCATION, D + DAY, D + DAY, until=end)
    desk.build(D)
    assert desk.row()["is_complete"] is True
    book.read(LOCATION, D + DAY, D + DAY)
    desk.build(D)
    assert desk.row()["calls_known_until"] == end  # a read beyond it is of another day
    book.read(LOCATION, D, D, state="failed")
    desk.build(D)
    assert desk.row()["is_complete"] is False
    assert desk.row()["calls_known_until"] is None  # not even from its start, at 05:00 UTC


def test_a_failed_read_is_a_new_entry_but_no_successful_sync(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    good, bad = (datetime(2026, 11, 12, hour, tzinfo=UTC) for hour in (1, 2))
    book.read(LOCATION, D - DAY, D, finished_at=good)
    book.read(LOCATION, D + DAY, D + DAY, state="failed", finished_at=bad)
    desk.build(D)
    assert desk.row()["last_successful_sync_at"] == good
    assert desk.row()["synced_at"] == bad


def test_a_day_without_a_read_and_without_calls_has_no_row(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    desk.build(D - DAY, D, D + DAY)
    assert [row["day"] for row in desk.rows("daily_call_metrics")] == [D]
    assert desk.row()["engagement_rate"] is None  # nothing to divide by
    assert desk.row()["is_small_sample"] is True


def test_bookings_are_not_comparable_before_highlevel_reported_them(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    days = (date(2025, 9, 8), date(2025, 9, 9))
    book.read(LOCATION, *days)
    desk.build(*days)
    assert [desk.row(day)["is_goal_comparable"] for day in days] == [False, True]
    assert desk.row(days[0])["goal_actions"] == "APPOINTMENT_BOOKING"
    desk.build(*days, rules=MetricRules(goal_actions=("SMS", "CUSTOM_ACTION")))
    assert [desk.row(day)["is_goal_comparable"] for day in days] == [True, True]
    assert desk.row(days[0])["goal_actions"] == "SMS,CUSTOM_ACTION"


def test_read_windows_join_where_one_day_meets_the_next() -> None:
    def entry(day: date, until: datetime | None) -> LedgerDay:
        return LedgerDay(day, until, None, None)

    at = datetime(2026, 11, 10, tzinfo=UTC)
    noon = timedelta(hours=12)
    entries = [
        entry(D, at + DAY),
        entry(D + DAY, at + 2 * DAY),
        entry(D + 2 * DAY, None),
        entry(D + 3 * DAY, at + 3 * DAY + noon),
        entry(D + 4 * DAY, at + 5 * DAY),
    ]
    assert list(read_windows(entries, UTC_ZONE)) == [
        Window(at, at + 2 * DAY),
        Window(at + 3 * DAY, at + 3 * DAY + noon),
        Window(at + 4 * DAY, at + 5 * DAY),
    ]


@pytest.mark.parametrize(
    ("part", "mart"),
    [
        ("_daily", "daily_call_metrics"),
        ("_agents", "agent_performance"),
        ("_hours", "hourly_activity"),
        ("_actions", "action_metrics"),
    ],
)
def test_a_mart_that_does_not_add_up_is_not_published(
    book: Book, desk: Desk, monkeypatch: pytest.MonkeyPatch, part: str, mart: str
) -> None:
    for location_id in (LOCATION, "LocGood"):
        book.location(location_id, "UTC")
        book.read(location_id, D, D)
        book.call(location_id, datetime(2026, 11, 10, 12, tzinfo=UTC))
    desk.build(D)
    for location_id in (LOCATION, "LocGood"):
        sent = [{"actionType": "SMS"}]
        book.call(location_id, datetime(2026, 11, 10, 13, tzinfo=UTC), executed_call_actions=sent)
    whole = getattr(metrics, part)

    def loses_a_location(*given: Any) -> pd.DataFrame:
        frame: pd.DataFrame = whole(*given)
        return frame[frame["location"] != LOCATION]

    monkeypatch.setattr(metrics, part, loses_a_location)
    built = desk.marts().build([D])
    assert len(built.disagreements) == 1
    assert f"{mart}, 2026-11-10, location LocHere" in built.disagreements[0]
    assert desk.row(location_id=LOCATION)["calls"] == 1
    assert desk.row(location_id="LocGood")["calls"] == 2


def test_no_mart_contains_a_number_a_caller_or_a_word_of_a_call(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "America/New_York")
    book.read(LOCATION, D - DAY, D + DAY)
    book.at_random(LOCATION, D, D, 300)
    desk.build(D - DAY, D)
    for text in _texts(desk):
        assert not re.search(r"\+?1? ?555|@|contact-|call-\d|patient|Hello|Pat", text), text


def _texts(desk: Desk) -> Iterator[str]:
    for table in MARTS:
        rows = desk.rows(table.name)
        assert rows
        for row in rows:
            yield from (value for value in row.values() if isinstance(value, str))

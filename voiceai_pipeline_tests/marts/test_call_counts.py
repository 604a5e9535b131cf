"""What a call contributes: engagement, containment, working hours."""

import json
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline_tests.support.mart_calls import DAY, WEEKDAYS, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk


def test_a_call_is_engaged_from_two_turns_and_ten_seconds_or_as_configured(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for turns in (1, 2, 3):
        for seconds in (9.999, 10, 20):
            book.call(LOCATION, noon, transcript="\nhuman:So" * turns, duration_seconds=seconds)
    desk.build(D)
    assert desk.row()["engaged_calls"] == 4
    desk.build(D, rules=MetricRules(engaged_turns=3, engaged_seconds=20))
    assert desk.row()["engaged_calls"] == 1
    assert desk.row()["short_calls"] == 3


def test_strict_containment_is_judged_only_once_the_next_24_hours_are_read(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.read(LOCATION, D, D + DAY, until=noon + DAY - timedelta(seconds=1))
    book.call(LOCATION, noon, contact_id=None, from_number="+15550000001")
    desk.build(D)
    assert (desk.row()["strictly_judged_calls"], desk.row()["contained_calls"]) == (0, 1)
    book.read(LOCATION, D + DAY, D + DAY, until=noon + DAY)
    desk.build(D)
    assert desk.row()["strictly_contained_calls"] == 1
    book.call(LOCATION, noon + DAY, contact_id=None, from_number="+15550000001")
    desk.build(D)
    assert desk.row()["strictly_judged_calls"] == 1
    assert desk.row()["strictly_contained_calls"] == 0


def test_working_hours_to_23_59_end_at_midnight_and_unreadable_ones_count_as_none(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    book.call(LOCATION, datetime(2026, 11, 10, 23, 59, 30, tzinfo=UTC))
    book.call(LOCATION, datetime(2026, 11, 10, 12, 45, tzinfo=UTC))  # at lunch
    desk.build(D)
    assert (desk.row()["hours_known_calls"], desk.row()["after_hours_calls"]) == (2, 1)
    endless = {"startHour": 10**30, "startMinute": 0, "endHour": 17, "endMinute": 0}
    for odd in ({}, {"dayOfTheWeek": 1, "intervals": [endless]}):
        with book.engine.begin() as db:
            db.execute(
                sa.text(
                    "UPDATE voiceai_agents SET raw = raw || jsonb_build_object("
                    "'maxCallDuration', 1e400::numeric, 'agentWorkingHours', "
                    "CAST(:odd AS jsonb)) WHERE agent_id = 'agent-days'"
                ),
                {"odd": json.dumps([*WEEKDAYS, odd])},
            )
        desk.build(D)
        assert (desk.row()["hours_known_calls"], desk.row()["after_hours_rate"]) == (0, None)
    assert desk.row()["calls_at_max_duration"] == 0

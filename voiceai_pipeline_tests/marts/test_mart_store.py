"""Which marts are stale: after newer ledger entries, for another time zone, by other rules."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts.build import stale_days
from voiceai_pipeline.marts.mart_store import MartState
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk


def test_a_late_edit_and_a_vanished_call_change_every_number_that_depends_on_them(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    last = D + 9 * DAY
    book.read(LOCATION, D - 14 * DAY, last)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    caller = {"contact_id": "contact-a"}
    late = book.call(LOCATION, noon, transcript="", summary="", **caller)
    book.call(LOCATION, noon - timedelta(hours=20), **caller)
    book.call(LOCATION, noon + 6 * DAY, **caller)
    desk.settle()
    before = {row["day"]: row for row in desk.rows("daily_call_metrics")}
    assert before[D]["engaged_calls"] == 0
    assert before[D - DAY]["called_back_calls"] == 1
    assert before[D + 6 * DAY]["repeat_callers_7d"] == 1
    with book.engine.begin() as db:
        db.execute(
            sa.text("UPDATE call_logs SET transcript = E'human:Hi\nhuman:Bye' WHERE call_id = :id"),
            {"id": late},
        )
    book.read(LOCATION, D, D, finished_at=desk.now)
    desk.settle()
    assert desk.row()["engaged_calls"] == 1
    assert desk.row()["calls_without_transcript"] == 0
    with book.engine.begin() as db:
        db.execute(
            sa.text("UPDATE call_logs SET missing_since = now() WHERE call_id = :id"), {"id": late}
        )
    book.read(LOCATION, D, D, finished_at=desk.now + timedelta(hours=1))
    desk.settle()
    after = {row["day"]: row for row in desk.rows("daily_call_metrics")}
    assert (after[D]["calls"], after[D]["missing_calls"]) == (0, 1)
    assert after[D - DAY]["called_back_calls"] == 0
    assert after[D + 6 * DAY]["repeat_callers_7d"] == 0
    assert after[D + 7 * DAY]["calls_previous_7d"] == before[D + 7 * DAY]["calls_previous_7d"] - 1
    assert desk.rows("agent_performance", day=D)[0]["calls"] == 0


def test_a_new_time_zone_and_changed_rules_make_every_day_stale(book: Book, desk: Desk) -> None:
    book.location(LOCATION, None)
    book.read(LOCATION, D, D + DAY)
    desk.settle()
    assert desk.stale(MetricRules(engaged_turns=3)) == {D: {LOCATION}, D + DAY: {LOCATION}}
    with book.engine.begin() as db:
        db.execute(sa.text("UPDATE locations SET timezone = 'Europe/Berlin'"))
    assert set(desk.stale()) >= {D, D + DAY}
    desk.settle()
    assert {row["timezone"] for row in desk.rows("daily_call_metrics")} == {"Europe/Berlin"}


def test_a_newer_entry_makes_stale_the_days_that_depend_on_it_and_no_others() -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    built = {("Loc", D + n * DAY): MartState(at - DAY, "UTC", "rules") for n in range(-30, 30)}
    stale = stale_days({("Loc", D): at}, built, {"Loc": UTC_ZONE}, UTC_ZONE)
    assert stale == {("Loc", D + n * DAY) for n in range(-2, 15)}
    seen = {cell: MartState(at, "UTC", "rules") for cell in built}
    assert stale_days({("Loc", D): at}, seen, {}, UTC_ZONE) == set()
    auckland = {"Loc": ZoneInfo("Pacific/Auckland")}
    missing = stale_days({("Loc", D): at}, {}, auckland, UTC_ZONE)
    assert missing == {("Loc", D), ("Loc", D + DAY)}


def test_a_check_that_found_nothing_is_continued_where_it_stopped(
    book: Book, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D + 4 * DAY)
    desk.settle()
    monkeypatch.setattr("voiceai_pipeline.marts.build.ENTRIES_AT_ONCE", 2)
    cursor = None
    for _ in range(3):
        check = desk.marts().stale(cursor, D, D + 9 * DAY)
        assert not check.days
        cursor = check.checked_until
    assert cursor == desk.now - timedelta(hours=6)


def test_a_hinted_read_makes_its_day_stale_although_no_sync_has_read_it(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    desk.settle()
    book.call(LOCATION, datetime(2026, 11, 10, 9, tzinfo=UTC))
    with book.engine.begin() as db:
        values = {"location": LOCATION, "day": D, "at": desk.now}
        db.execute(sa.text("INSERT INTO hinted_days VALUES (:location, :day, :at)"), values)

    assert desk.stale()[D] == {LOCATION}
    desk.settle()
    row = desk.row()
    assert row["calls"] + row["trial_calls"] == 1
    assert not row["is_complete"]

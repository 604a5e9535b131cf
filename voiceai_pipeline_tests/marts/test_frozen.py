"""Marts after calls were deleted because of their age: numbers stay, whatever is built."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline_tests.support.mart_calls import Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, Desk
from voiceai_pipeline_tests.support.old_calls import NOW, delete

FIRST, LAST = date(2026, 8, 17), date(2026, 9, 16)
KEPT = date(2026, 9, 1)
AHEAD = "LocAhead"
OTHER_RULES = MetricRules(engaged_turns=1)

WEEKS = ("callers_7d", "repeat_callers_7d", "calls_7d", "calls_previous_7d", "calls_change_7d",
         "is_7d_complete")  # fmt: skip


@pytest.fixture
def built(book: Book, desk: Desk) -> Desk:
    """Five weeks of calls at two locations, their marts built; then August is deleted."""
    desk.now = NOW
    for location_id, zone in ((LOCATION, "UTC"), (AHEAD, "Pacific/Auckland")):
        book.location(location_id, zone)
        book.read(location_id, FIRST, LAST)
        book.at_random(location_id, FIRST, LAST, 250)
    book.call(LOCATION, datetime(2026, 8, 20, 9, tzinfo=UTC), contact_id="regular")
    book.call(LOCATION, datetime(2026, 9, 3, 9, tzinfo=UTC), contact_id="regular")
    desk.build(*day_range(FIRST, LAST))
    return desk


def marts(desk: Desk) -> dict[str, list[dict[str, Any]]]:
    """Every row of every mart, without the time at which it was computed."""
    return {
        table.name: sorted(
            ({**row, "computed_at": None} for row in desk.rows(table.name)),
            key=lambda row: str(list(row.values())),
        )
        for table in ALL_MARTS
    }


def of(found: dict[str, list[dict[str, Any]]], name: str, **keys: Any) -> list[dict[str, Any]]:
    return [row for row in found[name] if all(row[key] == keys[key] for key in keys)]


def test_a_build_of_all_days_leaves_deleted_ones_as_they_were_and_kept_ones_equal(
    built: Desk,
) -> None:
    before = marts(built)
    assert delete(built.engine).calls > 150
    built.build(*day_range(FIRST, LAST))
    after = marts(built)
    for name in after.keys() - {"period_metrics"}:
        assert after[name] == before[name], name
    # Who called in August only counts as new in September, from the first kept day on.
    changed = [row for row in after["period_metrics"] if row not in before["period_metrics"]]
    assert {row["first_day"] for row in changed} >= {date(2026, 9, 7)}
    assert all(row["first_day"] >= KEPT for row in changed)
    assert {row["callers_known_since"] for row in changed} == {KEPT, date(2026, 9, 2)}
    unlike = {"new_callers", "returning_callers", "callers_known_since"}
    plain = [{k: v for k, v in row.items() if k not in unlike} for row in after["period_metrics"]]
    assert plain == [
        {k: v for k, v in row.items() if k not in unlike} for row in before["period_metrics"]
    ]


def test_new_definitions_change_kept_days_only_and_nothing_is_found_stale_for_ever(
    built: Desk,
) -> None:
    before = marts(built)
    delete(built.engine)
    stale = built.marts(OTHER_RULES).stale(None, FIRST, LAST)
    # The first of September begins in August in Auckland.
    assert min(day for day, found in stale.days.items() if LOCATION in found) == KEPT
    assert min(day for day, found in stale.days.items() if AHEAD in found) == date(2026, 9, 2)
    built.build(*day_range(FIRST, LAST), rules=OTHER_RULES)
    assert not built.marts(OTHER_RULES).stale(None, FIRST, LAST).days

    after = marts(built)
    for row in of(after, "daily_call_metrics", location_id=LOCATION):
        (old,) = of(before, "daily_call_metrics", location_id=LOCATION, day=row["day"])
        assert (row == old) is (row["day"] < KEPT), row["day"]
        # A day soon after still says what its weeks were, for they are not there any more.
        if row["day"] < KEPT + timedelta(days=13):
            assert {name: row[name] for name in WEEKS} == {name: old[name] for name in WEEKS}
    weeks = {"period": "week", "location_id": LOCATION}
    frozen = [date(2026, 8, 17), date(2026, 8, 24), date(2026, 8, 31)]
    for first in frozen:
        assert of(after, "period_metrics", first_day=first, **weeks) == of(
            before, "period_metrics", first_day=first, **weeks
        )
    assert of(after, "period_metrics", first_day=date(2026, 9, 7), **weeks) != of(
        before, "period_metrics", first_day=date(2026, 9, 7), **weeks
    )


def test_a_deleted_day_that_is_read_again_is_built_again_and_no_other(
    built: Desk, book: Book
) -> None:
    before = marts(built)
    delete(built.engine)
    day = date(2026, 8, 26)
    book.read(LOCATION, day, day, finished_at=NOW)
    book.call(LOCATION, datetime.combine(day, time(9), UTC))
    assert {day: {LOCATION}} == {
        one: set(found) for one, found in built.marts().stale(None, FIRST, day).days.items()
    }
    built.build(*day_range(FIRST, LAST))
    after = marts(built)
    (again,) = of(after, "daily_call_metrics", location_id=LOCATION, day=day)
    assert again["calls"] == 1
    for one in day_range(FIRST, KEPT - timedelta(days=1)):
        if one != day:
            assert of(after, "daily_call_metrics", day=one) == of(
                before, "daily_call_metrics", day=one
            )

"""Unknown is NULL, never 0: days that were never read, and trends over weeks that were not."""

import csv
from datetime import UTC, date, datetime
from pathlib import Path

import sqlalchemy as sa

from voiceai_pipeline.database.mart_tables import MEASURES
from voiceai_pipeline.defs import mart_numbers
from voiceai_pipeline.defs.markdown import UNKNOWN
from voiceai_pipeline.marts import export
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
OF_WEEK = ("calls_7d", "callers_7d", "repeat_callers_7d", "repeat_caller_rate")


def test_a_day_that_was_never_read_has_no_numbers_and_shows_dashes(
    book: Book, desk: Desk, tmp_path: Path
) -> None:
    for location_id in (LOCATION, "LocRead"):
        book.location(location_id, "UTC")
    book.read(LOCATION, D, D, state="failed")
    book.read("LocRead", D - 13 * DAY, D)
    book.call("LocRead", NOON)
    desk.build(D)
    never = desk.row(location_id=LOCATION)
    assert {name: never[name] for name in MEASURES} == dict.fromkeys(MEASURES)
    assert never["incomplete_sync_days"] == 1
    read = desk.row(location_id="LocRead")
    assert (read["calls"], read["calls_7d"], read["calls_previous_7d"]) == (1, 1, 0)

    with desk.engine.connect() as db:
        view = db.execute(
            sa.text("SELECT calls, calls_7d FROM voiceai.daily_call_metrics WHERE calls IS NULL")
        ).all()
    assert view == [(None, None)]
    order = export.Order("daily_call_metrics", D, D, location_ids=[LOCATION], zone=UTC_ZONE)
    path = tmp_path / "day.csv"
    export.export(desk.engine, order, export.Format.CSV, path)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["calls"] == ""

    facts = mart_numbers.of_days(desk.engine, [D])["daily_call_metrics"][D]
    table = facts["locations_of_the_day"].md_str
    assert "|".join(("", f"{LOCATION} Ltd", *[UNKNOWN] * 4, "not read", "")) in table
    assert (facts["calls"], facts["locations_not_read"]) == (1, 1)
    assert "calls_7d" not in facts  # not of all locations
    assert facts["which_day"].startswith("each location's own day")


def test_calls_that_are_stored_count_though_a_later_read_failed(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D, state="failed")
    book.call(LOCATION, NOON)
    desk.build(D)
    assert (desk.row()["calls"], desk.row()["is_complete"]) == (1, False)


def test_a_trend_over_days_that_were_not_read_is_unknown(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - 13 * DAY, D)
    for ago in range(14):
        book.call(LOCATION, NOON - ago * DAY)
    desk.build(D)
    row = desk.row()
    assert (row["calls_7d"], row["calls_previous_7d"], row["calls_change_7d"]) == (7, 7, 0)

    book.read(LOCATION, D - 6 * DAY, D - 6 * DAY, state="failed")
    desk.build(D)
    row = desk.row()
    assert {name: row[name] for name in OF_WEEK} == dict.fromkeys(OF_WEEK)
    assert (row["calls_previous_7d"], row["calls_change_7d"]) == (7, None)
    assert row["calls_by_now_last_week"] == 1

    book.read(LOCATION, D - 6 * DAY, D - 6 * DAY)
    book.read(LOCATION, D - 7 * DAY, D - 7 * DAY, state="failed")
    desk.build(D)
    row = desk.row()
    assert (row["calls_7d"], row["calls_previous_7d"], row["calls_change_7d"]) == (7, None, None)
    assert row["calls_by_now_last_week"] is None


def test_a_week_that_ends_today_counts_what_has_been_read_so_far(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    desk.now = NOON
    book.read(LOCATION, D - 13 * DAY, D, until=NOON)
    book.call(LOCATION, NOON - DAY)
    desk.build(D)
    row = desk.row()
    assert (row["calls"], row["calls_7d"], row["calls_previous_7d"]) == (0, 1, 0)
    desk.now = datetime(2026, 11, 12, tzinfo=UTC)  # now it is over, and half of it unread
    desk.build(D)
    assert (desk.row()["calls"], desk.row()["calls_7d"]) == (0, None)


def test_the_first_query_of_the_docs_names_users_for_whom_nothing_was_tried(
    book: Book, desk: Desk
) -> None:
    for location_id in (LOCATION, "LocFailed", "LocNever"):
        book.location(location_id, "UTC")
    yesterday = date.today() - DAY  # noqa: DTZ011 - the query's own day
    book.read(LOCATION, yesterday - DAY, yesterday + DAY)
    book.read("LocFailed", yesterday - DAY, yesterday + DAY, state="failed")
    query = Path("docs/sql.md").read_text().split("```sql")[2].partition("```")[0]
    with desk.engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, access_token, refresh_token, "
                "is_active, location_id) SELECT gen_random_uuid(), id, 'highlevel', 'x', 'y', true,"
                " business_name FROM users WHERE business_name <> 'LocNever'"
            )
        )
        found = {row.user_name: row.state for row in db.execute(sa.text(query))}
    assert found == {"LocFailed": "failed", "LocNever": "never tried"}

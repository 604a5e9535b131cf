"""Weeks and months: each number equals a second implementation in SQL; who is a new caller."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.database.mart_tables import MEASURES
from voiceai_pipeline.marts.period_store import Period, periods
from voiceai_pipeline_tests.support.mart_calls import DAY, WITHHELD, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk

FIRST, LAST = date(2026, 10, 20), date(2026, 11, 12)  # clocks change on 25 October in Berlin

ORACLE = """
WITH called AS (
  SELECT c.location_id, coalesce(c.agent_id, '') AS agent_id, c.started_at, c.duration_seconds AS d,
    (c.started_at AT TIME ZONE l.timezone)::date AS day,
    CASE WHEN from_number IS DISTINCT FROM :withheld THEN
      coalesce(nullif(contact_id, ''), nullif(from_number, '')) END AS caller
  FROM call_logs c JOIN locations l USING (location_id)
  WHERE is_trial IS NOT TRUE AND missing_since IS NULL
), framed AS (
  SELECT *, date_trunc(period, day)::date AS first_day
  FROM called CROSS JOIN (VALUES ('week'), ('month')) AS k(period)
)
SELECT f.location_id, f.period, f.first_day, {more} count(*) AS calls,
  count(DISTINCT caller) AS unique_callers, avg(d) AS avg_duration_seconds,
  max(d) AS max_duration_seconds,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY d) AS p50_duration_seconds,
  percentile_cont(0.9) WITHIN GROUP (ORDER BY d) AS p90_duration_seconds,
  sum(d::numeric) AS talk_seconds,
  (SELECT count(DISTINCT g.caller) FROM framed g
   WHERE (g.location_id, g.period, g.first_day) = (f.location_id, f.period, f.first_day)
   AND NOT EXISTS (SELECT FROM called e WHERE e.location_id = g.location_id
     AND e.caller = g.caller AND e.day < g.first_day)) AS new_callers
FROM framed f GROUP BY 1, 2, 3 {group}
"""


def rows(desk: Desk, query: str, **values: Any) -> list[dict[str, Any]]:
    with desk.engine.begin() as db:
        return [dict(row) for row in db.execute(sa.text(query), values).mappings()]


@pytest.mark.parametrize("mart", ["period_metrics", "agent_period_metrics"])
def test_weeks_and_months_equal_the_sql_on_the_calls(book: Book, desk: Desk, mart: str) -> None:
    for location_id, zone in ((LOCATION, "Europe/Berlin"), ("LocThere", "Asia/Kolkata")):
        book.location(location_id, zone)
        book.read(location_id, FIRST - DAY, LAST + DAY)
        book.at_random(location_id, FIRST, LAST, 300)
    days = day_range(FIRST - DAY, LAST + DAY)
    desk.build(*days[:9])
    desk.build(*days[9:])
    is_agents = mart == "agent_period_metrics"
    more = ("agent_id,", ", 4") if is_agents else ("", "")
    expected = rows(desk, ORACLE.format(more=more[0], group=more[1]), withheld=WITHHELD)
    keys = ("location_id", "period", "first_day", *(("agent_id",) if is_agents else ()))
    found = {tuple(row[k] for k in keys): row for row in desk.rows(mart) if row["calls"]}
    assert len(expected) == len(found)
    for row in expected:
        of = found[tuple(row[name] for name in keys)]
        new = row.pop("new_callers")
        for name, value in row.items():
            wanted = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert of[name] == wanted, (name, row)
        if not is_agents:
            is_first = of["first_day"] <= FIRST - DAY
            assert of["new_callers"] == (None if is_first else new)
            assert is_first or of["returning_callers"] == of["unique_callers"] - new


def test_the_counts_of_a_period_are_the_sums_of_its_days(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "America/New_York")
    book.read(LOCATION, D - 20 * DAY, D + DAY)
    book.at_random(LOCATION, D - 14 * DAY, D, 200)
    desk.build(*day_range(D - 19 * DAY, D))
    by_day = desk.rows("daily_call_metrics")
    whole = desk.rows("period_metrics", period="week", first_day=date(2026, 11, 2))[0]
    inside = [row for row in by_day if whole["first_day"] <= row["day"] <= whole["last_day"]]
    summed = [
        name
        for name in MEASURES
        if not name.endswith(("_rate", "_duration_seconds", "_sample"))
        and name not in ("unique_callers", "estimated_cost", "talk_minutes")
    ]
    for name in summed:
        assert whole[name] == sum(row[name] for row in inside), name
    peaks = [row["peak_concurrent_calls"] for row in inside]
    assert whole["peak_concurrent_calls"] == max(peaks) > 1
    assert whole["engagement_rate"] == whole["engaged_calls"] / whole["calls"]
    assert (whole["days_read"], whole["is_complete"]) == (7, True)
    month = desk.rows("period_metrics", period="month", first_day=date(2026, 11, 1))[0]
    assert (month["last_day"], month["is_complete"]) == (date(2026, 11, 30), False)


def test_who_called_before_returns_once_the_days_before_are_read(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - DAY, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.call(LOCATION, noon, contact_id="a")
    book.call(LOCATION, noon, contact_id="b")
    desk.build(D - DAY, D)

    def callers() -> tuple[Any, ...]:
        (row,) = desk.rows("period_metrics", period="week", first_day=date(2026, 11, 9))
        names = ("new_callers", "returning_callers", "callers_known_since", "days_read")
        return tuple(row[name] for name in names)

    assert callers() == (None, None, date(2026, 11, 9), 2)
    book.read(LOCATION, D - 10 * DAY, D - 2 * DAY)
    book.call(LOCATION, noon - 9 * DAY, contact_id="a")
    desk.build(*day_range(D - 10 * DAY, D - 2 * DAY))  # the later week follows
    assert callers() == (1, 1, date(2026, 10, 31), 2)


def test_a_period_without_a_day_that_was_read_is_unknown_not_0(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D, state="failed")
    desk.build(D)
    (row,) = desk.rows("period_metrics", period="week")
    assert row["days_read"] == 0
    assert {row[name] for name in (*MEASURES, "new_callers", "peak_concurrent_calls")} == {None}


def test_periods_are_whole_and_all_that_days_belong_to() -> None:
    assert list(periods(date(2026, 12, 30), date(2027, 1, 4))) == [
        Period("week", date(2026, 12, 28), date(2027, 1, 3)),
        Period("week", date(2027, 1, 4), date(2027, 1, 10)),
        Period("month", date(2026, 12, 1), date(2026, 12, 31)),
        Period("month", date(2027, 1, 1), date(2027, 1, 31)),
    ]

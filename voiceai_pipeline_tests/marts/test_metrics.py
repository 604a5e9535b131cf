"""The metrics: each compared with a second implementation in SQL; edge cases, sums, masking."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.mart_tables import MARTS, daily_call_metrics, hourly_activity
from voiceai_pipeline.marts import metrics
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline.marts.call_counts import MartLocation, StoredCalls
from voiceai_pipeline.marts.metrics import masked
from voiceai_pipeline_tests.support import mart_oracle
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk
from voiceai_pipeline_tests.support.repetition import repeated, soak

RULES = MetricRules(cost_per_minute=Decimal("0.13"))


SPRING = (date(2026, 3, 6), date(2026, 3, 31))  # New York 8 March, Berlin 29 March


AUTUMN = (date(2026, 10, 20), date(2026, 11, 4))  # Berlin 25 October, New York 1 November


@pytest.fixture(scope="module")
def days() -> list[date]:
    return [*day_range(*SPRING), *day_range(*AUTUMN)]


def test_every_metric_equals_the_sql_on_ten_thousand_calls(
    engine: sa.Engine, days: list[date]
) -> None:
    book = Book(engine, seed=7)
    zones = {
        "LocNewYork": "America/New_York",
        "LocBerlin": "Europe/Berlin",
        "LocNowhere": None,
        "LocEmpty": "Asia/Kolkata",
        "LocOneCall": "Pacific/Auckland",
        "LocTrials": "America/New_York",
    }
    for location_id, zone in zones.items():
        book.location(location_id, zone, "Asia/Tokyo" if location_id == "LocBerlin" else None)
        for first, last in (SPRING, AUTUMN):
            book.read(location_id, first, last)
    book.read("LocBerlin", date(2026, 10, 28), date(2026, 10, 28), state="failed")
    for location_id in ("LocNewYork", "LocBerlin", "LocNowhere"):
        for first, last in (SPRING, AUTUMN):
            book.at_random(location_id, first, last, 1670)
    with engine.begin() as db:  # a day without calls
        db.execute(sa.text("DELETE FROM call_logs WHERE started_at::date = '2026-03-17'"))
    book.call("LocOneCall", datetime(2026, 10, 30, 11, 30, tzinfo=UTC))
    book.at_random("LocTrials", *AUTUMN, 30, is_trial=True)
    built = Marts(engine, UTC_ZONE, RULES).build(days)
    assert built.disagreements == ()
    values = {
        "days": days,
        "goals": ["APPOINTMENT_BOOKING"],
        "turns": 2,
        "seconds": 10,
        "rate": Decimal("0.13"),
    }
    with engine.begin() as db:
        mart_oracle.prepare(db, **values)
        for mart in mart_oracle.KEYS:
            expected = mart_oracle.expected(db, mart, **values)
            published = mart_oracle.published(db, mart)
            assert published.keys() == expected.keys(), mart
            for key, row in expected.items():
                assert _same(published[key], row), (mart, key, _differences(published[key], row))
            assert _not_compared(mart, expected) == set(), mart


def _same(found: dict[str, Any], row: dict[str, Any]) -> bool:
    return not _differences(found, row)


def _differences(found: dict[str, Any], row: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (found[name], value)
        for name, value in row.items()
        if found[name] != (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    }


OF_STATUS = {
    "location_name", "timezone", "is_timezone_assumed", "repeat_caller_rate", "calls_change_7d",
    "is_7d_complete", "calls_by_now_last_week", "goal_actions", "is_goal_comparable",
    "is_complete", "is_over", "calls_known_until", "last_successful_sync_at", "agent_name",
    "incomplete_sync_days", "synced_at", "rules_version", "computed_at", "is_agent_deleted",
    "weekday", "outcome_rules",
}  # fmt: skip
"""Columns with a test of their own, here or in test_build.py."""


def _not_compared(mart: str, rows: mart_oracle.Rows) -> set[str]:
    (table,) = (table for table in MARTS if table.name == mart)
    return {column.name for column in table.columns} - set(next(iter(rows.values()))) - OF_STATUS


def test_today_compares_with_last_week_up_to_the_same_time(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    desk.now = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.read(LOCATION, D - 14 * DAY, D, until=desk.now)
    for hour in (9, 11, 12, 15):
        book.call(LOCATION, datetime(2026, 11, 3, hour, tzinfo=UTC))
    for ago in range(8, 12):
        book.call(LOCATION, datetime(2026, 11, 10, 9, tzinfo=UTC) - ago * DAY)
    book.call(LOCATION, datetime(2026, 11, 10, 9, tzinfo=UTC))
    desk.build(D - DAY, D)
    row = desk.row()
    assert (row["is_over"], row["is_7d_complete"]) == (False, False)
    assert row["calls_by_now_last_week"] == 2
    assert (row["calls_7d"], row["calls_previous_7d"]) == (1, 8)
    assert row["calls_change_7d"] is None
    assert desk.row(D - DAY)["is_7d_complete"] is True
    assert desk.row(D - DAY)["calls_by_now_last_week"] == 1
    book.read(LOCATION, D - 13 * DAY, D - 13 * DAY, state="failed")  # of the week before
    desk.build(D - DAY)
    assert desk.row(D - DAY)["is_7d_complete"] is False


def test_without_a_rate_there_is_no_estimate_of_cost(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D + DAY)
    book.call(LOCATION, datetime(2026, 11, 10, 12, tzinfo=UTC), duration_seconds=61)
    desk.build(D, D + DAY)
    for mart in ("daily_call_metrics", "agent_performance", "hourly_activity"):
        assert {row["estimated_cost"] for row in desk.rows(mart)} == {None}
    desk.build(D, D + DAY, rules=MetricRules(cost_per_minute=Decimal("0.13")))
    costs = [desk.row(day)["estimated_cost"] for day in (D, D + DAY)]
    assert costs == [Decimal("0.26"), 0]  # a day without calls


def test_a_caller_with_two_calls_in_seven_days_is_a_repeat_caller(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - 7 * DAY, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for ago, caller in ((0, "a"), (3, "a"), (6, "a"), (6, "b"), (7, "b"), (0, "")):
        book.call(LOCATION, noon - ago * DAY, contact_id=caller)
    desk.build(D)
    row = desk.row()
    assert (row["calls_7d"], row["callers_7d"], row["repeat_callers_7d"]) == (5, 2, 1)
    assert row["repeat_caller_rate"] == 1 / 2


def test_a_call_fills_a_value_once_when_two_of_its_names_are_equal_once_masked(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.call(LOCATION, noon, extracted_data={"+1 555 010 0001": "yes", "+1 555 010 0002": "no"})
    desk.build(D)
    row = desk.row(mart="data_capture_metrics")
    assert (row["data_key"], row["filled_calls"], row["fill_rate"]) == ("…", 1, 1.0)


def test_small_samples_are_marked_below_twenty(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for _ in range(19):
        book.call(LOCATION, noon)
    desk.build(D)
    assert desk.row()["is_small_sample"] is True
    book.call(LOCATION, noon, transcript="")
    desk.build(D)
    assert desk.row()["is_small_sample"] is False
    assert desk.row()["is_engaged_small_sample"] is True


def test_a_day_keeps_the_name_that_its_agent_had_then(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D + DAY)
    for day in (D, D + DAY):
        book.call(LOCATION, datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
    with book.engine.begin() as db:
        for since, name in ((D - DAY, "Ann"), (D + DAY, "Front desk +1 555 010 0007")):
            db.execute(
                sa.text("INSERT INTO agent_names VALUES (:location, 'agent-days', :since, :name)"),
                {"location": LOCATION, "since": since, "name": name},
            )
        db.execute(
            sa.text("UPDATE voiceai_agents SET missing_since = now() WHERE agent_id = 'agent-days'")
        )
    desk.build(D, D + DAY)
    agents = [desk.row(day, "agent_performance") for day in (D, D + DAY)]
    assert [row["agent_name"] for row in agents] == ["Ann", "Front desk …"]
    assert all(row["is_agent_deleted"] for row in agents)


def test_an_agent_is_deleted_if_its_calls_say_so_even_if_it_is_still_listed(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D + DAY)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.call(LOCATION, noon)
    book.call(LOCATION, noon + DAY, is_agent_deleted=True)
    desk.build(D, D + DAY)
    agents = [desk.row(day, "agent_performance") for day in (D, D + DAY)]
    assert [row["is_agent_deleted"] for row in agents] == [False, True]


ADDITIVE = [
    name
    for name in [column.name for column in daily_call_metrics.c]
    if "Not additive" not in str(daily_call_metrics.c[name].comment)
    and name in hourly_activity.c
    and isinstance(daily_call_metrics.c[name].type, (sa.Integer, sa.Numeric))
]


@st.composite
def stored(draw: st.DrawFn) -> pd.DataFrame:
    """Calls of two locations at any time of a week."""
    start = int(datetime(2026, 10, 29, tzinfo=UTC).timestamp())
    one = st.tuples(
        st.sampled_from(["LocA", "LocB"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(start, start + 7 * 86_400),
        st.one_of(st.just(float("nan")), st.integers(0, 900_000).map(float)),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.integers(0, 4),
    )
    rows = draw(st.lists(one, max_size=40))
    names = ["location", "agent", "started_at", "duration_ms", "turns", "is_trial", "is_missing",
             "caller"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=names).astype(
        {"is_trial": bool, "is_missing": bool, "turns": int, "caller": int, "duration_ms": float,
         "started_at": "int64"}
    )  # fmt: skip
    frame["started_at"] = pd.to_datetime(frame["started_at"], unit="s", utc=True)
    return frame.assign(
        call=range(len(frame)), number=frame["caller"], is_trial_unknown=False,
        has_transcript=True, has_summary=True, is_agent_deleted=False, is_speaker_unknown=False,
        outcome="answered", language="",
    )  # fmt: skip


@soak
@settings(max_examples=repeated(4, 50))
@given(stored())
def test_sums_over_agents_and_hours_are_the_day_and_seven_days_are_the_week(
    calls: pd.DataFrame,
) -> None:
    locations = [
        MartLocation("LocA", ZoneInfo("America/New_York")),
        MartLocation("LocB", ZoneInfo("Asia/Kolkata")),
    ]
    days = [date(2026, 10, 28) + n * DAY for n in range(9)]
    base = calls[~calls["is_trial"] & ~calls["is_missing"]]
    live = base["call"].iloc[::2]
    actions = pd.DataFrame(
        {"call": live, "type": "SMS", "name": "Send", "is_executed": True,
         "triggered_at": pd.Timestamp(0, tz="UTC"), "executed_at": pd.Timestamp(1, tz="UTC")}
    )  # fmt: skip
    captured = pd.DataFrame({"call": live, "key": "name"})
    rows = metrics.compute(
        locations, days, StoredCalls(calls, actions, captured, base), MetricRules()
    )
    daily = rows.daily_call_metrics
    for name in ADDITIVE:
        if name == "estimated_cost":
            continue
        of_day = daily.set_index(["location", "day"])[name]
        for other in (rows.agent_performance, rows.hourly_activity):
            sums = other.groupby(["location", "day"])[name].sum()
            assert sums.reindex(of_day.index).fillna(0).tolist() == pytest.approx(of_day.tolist())
    assert daily["calls"].sum() == len(base)
    assert rows.action_metrics["actions"].sum() == len(actions)
    per_day = daily.set_index(["location", "day"])["calls"]
    for row in daily.to_dict("records"):
        week = [row["day"] - n * DAY for n in range(7)]
        assert row["calls_7d"] == sum(per_day.get((row["location"], day), 0) for day in week)
    shares = [name for name in daily if str(name).endswith("_rate")]
    assert daily[shares].max().max() <= 1 or daily[shares].isna().all().all()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Call +1 (555) 010-0099 now", "Call … now"),
        ("Write to pat@example.test", "Write to …"),
        ("Book 30 minutes", "Book 30 minutes"),
        ("Option 2024-2025", "Option …"),
    ],
)
def test_names_that_users_chose_are_masked(name: str, shown: str) -> None:
    assert masked(name) == shown

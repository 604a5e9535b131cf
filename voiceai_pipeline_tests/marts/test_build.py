"""The marts' days, edges and honesty: local days, what is complete, what a late edit changes, that
sums add up, and that nothing of a caller gets in.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.settings import MetricRules, Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.mart_tables import MARTS
from voiceai_pipeline.marts import mart_store as tables
from voiceai_pipeline.marts import metrics
from voiceai_pipeline.marts.build import Marts, known_times, stale_days
from voiceai_pipeline.marts.call_facts import Calls, Place
from voiceai_pipeline.marts.call_reader import LedgerDay
from voiceai_pipeline.marts.metrics import masked
from voiceai_pipeline_tests.support.mart_calls import DAY, Book, days_between

UTC_ZONE = ZoneInfo("UTC")
D = date(2026, 11, 10)
PLACE = "LocHere"
ANY: dict[str, Any] = {}


@pytest.fixture
def book(engine: sa.Engine) -> Book:
    return Book(engine)


class Desk:
    """Builds marts at a moment of the test's and reads them back."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def marts(self, rules: MetricRules | None = None) -> Marts:
        return Marts(self.engine, UTC_ZONE, rules or MetricRules(), now=lambda: self.now)

    def build(self, *days: date, rules: MetricRules | None = None) -> None:
        assert self.marts(rules).build(days).disagreements == ()

    def row(self, day: date = D, mart: str = "daily_call_metrics", **keys: Any) -> dict[str, Any]:
        (found,) = self.rows(mart, day=day, **keys)
        return found

    def rows(self, mart: str, **keys: Any) -> list[dict[str, Any]]:
        where = " AND ".join(f"{name} = :{name}" for name in keys) or "true"
        query = sa.text(f"SELECT * FROM {mart} WHERE {where} ORDER BY 1, 2")  # noqa: S608
        with self.engine.begin() as db:
            return [dict(row) for row in db.execute(query, keys).mappings()]

    def stale(self, rules: MetricRules | None = None) -> dict[date, set[str]]:
        found = self.marts(rules).stale(None, date(2026, 10, 1), date(2026, 11, 20))
        return {day: set(places) for day, places in found.days.items()}

    def settle(self) -> None:
        """What the sensor does, until nothing is stale."""
        stale = self.stale()
        self.build(*stale)
        assert self.stale() == {}


@pytest.fixture
def desk(engine: sa.Engine) -> Desk:
    return Desk(engine)


# Days --------------------------------------------------------------------------------------------


def test_a_day_is_the_locations_own_and_23_or_25_hours_long_when_clocks_change(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "America/New_York")
    book.read(PLACE, date(2026, 10, 30), date(2026, 11, 3))
    for hour in range(28):  # 1 November begins at 04:00 UTC and ends at 05:00 UTC
        book.call(PLACE, datetime(2026, 11, 1, 3, 30, tzinfo=UTC) + timedelta(hours=hour))
    first, second = date(2026, 11, 1), date(2026, 11, 2)
    desk.build(first - DAY, first, second)
    assert [desk.row(day)["calls"] for day in (first - DAY, first, second)] == [1, 25, 2]
    hours = {row["hour"]: row["calls"] for row in desk.rows("hourly_activity", day=first)}
    assert hours == {hour: 2 if hour == 1 else 1 for hour in range(24)}
    assert {row["weekday"] for row in desk.rows("hourly_activity", day=first)} == {7}


def test_a_location_without_a_zone_has_the_pipelines_and_says_so(book: Book, desk: Desk) -> None:
    book.location(PLACE, None)
    book.location("LocZoned", "Europe/Berlin")
    for place in (PLACE, "LocZoned"):
        book.read(place, D - DAY, D + DAY)
        book.call(place, datetime(2026, 11, 10, 23, 30, tzinfo=UTC))
    desk.build(D, D + DAY)
    here, there = desk.row(location_id=PLACE), desk.row(location_id="LocZoned")
    assert (here["timezone"], here["is_timezone_assumed"], here["calls"]) == ("UTC", True, 1)
    zoned = ("Europe/Berlin", False, 0)
    assert (there["timezone"], there["is_timezone_assumed"], there["calls"]) == zoned
    assert desk.row(D + DAY, location_id="LocZoned")["calls"] == 1


def test_a_day_is_complete_once_it_has_been_read_to_its_local_end(book: Book, desk: Desk) -> None:
    book.location(PLACE, "America/New_York")  # the day ends at 05:00 UTC of the next one
    end = datetime(2026, 11, 11, 5, tzinfo=UTC)
    book.read(PLACE, D - DAY, D + DAY, until=end - timedelta(seconds=1))
    desk.build(D)
    row = desk.row()
    assert row["is_complete"] is False
    assert row["calls_known_until"] == end - timedelta(seconds=1)
    assert row["incomplete_sync_days"] == 1
    book.read(PLACE, D + DAY, D + DAY, until=end)
    desk.build(D)
    assert desk.row()["is_complete"] is True
    book.read(PLACE, D + DAY, D + DAY)
    desk.build(D)
    assert desk.row()["calls_known_until"] == end  # what is known beyond is of another day
    book.read(PLACE, D, D, state="failed")
    desk.build(D)
    assert desk.row()["is_complete"] is False
    assert desk.row()["calls_known_until"] is None  # not even from its beginning, at 05:00 UTC


def test_a_failed_read_is_news_and_no_successful_sync(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    good, bad = (datetime(2026, 11, 12, hour, tzinfo=UTC) for hour in (1, 2))
    book.read(PLACE, D - DAY, D, finished_at=good)
    book.read(PLACE, D + DAY, D + DAY, state="failed", finished_at=bad)
    desk.build(D)
    assert desk.row()["last_successful_sync_at"] == good
    assert desk.row()["synced_at"] == bad


def test_a_day_that_nobody_read_and_without_calls_has_no_row(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D)
    desk.build(D - DAY, D, D + DAY)
    assert [row["day"] for row in desk.rows("daily_call_metrics")] == [D]
    assert desk.row()["engagement_rate"] is None  # nothing to divide by
    assert desk.row()["is_small_sample"] is True


def test_today_compares_with_last_week_up_to_the_same_time(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    desk.now = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.read(PLACE, D - 14 * DAY, D, until=desk.now)
    for hour in (9, 11, 12, 15):
        book.call(PLACE, datetime(2026, 11, 3, hour, tzinfo=UTC))
    for ago in range(8, 12):
        book.call(PLACE, datetime(2026, 11, 10, 9, tzinfo=UTC) - ago * DAY)
    book.call(PLACE, datetime(2026, 11, 10, 9, tzinfo=UTC))
    desk.build(D - DAY, D)
    row = desk.row()
    assert (row["is_over"], row["is_7d_complete"]) == (False, False)
    assert row["calls_by_now_last_week"] == 2
    assert (row["calls_7d"], row["calls_previous_7d"]) == (1, 8)
    assert row["calls_change_7d"] == -7 / 8
    assert desk.row(D - DAY)["is_7d_complete"] is True
    assert desk.row(D - DAY)["calls_by_now_last_week"] == 1
    book.read(PLACE, D - 13 * DAY, D - 13 * DAY, state="failed")  # of the week before
    desk.build(D - DAY)
    assert desk.row(D - DAY)["is_7d_complete"] is False


def test_bookings_are_not_comparable_before_highlevel_reported_them(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    days = (date(2025, 9, 8), date(2025, 9, 9))
    book.read(PLACE, *days)
    desk.build(*days)
    assert [desk.row(day)["is_goal_comparable"] for day in days] == [False, True]
    assert desk.row(days[0])["goal_actions"] == "APPOINTMENT_BOOKING"
    desk.build(*days, rules=MetricRules(goal_actions=("SMS", "CUSTOM_ACTION")))
    assert [desk.row(day)["is_goal_comparable"] for day in days] == [True, True]
    assert desk.row(days[0])["goal_actions"] == "SMS,CUSTOM_ACTION"


# What a call does to the numbers -----------------------------------------------------------------


def test_a_call_is_engaged_from_two_turns_and_ten_seconds_or_what_is_configured(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for turns in (1, 2, 3):
        for seconds in (9.999, 10, 20):
            book.call(PLACE, noon, transcript="\nhuman:So" * turns, duration_seconds=seconds)
    desk.build(D)
    assert desk.row()["engaged_calls"] == 4
    desk.build(D, rules=MetricRules(engaged_turns=3, engaged_seconds=20))
    assert desk.row()["engaged_calls"] == 1
    assert desk.row()["short_calls"] == 3


def test_containment_is_strict_only_after_24_hours_that_were_read(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.read(PLACE, D, D + DAY, until=noon + DAY - timedelta(seconds=1))
    book.call(PLACE, noon, contact_id=None, from_number="+15550000001")
    desk.build(D)
    assert (desk.row()["strictly_judged_calls"], desk.row()["contained_calls"]) == (0, 1)
    book.read(PLACE, D + DAY, D + DAY, until=noon + DAY)
    desk.build(D)
    assert desk.row()["strictly_contained_calls"] == 1
    book.call(PLACE, noon + DAY, contact_id=None, from_number="+15550000001")
    desk.build(D)
    assert desk.row()["strictly_judged_calls"] == 1
    assert desk.row()["strictly_contained_calls"] == 0


def test_without_a_rate_there_is_no_estimate_of_cost(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D + DAY)
    book.call(PLACE, datetime(2026, 11, 10, 12, tzinfo=UTC), duration_seconds=61)
    desk.build(D, D + DAY)
    for mart in ("daily_call_metrics", "agent_performance", "hourly_activity"):
        assert {row["estimated_cost"] for row in desk.rows(mart)} == {None}
    desk.build(D, D + DAY, rules=MetricRules(cost_per_minute=Decimal("0.13")))
    costs = [desk.row(day)["estimated_cost"] for day in (D, D + DAY)]
    assert costs == [Decimal("0.26"), 0]  # a day without calls


def test_who_calls_twice_in_seven_days_is_a_repeat_caller_among_all_callers(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D - 7 * DAY, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for ago, caller in ((0, "a"), (3, "a"), (6, "a"), (6, "b"), (7, "b"), (0, "")):
        book.call(PLACE, noon - ago * DAY, contact_id=caller)
    desk.build(D)
    row = desk.row()
    assert (row["calls_7d"], row["callers_7d"], row["repeat_callers_7d"]) == (5, 2, 1)
    assert row["repeat_caller_rate"] == 1 / 2


def test_a_call_fills_a_value_once_though_two_of_its_names_are_one_once_masked(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.call(PLACE, noon, extracted_data={"+1 555 010 0001": "yes", "+1 555 010 0002": "no"})
    desk.build(D)
    row = desk.row(mart="data_capture_metrics")
    assert (row["data_key"], row["filled_calls"], row["fill_rate"]) == ("…", 1, 1.0)


def test_small_samples_are_marked_below_twenty(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for _ in range(19):
        book.call(PLACE, noon)
    desk.build(D)
    assert desk.row()["is_small_sample"] is True
    book.call(PLACE, noon, transcript="")
    desk.build(D)
    assert desk.row()["is_small_sample"] is False
    assert desk.row()["is_engaged_small_sample"] is True


def test_a_day_keeps_the_name_that_its_agent_had_then(book: Book, desk: Desk) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D + DAY)
    for day in (D, D + DAY):
        book.call(PLACE, datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
    with book.engine.begin() as db:
        for since, name in ((D - DAY, "Ann"), (D + DAY, "Front desk +1 555 010 0007")):
            db.execute(
                sa.text("INSERT INTO agent_names VALUES (:place, 'agent-days', :since, :name)"),
                {"place": PLACE, "since": since, "name": name},
            )
        db.execute(sa.text("UPDATE agents SET missing_since = now() WHERE agent_id = 'agent-days'"))
    desk.build(D, D + DAY)
    agents = [desk.row(day, "agent_performance") for day in (D, D + DAY)]
    assert [row["agent_name"] for row in agents] == ["Ann", "Front desk …"]
    assert all(row["is_agent_deleted"] for row in agents)


def test_working_hours_end_with_the_day_at_23_59_and_half_of_them_are_none(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D)
    book.call(PLACE, datetime(2026, 11, 10, 23, 59, 30, tzinfo=UTC))
    book.call(PLACE, datetime(2026, 11, 10, 12, 45, tzinfo=UTC))  # at lunch
    desk.build(D)
    assert (desk.row()["hours_known_calls"], desk.row()["after_hours_calls"]) == (2, 1)
    with book.engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE agents SET raw = jsonb_insert(raw, '{agentWorkingHours,0}', '{}') "
                "WHERE agent_id = 'agent-days'"
            )
        )
    desk.build(D)
    assert (desk.row()["hours_known_calls"], desk.row()["after_hours_rate"]) == (0, None)


def test_an_agent_is_deleted_if_its_calls_say_so_though_it_is_still_listed(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D + DAY)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    book.call(PLACE, noon)
    book.call(PLACE, noon + DAY, is_agent_deleted=True)
    desk.build(D, D + DAY)
    agents = [desk.row(day, "agent_performance") for day in (D, D + DAY)]
    assert [row["is_agent_deleted"] for row in agents] == [False, True]


# What makes a day stale --------------------------------------------------------------------------


def test_a_late_edit_and_a_vanished_call_change_every_number_that_depends_on_them(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, "UTC")
    last = D + 9 * DAY
    book.read(PLACE, D - 14 * DAY, last)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    caller = {"contact_id": "contact-a"}
    late = book.call(PLACE, noon, transcript="", summary="", **caller)
    book.call(PLACE, noon - timedelta(hours=20), **caller)
    book.call(PLACE, noon + 6 * DAY, **caller)
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
    book.read(PLACE, D, D, finished_at=desk.now)
    desk.settle()
    assert desk.row()["engaged_calls"] == 1
    assert desk.row()["calls_without_transcript"] == 0
    with book.engine.begin() as db:
        db.execute(
            sa.text("UPDATE call_logs SET missing_since = now() WHERE call_id = :id"), {"id": late}
        )
    book.read(PLACE, D, D, finished_at=desk.now + timedelta(hours=1))
    desk.settle()
    after = {row["day"]: row for row in desk.rows("daily_call_metrics")}
    assert (after[D]["calls"], after[D]["missing_calls"]) == (0, 1)
    assert after[D - DAY]["called_back_calls"] == 0
    assert after[D + 6 * DAY]["repeat_callers_7d"] == 0
    assert after[D + 7 * DAY]["calls_previous_7d"] == before[D + 7 * DAY]["calls_previous_7d"] - 1
    assert desk.rows("agent_performance", day=D)[0]["calls"] == 0


def test_a_zone_that_becomes_known_and_rules_that_change_make_every_day_stale(
    book: Book, desk: Desk
) -> None:
    book.location(PLACE, None)
    book.read(PLACE, D, D + DAY)
    desk.settle()
    assert desk.stale(MetricRules(engaged_turns=3)) == {D: {PLACE}, D + DAY: {PLACE}}
    with book.engine.begin() as db:
        db.execute(sa.text("UPDATE locations SET timezone = 'Europe/Berlin'"))
    assert set(desk.stale()) >= {D, D + DAY}
    desk.settle()
    assert {row["timezone"] for row in desk.rows("daily_call_metrics")} == {"Europe/Berlin"}


def test_news_of_a_day_make_stale_what_counts_on_it_and_nothing_else() -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    built = {("Loc", D + n * DAY): tables.Built(at - DAY, "UTC", "rules") for n in range(-30, 30)}
    stale = stale_days({("Loc", D): at}, built, {"Loc": UTC_ZONE}, UTC_ZONE)
    assert stale == {("Loc", D + n * DAY) for n in range(-2, 15)}
    seen = {cell: tables.Built(at, "UTC", "rules") for cell in built}
    assert stale_days({("Loc", D): at}, seen, {}, UTC_ZONE) == set()
    auckland = {"Loc": ZoneInfo("Pacific/Auckland")}
    missing = stale_days({("Loc", D): at}, {}, auckland, UTC_ZONE)
    assert missing == {("Loc", D), ("Loc", D + DAY)}


def test_a_look_through_the_ledger_that_found_nothing_goes_on_where_it_ended(
    book: Book, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.location(PLACE, "UTC")
    book.read(PLACE, D, D + 4 * DAY)
    desk.settle()
    monkeypatch.setattr("voiceai_pipeline.marts.build.NEWS_AT_ONCE", 2)
    cursor = None
    for _ in range(3):
        look = desk.marts().stale(cursor, D, D + 9 * DAY)
        assert not look.days
        cursor = look.looked_until
    assert cursor == desk.now - timedelta(hours=6)


def test_times_that_were_read_join_where_one_day_meets_the_next() -> None:
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
    assert list(known_times(entries, UTC_ZONE)) == [
        Window(at, at + 2 * DAY),
        Window(at + 3 * DAY, at + 3 * DAY + noon),
        Window(at + 4 * DAY, at + 5 * DAY),
    ]


# Sums --------------------------------------------------------------------------------------------

ADDITIVE = [
    name
    for name in [column.name for column in tables.daily_call_metrics.c]
    if "Not additive" not in str(tables.daily_call_metrics.c[name].comment)
    and name in tables.hourly_activity.c
    and isinstance(tables.daily_call_metrics.c[name].type, (sa.Integer, sa.Numeric))
]


@st.composite
def stored(draw: st.DrawFn) -> pd.DataFrame:
    """Calls of two places over a week, anywhere in it."""
    begin = int(datetime(2026, 10, 29, tzinfo=UTC).timestamp())
    one = st.tuples(
        st.sampled_from(["LocA", "LocB"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(begin, begin + 7 * 86_400),
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
        has_transcript=True, has_summary=True, is_agent_deleted=False,
    )  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stored())
def test_sums_over_agents_and_hours_are_the_day_and_seven_days_are_the_week(
    calls: pd.DataFrame,
) -> None:
    places = [Place("LocA", ZoneInfo("America/New_York")), Place("LocB", ZoneInfo("Asia/Kolkata"))]
    days = [date(2026, 10, 28) + n * DAY for n in range(9)]
    base = calls[~calls["is_trial"] & ~calls["is_missing"]]
    live = base["call"].iloc[::2]
    actions = pd.DataFrame(
        {"call": live, "type": "SMS", "name": "Send", "is_executed": True,
         "triggered_at": pd.Timestamp(0, tz="UTC"), "executed_at": pd.Timestamp(1, tz="UTC")}
    )  # fmt: skip
    captured = pd.DataFrame({"call": live, "key": "name"})
    rows = metrics.compute(places, days, Calls(calls, actions, captured, base), MetricRules())
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
    for place in (PLACE, "LocGood"):
        book.location(place, "UTC")
        book.read(place, D, D)
        book.call(place, datetime(2026, 11, 10, 12, tzinfo=UTC))
    desk.build(D)
    for place in (PLACE, "LocGood"):
        sent = [{"actionType": "SMS"}]
        book.call(place, datetime(2026, 11, 10, 13, tzinfo=UTC), executed_call_actions=sent)
    whole = getattr(metrics, part)

    def loses_a_location(*given: Any) -> pd.DataFrame:
        frame: pd.DataFrame = whole(*given)
        return frame[frame["location"] != PLACE]

    monkeypatch.setattr(metrics, part, loses_a_location)
    built = desk.marts().build([D])
    assert len(built.disagreements) == 1
    assert f"{mart}, 2026-11-10, location LocHere" in built.disagreements[0]
    assert desk.row(location_id=PLACE)["calls"] == 1
    assert desk.row(location_id="LocGood")["calls"] == 2


# Nothing personal --------------------------------------------------------------------------------


def test_no_mart_holds_a_number_a_caller_or_a_word_of_a_call(book: Book, desk: Desk) -> None:
    book.location(PLACE, "America/New_York")
    book.read(PLACE, D - DAY, D + DAY)
    book.at_random(PLACE, D, D, 300)
    desk.build(D - DAY, D)
    for text in _texts(desk):
        assert not re.search(r"\+?1? ?555|@|contact-|call-\d|Somebody|Hello|Pat", text), text


def _texts(desk: Desk) -> Iterator[str]:
    for table in MARTS:
        rows = desk.rows(table.name)
        assert rows
        for row in rows:
            yield from (value for value in row.values() if isinstance(value, str))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Call +1 (555) 010-0099 now", "Call … now"),
        ("Write to pat@example.test", "Write to …"),
        ("Book 30 minutes", "Book 30 minutes"),
        ("Option 2024-2025", "Option …"),
    ],
)
def test_names_that_people_chose_are_masked(name: str, shown: str) -> None:
    assert masked(name) == shown


# Settings ----------------------------------------------------------------------------------------


def test_what_counts_is_configured_and_what_cannot_be_read_is_refused() -> None:
    given = {
        "VOICEAI_ENGAGED_TURNS": "3",
        "VOICEAI_ENGAGED_SECONDS": "15",
        "VOICEAI_GOAL_ACTIONS": "SMS, APPOINTMENT_BOOKING",
        "VOICEAI_COST_PER_MINUTE": "0.13",
    }
    rules = MetricRules(3, 15, ("APPOINTMENT_BOOKING", "SMS"), Decimal("0.13"))
    assert Settings.load(given).metrics == rules
    assert Settings.load({}).metrics == MetricRules()
    for name, wrong in (
        ("VOICEAI_ENGAGED_TURNS", "-1"),
        ("VOICEAI_ENGAGED_SECONDS", "ten"),
        ("VOICEAI_GOAL_ACTIONS", "book it"),
        ("VOICEAI_COST_PER_MINUTE", "1,5"),
    ):
        with pytest.raises(SettingsError, match=name):
            Settings.load({name: wrong})


def test_days_are_listed_without_a_gap() -> None:
    assert list(days_between(D, D + DAY)) == [D, D + DAY]

"""What the page of insights reads equals the marts, for all, a location and an agent."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.marts import insights
from voiceai_pipeline.marts.insights import BUCKETS, SUMS, Days, Report, Scope
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk

WEEK = Days(D - 6 * DAY, D)
BEFORE = Days(D - 13 * DAY, D - 7 * DAY)


@pytest.fixture
def two(book: Book, desk: Desk) -> Desk:
    """Two locations with two weeks of random calls."""
    for location_id, zone in ((LOCATION, "America/New_York"), ("LocThere", "Asia/Kolkata")):
        book.location(location_id, zone)
        book.read(location_id, D - 15 * DAY, D + DAY)
        book.at_random(location_id, BEFORE.first, D, 250)
    desk.build(*(D - n * DAY for n in range(14)))
    return desk


def report(desk: Desk, location_id: str | None = None, agent_id: str | None = None) -> Report:
    with desk.engine.begin() as db:
        return insights.read(db, Scope(WEEK, BEFORE, location_id, agent_id))


def total(desk: Desk, mart: str, name: str, days: Days, **keys: Any) -> Any:
    where = " AND ".join(f"{key} = :{key}" for key in keys) or "true"
    query = f"SELECT sum({name}) FROM {mart} WHERE day BETWEEN :first AND :last AND {where}"  # noqa: S608
    with desk.engine.begin() as db:
        return db.execute(
            sa.text(query), {"first": days.first, "last": days.last, **keys}
        ).scalar_one()


@pytest.mark.parametrize(
    "keys",
    [{}, {"location_id": "LocThere"}, {"location_id": LOCATION, "agent_id": "agent-days"}],
    ids=["all", "location", "agent"],
)
def test_every_number_of_the_insights_is_that_of_the_marts(two: Desk, keys: dict[str, str]) -> None:
    found = report(two, **keys)
    mart = "agent_performance" if "agent_id" in keys else "daily_call_metrics"
    for days, outcomes in ((WEEK, found.outcomes), (BEFORE, found.outcomes_before)):
        for name in (*SUMS, *BUCKETS):
            mine = sum(one.sums[name] for one in found.by_day if one.day in days)
            assert mine == total(two, mart, name, days, **keys), name
        for outcome, (calls, seconds) in outcomes.items():
            of = {**keys, "outcome": outcome.value}
            assert calls == (total(two, "outcome_metrics", "calls", days, **of) or 0)
            assert seconds == float(total(two, "outcome_metrics", "talk_seconds", days, **of) or 0)
    calls = sum(one.sums["calls"] for one in found.by_day if one.day in WEEK)
    assert calls == sum(found.hours.values()) == sum(n for n, _ in found.outcomes.values()) > 0
    for agent in found.agents:
        of = {"location_id": agent.location_id, "agent_id": agent.agent_id}
        assert agent.before is not None
        for name in SUMS:
            assert agent.now[name] == (total(two, "agent_performance", name, WEEK, **of) or 0)
            assert agent.before[name] == (total(two, "agent_performance", name, BEFORE, **of) or 0)
    if "agent_id" not in keys:
        assert sum(agent.now["calls"] for agent in found.agents) == calls


def test_the_hours_of_all_agents_add_up_to_the_hours_of_their_location(two: Desk) -> None:
    whole = report(two, LOCATION)
    parts: dict[tuple[int, int], int] = {}
    for agent in whole.agents:
        for cell, count in report(two, LOCATION, agent.agent_id).hours.items():
            parts[cell] = parts.get(cell, 0) + count
    assert parts == whole.hours


def test_days_that_were_never_read_are_unknown_and_compare_with_nothing(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - 10 * DAY, D)
    book.read(LOCATION, D - 9 * DAY, D - 9 * DAY, state="failed")
    booked = [{"actionType": "APPOINTMENT_BOOKING"}]
    for ago in (0, 7):
        at = datetime(2026, 11, 10, 12, tzinfo=UTC) - ago * DAY
        book.call(LOCATION, at, executed_call_actions=booked)
    desk.build(*(D - n * DAY for n in range(14)))
    found = report(desk)
    by_day = {one.day: one for one in found.by_day}
    assert by_day[D - 9 * DAY].sums["calls"] is None
    assert D - 12 * DAY not in by_day
    assert by_day[D - 8 * DAY].sums["calls"] == 0
    (agent,) = found.agents
    assert (agent.now["goal_calls"], agent.before) == (1, None)
    assert found.outcomes[Outcome.GOAL][0] == 1
    # An agent that does not exist had no calls on the days that were read.
    nobody = report(desk, LOCATION, "agent-nobody")
    assert [one.sums["calls"] for one in nobody.by_day if one.day > D - timedelta(days=2)] == [0, 0]

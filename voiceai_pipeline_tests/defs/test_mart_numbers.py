"""What the UI shows of a mart's day: shares beside both of their numbers, and nothing cut off in
silence.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.defs import mart_numbers
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support.mart_calls import DAY, Book

D = date(2026, 11, 10)
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
LOCATION = "LocHere"
SENT: Mapping[str, Any] = {
    "actionType": "SMS",
    "actionName": "Send it",
    "triggerReceivedAt": "2026-11-10T12:00:00Z",
    "executedAt": "2026-11-10T12:00:02Z",
}


@pytest.fixture
def book(engine: sa.Engine) -> Book:
    book = Book(engine)
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - DAY, D)
    return book


def shown(book: Book, mart: str) -> dict[str, Any]:
    """What the UI shows of the day, from marts just built."""
    days = [D - DAY, D]
    assert Marts(book.engine, ZoneInfo("UTC"), MetricRules()).build(days).disagreements == ()
    facts = mart_numbers.of_days(book.engine, [D])[mart][D]
    return {
        name: value.md_str.replace("\N{NO-BREAK SPACE}", " ")
        if isinstance(value, dg.MarkdownMetadataValue)
        else value
        for name, value in facts.items()
    }


def test_actions_are_shown_with_their_share_of_calls_and_how_fast_they_were(book: Book) -> None:
    for number in range(10):
        at = f"2026-11-10T12:00:0{number}Z" if number else None
        sent = {**SENT, "executedAt": at}
        # In a call twice is one call; two calls have none.
        actions = [sent, sent] if number == 1 else [sent] if number < 8 else []
        book.call(LOCATION, NOON, executed_call_actions=actions, is_agent_deleted=True)
        book.call(LOCATION, NOON - DAY, agent_id="agent-nights", transcript="")
    facts = shown(book, "action_metrics")
    assert "|Send it, SMS|██████ 8|40 %|8 of 9|" in facts["actions_28_days"]
    assert facts["actions_28_days"].endswith("*share: of all 20 calls of these days.*")
    assert (
        "|Send it|agent agent-da (deleted), LocHere Ltd|8 of 10|3.5|6.3|"
        in facts["actions_of_the_day"]
    )
    del facts["actions_28_days"], facts["actions_of_the_day"]
    assert facts == {
        "calls": 10,
        "calls_with_action": 8,
        "calls_with_action_percent": 80.0,
        "actions": 9,
        "executed_actions": 8,
        "unknown_actions": 0,
    }


def test_values_are_shown_with_their_share_of_the_calls_that_could_have_them(book: Book) -> None:
    for number in range(25):
        found = {"email": "pat@example.test"} if number < 15 else {"email": ""}
        transcript = "" if number == 0 else "human:Hi\nhuman:Bye"
        book.call(LOCATION, NOON, extracted_data=found, transcript=transcript)
        # Another agent is never asked for it.
        book.call(LOCATION, NOON, agent_id="agent-nights")
    facts = shown(book, "data_capture_metrics")
    assert "|email|██████ 14|24|58 %|" in facts.pop("values_28_days")
    assert facts == {
        "engaged_calls": 49,
        "engaged_captured_calls": 14,
        "captured_percent": 28.6,
    }


def test_trial_and_missing_calls_stand_beside_the_calls_of_the_day(book: Book) -> None:
    book.call(LOCATION, NOON)
    book.call(LOCATION, NOON, is_trial=True)
    book.call(LOCATION, NOON, missing_since=NOON)
    facts = shown(book, "daily_call_metrics")
    assert (facts["calls"], facts["trial_calls"], facts["missing_calls"]) == (1, 1, 1)
    assert "|LocHere Ltd|1|1|(0 %)|\N{EN DASH}||" in facts["locations_of_the_day"]


def test_a_percentage_stands_beside_what_it_is_a_share_of(book: Book) -> None:
    book.call(LOCATION, NOON)
    book.call(LOCATION, NOON + DAY / 2 - timedelta(minutes=1), transcript="")
    book.call(LOCATION, NOON + timedelta(minutes=45), agent_id="agent-unknown")
    hours = shown(book, "hourly_activity")
    del hours["when_people_call"]
    assert hours == {
        "calls": 3,
        "busiest_hour": 12,
        "hours_known_calls": 2,
        "after_hours_percent": 0.0,
    }
    agents = shown(book, "agent_performance")
    assert (agents["calls"], agents["engaged_calls"], agents["engaged_percent"]) == (3, 2, 66.7)


def test_outcomes_are_shown_by_name_and_add_up_to_the_calls(book: Book) -> None:
    booked = [SENT | {"actionType": "APPOINTMENT_BOOKING"}]
    for number in range(20):
        book.call(LOCATION, NOON, executed_call_actions=booked if number < 5 else [])
    book.call(LOCATION, NOON - DAY, executed_call_actions=[SENT])
    facts = shown(book, "outcome_metrics")
    table = facts.pop("outcomes_28_days")
    assert "|Booked|██ 5|24 %|" in table
    assert "|Follow-up started|▍ 1|5 %|" in table
    assert facts == dict.fromkeys(Outcome, 0) | {"goal": 5, "answered": 15}


def test_a_share_of_few_calls_is_in_brackets_and_that_is_said(book: Book) -> None:
    book.call(LOCATION, NOON, executed_call_actions=[SENT | {"actionType": "CALL_TRANSFER"}])
    book.call(LOCATION, NOON)
    agents = shown(book, "agent_performance")["agents_28_days"]
    assert "|██████ 2|2|(0 %)|(50 %)|" in agents
    assert agents.endswith("*goal, transfer: % of engaged calls, in brackets if fewer than 20.*")


@pytest.mark.parametrize(
    ("mart", "table", "what"),
    [
        ("agent_performance", "agents_28_days", "agents"),
        ("action_metrics", "actions_28_days", "actions"),
        ("action_metrics", "actions_of_the_day", "actions"),
        ("data_capture_metrics", "values_28_days", "values"),
    ],
)
def test_a_table_that_is_cut_short_says_how_many_there_are(
    book: Book, mart: str, table: str, what: str
) -> None:
    for number in range(60):
        book.call(
            LOCATION,
            NOON,
            agent_id=f"agent-{number}",
            executed_call_actions=[{**SENT, "actionName": f"Step {number}"}],
            extracted_data={f"answer {number}": "yes"},
        )
    text = shown(book, mart)[table]
    rows = sum(line.startswith("|") for line in text.splitlines()) - 2
    assert f"and {60 - rows} more {what}" in text


def test_two_weeks_are_compared_once_both_are_over(book: Book) -> None:
    book.read(LOCATION, D - 15 * DAY, D - 2 * DAY)
    facts = shown(book, "daily_call_metrics")
    assert (facts["calls_7d"], facts["calls_previous_7d"]) == (0, 0)
    book.read(LOCATION, D, D, until=NOON)
    assert not {"calls_7d", "calls_previous_7d"} & shown(book, "daily_call_metrics").keys()


def test_an_agent_deleted_since_its_last_call_is_marked(book: Book) -> None:
    book.call(LOCATION, NOON)
    with book.engine.begin() as db:
        db.exec_driver_sql("UPDATE voiceai_agents SET missing_since = now()")
    assert "agent agent-da (deleted), LocHere" in shown(book, "agent_performance")["agents_28_days"]


def test_nothing_is_said_where_there_is_nothing(book: Book) -> None:
    assert shown(book, "action_metrics") == {
        "actions_28_days": "No actions.",
        "actions_of_the_day": "No actions.",
        "calls": 0,
        "calls_with_action": 0,
        "actions": 0,
        "executed_actions": 0,
        "unknown_actions": 0,
    }

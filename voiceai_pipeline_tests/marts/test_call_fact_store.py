"""Outcomes of calls: exactly one each, by the printed rule, whatever a call contains."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.outcome import Outcome, not_final_since
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts import call_fact_store
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk
from voiceai_pipeline_tests.support.repetition import repeated, soak

GONE: Final = datetime(2026, 11, 20, tzinfo=UTC)
TYPES: Final = (
    "APPOINTMENT_BOOKING", "CALL_TRANSFER", "WORKFLOW_TRIGGER", "SMS", "CUSTOM_ACTION",
    "DATA_EXTRACTION", "IN_CALL_DATA_EXTRACTION", "KNOWLEDGE_BASE", "TELEPATHY", "",
)  # fmt: skip
ACTIONS = st.one_of(
    st.fixed_dictionaries(
        {"actionType": st.sampled_from(TYPES)},
        optional={"executedAt": st.sampled_from(("2026-10-01T10:00:05.000Z", "soon", "", None))},
    ),
    st.sampled_from(({}, "not an action", None, 7)),
)
VALUES = st.sampled_from(("Pat", "", " ", None, False, 0, [], {}, [1]))
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "duration_seconds": st.sampled_from((None, 0, 9.9994, 9.9996, 10, 60, -1, 90_000)),
            "transcript": st.sampled_from((
                None, "", " \n", "bot:Hello", "human:Hi", "Human:Hi\nbot:Yes?\nUSER:Book me",
                "human:One\nhuman:Two\nhuman:Three", "Speaker 1: Hi\nSpeaker 2: Hello",
            )),
            "executed_call_actions": st.one_of(st.lists(ACTIONS, max_size=3), st.just({})),
            "extracted_data": st.one_of(
                st.none(), st.just(["a list"]), st.dictionaries(st.just("name"), VALUES)
            ),
            "is_trial": st.sampled_from((False, True, None)),
            "missing_since": st.sampled_from((None, GONE)),
            "age": st.integers(0, 5),
        }
    ),
    min_size=1,
    max_size=30,
)  # fmt: skip
RULES = st.builds(
    MetricRules,
    engaged_turns=st.integers(1, 3),
    engaged_seconds=st.sampled_from((10, 61)),
    goal_actions=st.sampled_from((("APPOINTMENT_BOOKING",), ("CALL_TRANSFER", "SMS"))),
    follow_up_actions=st.sampled_from((("SMS",), ("CUSTOM_ACTION", "SMS", "WORKFLOW_TRIGGER"))),
)


def outcome_by_the_docs(call: dict[str, Any], rules: MetricRules, now: datetime) -> Outcome:
    """A second implementation, from docs/metrics.md."""
    listed = call["executed_call_actions"]
    listed = [a for a in listed if isinstance(a, dict)] if isinstance(listed, list) else []
    types = {action.get("actionType") for action in listed}
    data = call["extracted_data"] if isinstance(call["extracted_data"], dict) else {}
    is_filled = any(
        value not in (None, [], {}) and (not isinstance(value, str) or value.strip())
        for value in data.values()
    )
    lines = [line.lower() for line in (call["transcript"] or "").splitlines()]
    turns = sum(line.startswith(("human:", "user:")) for line in lines)
    is_unknown = any(map(str.strip, lines)) and not any(
        line.startswith(("human:", "user:", "bot:")) for line in lines
    )
    duration = call["duration_seconds"]
    if duration is not None and not 0 <= duration <= 86_400:
        duration = None
    if types & set(rules.goal_actions):
        return Outcome.GOAL
    if any(a.get("actionType") == "CALL_TRANSFER" and a.get("executedAt") for a in listed):
        return Outcome.TRANSFERRED
    if types & set(rules.follow_up_actions):
        return Outcome.FOLLOW_UP
    if types & {"DATA_EXTRACTION", "IN_CALL_DATA_EXTRACTION"} or is_filled:
        return Outcome.DATA_TAKEN
    if (
        turns >= rules.engaged_turns
        and duration is not None
        and round(duration, 3) >= rules.engaged_seconds
    ):
        return Outcome.ANSWERED
    unsaid = Outcome.UNCLEAR if is_unknown or duration is None else Outcome.NO_CONVERSATION
    return Outcome.NOT_FINAL if call["started_at"] >= not_final_since(now) else unsaid


@soak
@settings(
    max_examples=repeated(25, 400), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=CALLS, rules=RULES)
def test_every_call_has_exactly_the_outcome_of_the_first_rule_that_holds(
    engine: sa.Engine, calls: Sequence[dict[str, Any]], rules: MetricRules
) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("TRUNCATE call_logs, call_facts")
    book = Book(engine)
    expected, now = {}, datetime.now(UTC)
    for call in calls:
        stored = {name: value for name, value in call.items() if name != "age"}
        stored["started_at"] = now - call["age"] * DAY
        call_id = book.call(LOCATION, **stored)
        expected[call_id] = outcome_by_the_docs(stored, rules, now)

    with engine.begin() as db:
        window = now - 9 * DAY, now + DAY
        derived = call_fact_store.refresh(db, {LOCATION: UTC_ZONE}, *window, rules)
        again = call_fact_store.refresh(db, {LOCATION: UTC_ZONE}, *window, rules)
        found = db.exec_driver_sql("SELECT call_id, outcome FROM voiceai.all_calls")
        assert {row.call_id: row.outcome for row in found} == expected
    assert (derived, again) == (len(calls), 0)


def test_a_call_that_was_just_stored_is_not_final_until_its_facts_are_derived(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    booked = [{"actionType": "APPOINTMENT_BOOKING"}]
    book.call(LOCATION, datetime(2026, 11, 10, 12, tzinfo=UTC), executed_call_actions=booked)

    def shown() -> list[tuple[Any, ...]]:
        query = "SELECT outcome, is_goal_reached, caller_turns FROM voiceai.calls"
        with desk.engine.begin() as db:
            return [tuple(row) for row in db.exec_driver_sql(query)]

    assert shown() == [("not_final", None, None)]
    desk.build(D)
    assert shown() == [("goal", True, 2)]
    with desk.engine.begin() as db:  # a late edit, by whatever writes it
        db.exec_driver_sql("UPDATE call_logs SET executed_call_actions = '[]'")
    desk.build(D)
    assert shown() == [("answered", False, 2)]
    desk.build(D, rules=MetricRules(engaged_turns=3))
    assert shown() == [("no_conversation", False, 2)]


def test_marts_count_an_outcome_as_not_final_until_the_days_that_are_re_read_are_over(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "Pacific/Auckland")
    book.read(LOCATION, D - DAY, D + DAY, finished_at=datetime(2026, 11, 12, tzinfo=UTC))
    for hour in (2, 22):  # of 10 November, and of 11 November in Auckland
        book.call(LOCATION, datetime(2026, 11, 10, hour, tzinfo=UTC), transcript="")
    book.call(LOCATION, datetime(2026, 11, 10, 3, tzinfo=UTC))

    def counted() -> dict[Any, dict[str, int]]:
        found: dict[Any, dict[str, int]] = {D: {}, D + DAY: {}}
        for row in desk.rows("outcome_metrics"):
            found[row["day"]][row["outcome"]] = row["calls"]
        return found

    midnight = datetime(2026, 11, 14, tzinfo=UTC)
    desk.now = midnight - timedelta(seconds=1)
    desk.settle()
    assert counted() == {D: {"answered": 1, "not_final": 1}, D + DAY: {"not_final": 1}}
    desk.now = midnight
    assert desk.stale() == {D: {LOCATION}, D + DAY: {LOCATION}}
    desk.settle()
    assert counted() == {D: {"answered": 1, "no_conversation": 1}, D + DAY: {"no_conversation": 1}}


def test_the_rules_that_marts_were_built_by_are_printed_in_them(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    desk.build(D, rules=MetricRules(goal_actions=("SMS",), follow_up_actions=("CUSTOM_ACTION",)))
    lines = desk.row()["outcome_rules"].splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(one) for one in Outcome]
    assert lines[0] == "goal: A goal action was run: SMS."
    assert lines[2] == "follow_up: Another action was run: CUSTOM_ACTION."


def test_local_days_and_hours_are_those_of_the_marts_also_when_the_zone_changes(
    book: Book, desk: Desk
) -> None:
    first, last = D - 10 * DAY, D + DAY  # New York sets its clocks back on 1 November
    book.location(LOCATION, "America/New_York")
    book.location("LocNowhere", "Mars/Olympus")
    for place in (LOCATION, "LocNowhere"):
        book.read(place, first - DAY, last + DAY)
        book.at_random(place, first, last, 60, is_trial=False, missing_since=None)
    counted = "count(*)::int FROM voiceai.calls GROUP BY 1, 2, 3"
    marts = "SELECT location_id, day, hour, sum(calls)::int FROM hourly_activity GROUP BY 1, 2, 3"

    def rows(query: str) -> set[tuple[Any, ...]]:
        with desk.engine.begin() as db:
            return {tuple(row) for row in db.exec_driver_sql(query)}

    for zone in ("America/New_York", "Asia/Kathmandu"):
        with desk.engine.begin() as db:
            db.execute(
                sa.text("UPDATE locations SET timezone = :zone WHERE location_id = :id"),
                {"zone": zone, "id": LOCATION},
            )
        desk.build(*(first + n * DAY for n in range(-1, (last - first).days + 2)))
        assert rows(f"SELECT location_id, local_day, local_hour, {counted}") == rows(marts)


def test_a_caller_has_one_pseudonym_in_all_calls_which_only_the_key_can_make(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    noon = datetime(2026, 11, 10, 12, tzinfo=UTC)
    for number in ("+15550100001", "+1 555 010 0001", "+15550100002", "anonymous", None):
        book.call(LOCATION, noon, contact_id=None, from_number=number)
    desk.build(D)
    with desk.engine.begin() as db:
        db.exec_driver_sql("SET LOCAL ROLE voiceai_analyst")
        found = db.exec_driver_sql("SELECT caller_pseudonym FROM voiceai.calls ORDER BY call_id")
        one, same, other, withheld, unknown = found.scalars()
    assert one == same
    assert one != other
    assert (withheld, unknown) == (None, None)
    with desk.engine.begin() as db:  # the key alone makes pseudonyms of hashes
        key = db.exec_driver_sql("SELECT key FROM caller_key").scalar_one()
        caller = db.exec_driver_sql("SELECT caller FROM call_facts WHERE call_id = 'call-1'")
        data = bytes(key) + caller.scalar_one().to_bytes(8, "big", signed=True)
    assert (len(key), one) == (32, hashlib.sha256(data).hexdigest()[:16])
    with desk.engine.connect() as db:
        db.exec_driver_sql("SET ROLE voiceai_analyst")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            db.exec_driver_sql("SELECT key FROM caller_key")

"""The invented calls: repeatable by seed, every kind among them, and filled in late."""

import datetime as dt
import time

import pytest

from voiceai_pipeline.sandbox.calls import (
    ACTION_TYPES,
    THIRD_PARTY_SECRET,
    calls_of_day,
    iso,
    outline_of_day,
)
from voiceai_pipeline.sandbox.cast import make_location
from voiceai_pipeline_tests.support.sandbox_client import (
    A_DAY,
    CALL_LOGS,
    HARBOR,
    QUIET,
    SECOND,
    Client,
    Clock,
    ms,
)


def test_the_same_seed_tells_the_same_calls_and_another_seed_others() -> None:
    first = calls_of_day(1, HARBOR, A_DAY)
    outline_of_day.cache_clear()
    assert calls_of_day(1, HARBOR, A_DAY) == first
    assert calls_of_day(2, HARBOR, A_DAY) != first
    assert calls_of_day(1, QUIET, A_DAY) == []


def test_a_few_weeks_hold_every_kind_of_call() -> None:
    days = [A_DAY - dt.timedelta(days=back) for back in range(40)]
    calls = [call for day in days for call in calls_of_day(1, HARBOR, day)]
    assert len({call["id"] for call in calls}) == len(calls)
    actions = [action for call in calls for action in call["executedCallActions"]]
    assert {action["actionType"] for action in actions} == set(ACTION_TYPES)
    custom = [one for one in actions if one["actionType"] == "CUSTOM_ACTION"]
    details = custom[0]["actionParameters"]["apiDetails"]
    assert THIRD_PARTY_SECRET in details["authenticationValue"]
    assert THIRD_PARTY_SECRET in details["headers"][0]["value"]
    trials = [call for call in calls if call["trialCall"]]
    assert trials
    assert not any("fromNumber" in call or "contactId" in call for call in trials)
    assert any(call["isAgentDeleted"] for call in calls)
    assert any(call["duration"] == 0 and call["transcript"] == "" for call in calls)
    assert any(call["duration"] != int(call["duration"]) for call in calls)
    for optional in ("fromNumber", "messageId", "extractedData", "translation"):
        assert {optional in call for call in calls} == {True, False}
    for unknown in ("agentTransferOccurred", "transcriptWithToolCalls"):
        assert {unknown in call for call in calls} == {True, False}
    times = {call["createdAt"][11:] for call in calls}
    assert {"00:00:00.000Z", "23:59:59.999Z"} <= times
    moments = [call["createdAt"] for call in calls]
    assert len(set(moments)) < len(moments)


@pytest.mark.parametrize("day", [dt.date(2026, 3, 8), dt.date(2026, 11, 1)], ids=str)
def test_calls_happen_on_both_sides_of_a_clock_change(day: dt.date) -> None:
    jump = {"03": "07:00", "11": "06:00"}[f"{day:%m}"]
    before = dt.datetime.fromisoformat(f"{day}T{jump}:00+00:00") - dt.timedelta(milliseconds=1)
    moments = {call["createdAt"] for call in calls_of_day(1, HARBOR, day)}
    assert {iso(ms(before)), f"{day}T{jump}:00.000Z"} <= moments


def test_bookings_are_reported_since_september_2025_only() -> None:
    days = [dt.date(2025, 9, 8) - dt.timedelta(days=back) for back in range(20)]
    kinds = {kind for day in days for call in outline_of_day(1, HARBOR, day) for kind in call[-1]}
    assert kinds == set(ACTION_TYPES) - {"APPOINTMENT_BOOKING"}


def test_drawing_ten_thousand_calls_costs_seconds_of_cpu_time_at_most() -> None:
    busy = make_location("Busy Bakery", 99, "catering", "Europe/Berlin", 1000)
    before = time.process_time()
    count = sum(len(calls_of_day(1, busy, A_DAY + dt.timedelta(days=n))) for n in range(14))
    assert count > 10_000
    assert time.process_time() - before < 10


def test_a_call_is_listed_from_the_moment_it_was_created(harbor: Client, clock: Clock) -> None:
    world = harbor.sandbox.world
    coming = world.calls.outlines(HARBOR, 0, 2**53)[-1]
    tomorrow = outline_of_day(world.seed, HARBOR, A_DAY + dt.timedelta(days=7))[0]
    assert coming.created_ms <= ms(clock.now)
    moment = dt.datetime.fromtimestamp(tomorrow.created_ms / 1000, dt.UTC)
    clock.now = moment - SECOND
    harbor.tokens = harbor.refresh().json()
    newest = harbor.calls(HARBOR.id, pageSize=1).json()
    assert newest["callLogs"][0]["id"] != tomorrow.id
    clock.now = moment + SECOND
    later = harbor.calls(HARBOR.id, pageSize=5).json()
    assert tomorrow.id in [call["id"] for call in later["callLogs"]]
    assert later["total"] > newest["total"]


def test_late_fields_arrive_and_nothing_else_changes(harbor: Client, clock: Clock) -> None:
    outlines = outline_of_day(harbor.sandbox.world.seed, HARBOR, A_DAY)
    late = next(c for c in outlines if c.ready_ms > c.created_ms and c.action_types)
    clock.now = dt.datetime.fromtimestamp(late.ready_ms / 1000, dt.UTC) - SECOND
    harbor.connect(HARBOR.id)
    path = f"{CALL_LOGS}/{late.id}"
    early = harbor.get(path, locationId=HARBOR.id).json()
    assert (early["summary"], early["transcript"], early["executedCallActions"]) == ("", "", [])
    clock.advance(seconds=2)
    full = harbor.get(path, locationId=HARBOR.id).json()
    assert full["summary"]
    assert full["transcript"]
    assert full["executedCallActions"]
    arrived = {"summary", "transcript", "executedCallActions", "extractedData"}
    assert {k: v for k, v in early.items() if k not in arrived} == {
        k: v for k, v in full.items() if k not in arrived
    }

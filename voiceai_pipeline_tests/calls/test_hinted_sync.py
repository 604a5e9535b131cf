"""Calls that a message announces, in a sandbox in real time."""

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.hinted_sync import HintedSync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.hinted_calls import (
    due,
    ended,
    lease_of_another,
    now,
    pass_time,
    rows,
    tell,
)
from voiceai_pipeline_tests.support.synced_calls import HARBOR, UTC_ZONE, read_requests, table


@pytest.fixture
def clock() -> Clock:
    return Clock(now())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def hinted_sync(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, connect: Connector
) -> HintedSync:
    connect("Harbor Dental")
    return HintedSync(engine, Tokens(engine, vault, client), client, UTC_ZONE)


def read_due(engine: sa.Engine, hinted_sync: HintedSync) -> list[bool]:
    return [hinted_sync.read(one) for one in due(engine)]


def test_an_announced_call_is_stored_with_one_read(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    call = sandbox.world.calls.add(HARBOR, summary="Booked a visit")

    assert tell(engine, ended(call))
    assert read_due(engine, hinted_sync) == [True]

    stored = {row["call_id"]: row for row in table(engine, "Harbor Dental")}
    assert stored[call["id"]]["summary"] == "Booked a visit"
    assert read_requests(sandbox)[HARBOR] == 1
    assert due(engine) == []


def test_a_hinted_read_leaves_the_ledger_and_the_status_alone(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    tell(engine, ended(sandbox.world.calls.add(HARBOR)))
    read_due(engine, hinted_sync)

    assert rows(engine, "SELECT * FROM sync_ledger") == []
    assert rows(engine, "SELECT * FROM sync_status") == []
    ((seen_until,),) = rows(engine, "SELECT seen_until FROM hinted_reads")
    assert abs(seen_until - now()) < timedelta(minutes=5)


def test_many_hints_of_a_location_share_a_read(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    calls = [sandbox.world.calls.add(HARBOR) for _ in range(20)]
    tell(engine, *map(ended, calls))
    read_due(engine, hinted_sync)

    assert {call["id"] for call in calls} <= {row["call_id"] for row in table(engine)}
    assert read_requests(sandbox)[HARBOR] == 1


def test_texts_that_come_late_are_read_after_2_10_and_60_minutes(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    call = sandbox.world.calls.add(HARBOR, summary="", transcript="")
    tell(engine, ended(call))
    read_due(engine, hinted_sync)
    summaries = []
    for number, minutes in enumerate((2, 8, 50), 1):
        sandbox.world.calls.change(HARBOR, call["id"], summary=f"Text {number}")
        assert due(engine) == []
        pass_time(engine, timedelta(minutes=minutes, seconds=1))
        assert read_due(engine, hinted_sync) == [True]
        summaries += rows(engine, f"SELECT summary FROM call_logs WHERE call_id = '{call['id']}'")  # noqa: S608

    assert summaries == [("Text 1",), ("Text 2",), ("Text 3",)]
    assert rows(engine, "SELECT * FROM call_hints") == []


def test_a_call_that_is_not_listed_yet_is_found_by_a_later_read(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    tell(engine, ended("6740aa00000000000000late"))
    read_due(engine, hinted_sync)
    late = sandbox.world.calls.add(HARBOR)
    pass_time(engine, timedelta(minutes=3))
    read_due(engine, hinted_sync)

    assert late["id"] in {row["call_id"] for row in table(engine)}


def test_a_location_that_a_sync_reads_is_read_when_the_sync_has_ended(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    tell(engine, ended(sandbox.world.calls.add(HARBOR)))
    with lease_of_another(engine, HARBOR):
        assert read_due(engine, hinted_sync) == [False]
    assert read_due(engine, hinted_sync) == [True]


def test_a_failed_read_is_retried_in_a_minute_and_given_up_after_two_hours(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    tell(engine, ended(sandbox.world.calls.add(HARBOR)))
    sandbox.world.add_fault(Fault("server_error", HARBOR, status=503))

    assert read_due(engine, hinted_sync) == [False]
    assert due(engine) == []
    pass_time(engine, timedelta(minutes=1, seconds=1))
    assert read_due(engine, hinted_sync) == [False]
    pass_time(engine, timedelta(hours=2))
    read_due(engine, hinted_sync)

    assert rows(engine, "SELECT * FROM call_hints") == []
    assert rows(engine, "SELECT * FROM sync_ledger") == []


def test_hints_of_a_disconnected_user_are_forgotten_without_a_request(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox, connect: Connector
) -> None:
    tell(engine, ended(sandbox.world.calls.add(HARBOR)))
    connect.consent.disconnect(UUID(DEMO["Harbor Dental"].id))

    assert read_due(engine, hinted_sync) == [False]
    assert rows(engine, "SELECT * FROM call_hints") == []
    assert read_requests(sandbox)[HARBOR] == 0


def test_a_message_about_a_call_long_ago_reads_one_day_at_most(
    engine: sa.Engine, hinted_sync: HintedSync, sandbox: RunningSandbox
) -> None:
    old = sandbox.world.calls.add(HARBOR, now() - timedelta(days=300))
    tell(engine, ended(old))
    (hinted,) = due(engine)

    assert now() - hinted.since < timedelta(hours=25)
    assert hinted_sync.read(hinted)

"""A user whose syncs an operator has paused: not read by anybody, told of truthfully, and caught up
with afterwards."""

import itertools
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.completeness import Completeness, of_days
from voiceai_pipeline.calls.dimensions import Directory
from voiceai_pipeline.calls.hinted_sync import HintedSync
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.calls.reconciliation import Reconciliation
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.pauses import Pauses
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.hinted_calls import due, ended, now, pass_time, rows, tell
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    HARBOR,
    UTC_ZONE,
    Interrupted,
    by_name,
    expected_calls,
    ledger_rows,
    midnight,
    read_requests,
    table,
)

PINE = "Pine Realty"


@pytest.fixture
def pausing(engine: sa.Engine, clock: Clock) -> Pauses:
    return Pauses(engine, now=clock)


@pytest.fixture
def pine(connect: Connector, sandbox: RunningSandbox) -> Connection:
    connected = connect(PINE)
    sandbox.world.clear_requests()
    return connected


def status_of(engine: sa.Engine, user_id: UUID) -> UserStatus | None:
    with engine.connect() as db:
        return ledger.statuses(db).get(user_id)


@pytest.mark.parametrize("mode", Mode)
def test_no_sync_reads_a_paused_user_and_the_day_says_so(
    mode: Mode, pine: Connection, engine: sa.Engine, sync: Sync, pausing: Pauses,
    sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    pausing.pause([pine.user.id], "their secret reason")
    for asked in (None, [pine.user.id]):
        (result,) = sync.sync_days([DAY], user_ids=asked, mode=mode, at_once=True)
        assert (result.state, result.failure) == (DayState.WAITING, FailureClass.SYNC_PAUSED)
    assert sandbox.requests == []

    said = f"An operator has paused the user's syncs (since {clock.now:%Y-%m-%d %H:%M} UTC)"
    (row,) = ledger_rows(engine)
    assert row.message == f"{said}. Fix: Resume the user: voiceai-pipeline resume USER"
    (report,) = sync.report([DAY])
    assert (report.is_green, report.failed, report.unread) == (True, (), ())
    assert (len(report.waiting), report.paused, report.able) == (1, [pine.user], 0)
    assert report.waiting[0].message == row.message


def test_a_pause_is_no_sync_so_the_last_ones_result_stays(
    pine: Connection, engine: sa.Engine, sync: Sync, pausing: Pauses, clock: Clock
) -> None:
    sync.sync_days([DAY])
    before = status_of(engine, pine.user.id)
    assert before is not None
    assert before.status == "success"
    pausing.pause([pine.user.id])
    clock.now += timedelta(hours=1)
    sync.sync_days(DAYS, mode=Mode.REREAD)
    assert status_of(engine, pine.user.id) == before


def test_a_day_read_before_the_pause_stays_complete_and_is_counted_as_before(
    pine: Connection, sync: Sync, pausing: Pauses
) -> None:
    sync.sync_days([DAY])
    pausing.pause([pine.user.id])
    sync.sync_days(DAYS, mode=Mode.ONLY_FAILED)
    states = [(len(one.complete), len(one.paused)) for one in sync.report(DAYS)]
    assert states == [(0, 1), (1, 0), (0, 1)]


def test_a_paused_user_makes_no_day_red_and_a_resumed_one_does_until_it_is_read(
    pine: Connection, connect: Connector, engine: sa.Engine, sync: Sync, pausing: Pauses,
    clock: Clock,
) -> None:  # fmt: skip
    connect("Quiet Law")
    pausing.pause([pine.user.id])
    clock.now += timedelta(days=1)

    def colour() -> Completeness:
        with engine.connect() as db:
            everyone = connections.all_connections(db)
            return of_days(db, [DAY], everyone, UTC_ZONE, clock.now)[DAY]

    sync.sync_days([DAY])
    assert colour() is Completeness.COMPLETE
    pausing.resume([pine.user.id])
    assert colour() is Completeness.INCOMPLETE
    sync.sync_days([DAY], mode=Mode.ONLY_FAILED)
    assert colour() is Completeness.COMPLETE


def test_after_a_long_pause_every_missed_day_is_planned_and_fetched(
    pine: Connection, engine: sa.Engine, sync: Sync, pausing: Pauses, sandbox: RunningSandbox,
    clock: Clock,
) -> None:  # fmt: skip
    first = DAY - timedelta(days=12)
    clock.now = midnight(first) + timedelta(hours=10)
    sync.sync_days([first])  # today, so far
    pausing.pause([pine.user.id])
    for night in range(1, 12):
        clock.now = midnight(first + timedelta(days=night)) + timedelta(minutes=15)
        days = [clock.now.date() - timedelta(days=ago) for ago in (4, 3, 2, 1)]
        sync.sync_days(days, mode=Mode.REREAD)
    assert table(engine, PINE) == [
        call for call in table(engine, PINE) if call["started_at"].date() == first
    ]

    pausing.resume([pine.user.id])
    with engine.connect() as db:
        able = connections.able(db, ledger.users_with(db, DayState.WAITING, first))
        planned = sorted({day for _, day in ledger.waiting(db, able, first)})
    assert planned == [first + timedelta(days=n) for n in range(11)]
    results = sync.sync_days(planned, user_ids=[pine.user.id], mode=Mode.ONLY_FAILED)
    assert {one.state for one in results} == {DayState.COMPLETE}
    missed = expected_calls(sandbox, PINE, first, planned[-1])
    assert {call["id"] for call in missed} <= {row["call_id"] for row in table(engine, PINE)}


# While a run reads -------------------------------------------------------------------------------


@pytest.fixture
def interrupted(sandbox: RunningSandbox, clock: Clock) -> Interrupted:
    return Interrupted(highlevel_settings(sandbox.url), sleep=clock.sleep)


def hasty(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock, workers: int = 1
) -> Sync:
    """A sync that looks at connections before each request: each look is a second later."""
    seconds = itertools.count()
    tokens = Tokens(engine, vault, client, now=clock, monotonic=lambda: float(next(seconds)))
    return Sync(engine, tokens, client, UTC_ZONE, now=clock, workers=workers)


def test_a_pause_while_a_run_reads_stops_it_and_what_was_read_stays(
    pine: Connection, engine: sa.Engine, vault: TokenVault, interrupted: Interrupted,
    pausing: Pauses, sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    clock.now = midnight(DAY + timedelta(days=4))
    sync = hasty(engine, vault, interrupted, clock)
    apart = [DAY, DAY + timedelta(days=2)]  # two windows
    interrupted.meanwhile = None
    sync.sync_days([DAY])
    stored = table(engine, PINE)
    sandbox.world.clear_requests()

    interrupted.meanwhile = lambda: pausing.pause([pine.user.id])
    results = sync.sync_days(apart, mode=Mode.REREAD)
    assert sum(read_requests(sandbox).values()) <= 2
    assert results[-1].failure is FailureClass.SYNC_PAUSED
    assert {one.state for one in results} <= {DayState.COMPLETE, DayState.WAITING}
    assert table(engine, PINE) == stored

    pausing.resume([pine.user.id])
    results = sync.sync_days(apart, mode=Mode.ONLY_FAILED)
    assert {one.state for one in results} == {DayState.COMPLETE}


def test_another_user_of_the_location_reads_on_and_only_the_paused_one_waits(
    connect: Connector, engine: sa.Engine, vault: TokenVault, interrupted: Interrupted,
    pausing: Pauses, clock: Clock,
) -> None:  # fmt: skip
    clinic, desk = (connect(name) for name in ("Sunrise Clinic", "Sunrise Front Desk"))
    sync = hasty(engine, vault, interrupted, clock)
    days = [DAY - timedelta(days=n) for n in range(10)]
    interrupted.meanwhile = lambda: pausing.pause([clinic.user.id])
    results = sync.sync_days(days)
    assert {one.state for one in results if one.user == desk.user} == {DayState.COMPLETE}
    assert {one.failure for one in results if one.user == clinic.user} <= {
        None,
        FailureClass.SYNC_PAUSED,
    }

    (row,) = (one for one in sync.sync_days([DAY], mode=Mode.REREAD) if one.user == clinic.user)
    assert row.failure is FailureClass.SYNC_PAUSED


# Other reads -------------------------------------------------------------------------------------


def test_neither_the_comparison_nor_the_directory_asks_about_a_paused_user(
    pine: Connection, engine: sa.Engine, tokens: Tokens, client: HighLevelClient, sync: Sync,
    reconciliation: Reconciliation, pausing: Pauses, sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    sync.sync_days([DAY])
    pausing.pause([pine.user.id])
    clock.now += timedelta(days=2)
    sandbox.world.clear_requests()
    directory = Directory(engine, tokens, client, now=clock)
    assert reconciliation.reconcile() == []
    assert (directory.sync_agents(), directory.sync_locations()) == ({}, {})
    assert sandbox.requests == []


def test_a_call_announced_during_a_pause_is_read_after_it(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, connect: Connector,
    sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    clock.now = now()
    harbor = connect("Harbor Dental").user.id
    call = sandbox.world.calls.add(HARBOR, now() - timedelta(minutes=5))
    tell(engine, ended(call))
    pausing = Pauses(engine)
    pausing.pause([harbor])
    sandbox.world.clear_requests()

    hinted = HintedSync(engine, Tokens(engine, vault, client), client, UTC_ZONE)
    for _ in range(3):
        assert [hinted.read(one) for one in due(engine)] == [False]
        assert due(engine) == []
        pass_time(engine, timedelta(minutes=1, seconds=1))
    assert sandbox.requests == []
    pausing.resume([harbor])
    assert [hinted.read(one) for one in due(engine)] == [True]
    assert call["id"] in {row["call_id"] for row in table(engine, "Harbor Dental")}


def test_calls_announced_during_a_long_pause_are_left_to_the_next_sync(
    engine: sa.Engine, tokens: Tokens, client: HighLevelClient, connect: Connector,
    pausing: Pauses, sandbox: RunningSandbox,
) -> None:  # fmt: skip
    pausing.pause([connect("Harbor Dental").user.id])
    tell(engine, ended(sandbox.world.calls.add(HARBOR)))
    pass_time(engine, timedelta(hours=2))
    hinted = HintedSync(engine, tokens, client, UTC_ZONE)
    assert [hinted.read(one) for one in due(engine)] == [False]
    assert rows(engine, "SELECT * FROM call_hints") == []


def test_a_shared_location_is_read_for_the_user_who_is_not_paused(
    connect: Connector, engine: sa.Engine, sync: Sync, pausing: Pauses, sandbox: RunningSandbox
) -> None:
    clinic, _ = (connect(name) for name in ("Sunrise Clinic", "Sunrise Front Desk"))
    pausing.pause([clinic.user.id])
    results = by_name(sync.sync_days([DAY]))
    assert results["Sunrise Clinic"].failure is FailureClass.SYNC_PAUSED
    assert results["Sunrise Front Desk"].state is DayState.COMPLETE
    assert len(table(engine)) == len(expected_calls(sandbox, "Sunrise Clinic", DAY, DAY))

"""Which users and days a sync reads, and that each location succeeds or fails on its own."""

from datetime import date, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.dimensions import Directory
from voiceai_pipeline.calls.location_queue import Terms
from voiceai_pipeline.calls.sync import Mode, Sync, SyncRequestError
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    NEW_YORK,
    Interrupted,
    by_name,
    expected_calls,
    ledger_rows,
    location_of,
    midnight,
    read_requests,
    table,
)


def test_one_users_failure_leaves_the_others_complete(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", location_of("Harbor Dental")))
    results = by_name(sync.sync_days([DAY]))
    assert results.pop("Harbor Dental").failure is FailureClass.PROVIDER_ERROR
    assert {r.state for r in results.values()} == {DayState.COMPLETE}
    (report,) = sync.report([DAY])
    assert not report.is_green
    assert [row.user.name for row in report.failed] == ["Harbor Dental"]
    assert table(engine, "Harbor Dental") == []
    for name in results:
        assert len(table(engine, name)) == len(expected_calls(sandbox, name, DAY, DAY))


@pytest.mark.parametrize("mode", [Mode.ONLY_FAILED, Mode.RESUME])
def test_a_bad_day_fails_alone_and_a_rerun_reads_only_it(
    mode: Mode,
    all_connections: list[Connection],
    engine: sa.Engine,
    sync: Sync,
    sandbox: RunningSandbox,
) -> None:
    name = "Copper Kettle Catering"
    sandbox.world.add_fault(Fault("server_error", location_of(name), day=DAY))
    results = sync.sync_days(DAYS)
    failed = [(r.user.name, r.day, r.failure) for r in results if r.state is DayState.FAILED]
    assert failed == [(name, DAY, FailureClass.PROVIDER_ERROR)]
    assert [report.is_green for report in sync.report(DAYS)] == [True, False, True]
    with engine.connect() as db:
        status = ledger.statuses(db)[UUID(DEMO[name].id)]
    assert status.status == "failure"
    assert f"1 of 3 days, latest {DAY}" in (status.message or "")

    sandbox.world.heal(location_of(name))
    sandbox.world.clear_requests()
    # In Dagster: "failed and missing" days for RESUME, any range for ONLY_FAILED.
    asked = DAYS if mode is Mode.ONLY_FAILED else [DAY]
    again = sync.sync_days(asked, mode=mode)
    assert [(r.user.name, r.day, r.state) for r in again] == [(name, DAY, DayState.COMPLETE)]
    assert set(read_requests(sandbox)) == {location_of(name)}
    assert all(report.is_green for report in sync.report(DAYS))

    sandbox.world.clear_requests()
    if mode is Mode.ONLY_FAILED:
        assert sync.sync_days(asked, mode=mode) == []
        assert sandbox.requests == []
    else:  # everything is complete: asked again, everything is read again
        assert len(sync.sync_days(asked, mode=mode)) == len(all_connections)


def test_a_user_who_needs_action_is_listed_with_the_fix_and_costs_no_request(
    connect: Connector, engine: sa.Engine, sync: Sync, consent: Consent, sandbox: RunningSandbox
) -> None:
    connect.add("Juniper Fitness")
    connect("Cedar Vets")
    connect("Pine Realty")
    consent.disconnect(UUID(DEMO["Pine Realty"].id))
    sandbox.world.clear_requests()
    results = by_name(sync.sync_days([DAY]))
    assert sandbox.requests == []
    assert {name: row.failure for name, row in results.items()} == {
        "Juniper Fitness": FailureClass.NO_CONNECTION,
        "Cedar Vets": FailureClass.SCOPE_MISSING,
        "Pine Realty": FailureClass.NO_CONNECTION,
    }
    assert {row.state for row in results.values()} == {DayState.WAITING}
    assert all("Fix: " in row.message for row in ledger_rows(engine))
    (report,) = sync.report([DAY])
    assert report.is_green
    assert len(report.waiting) == 3
    assert all("voiceai-pipeline connect" in row.message for row in report.waiting)
    with engine.connect() as db:
        statuses = ledger.statuses(db)
    assert {s.status for s in statuses.values()} == {"failure"}
    assert "No valid OAuth connection found" in (
        statuses[UUID(DEMO["Pine Realty"].id)].message or ""
    )


def test_users_who_share_a_location_share_one_read(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Sunrise Clinic")
    sandbox.world.clear_requests()
    sync.sync_days([DAY])
    alone = read_requests(sandbox)
    connect("Sunrise Front Desk")
    sandbox.world.clear_requests()
    results = sync.sync_days([DAY], mode=Mode.REREAD)
    assert read_requests(sandbox) == alone
    assert [r.state for r in results] == [DayState.COMPLETE] * 2
    assert results[0].stored == results[1].stored == len(table(engine))


def test_another_users_token_reads_the_location_when_the_first_ones_is_revoked(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    with engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE api_keys SET refresh_token = 'INVENTED-REVOKED', token_expires_at = NULL "
                "WHERE user_id = :id"
            ),
            {"id": DEMO["Sunrise Clinic"].id},
        )
    results = by_name(sync.sync_days([DAY]))
    assert results["Sunrise Clinic"].failure is FailureClass.REFRESH_REJECTED
    assert results["Sunrise Clinic"].state is DayState.WAITING
    assert results["Sunrise Front Desk"].state is DayState.COMPLETE
    assert len(table(engine)) == len(expected_calls(sandbox, "Sunrise Clinic", DAY, DAY))


def test_a_paused_location_is_paused_for_all_users_who_share_it(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    sandbox.world.pause(location_of("Sunrise Clinic"))
    results = sync.sync_days([DAY])
    assert {(r.state, r.failure) for r in results} == {
        (DayState.WAITING, FailureClass.LOCATION_PAUSED)
    }
    sandbox.world.clear_requests()
    sync.sync_days([DAY])
    assert sandbox.requests == []


def test_a_day_that_was_never_tried_is_not_green(connect: Connector, sync: Sync) -> None:
    connect("Pine Realty")
    (report,) = sync.report([DAY])
    assert [user.name for user in report.unread] == ["Pine Realty"]
    assert not report.is_green


def test_an_unknown_user_is_named(connect: Connector, sync: Sync, engine: sa.Engine) -> None:
    pine = connect("Pine Realty").user.id
    strangers = sorted([uuid4(), uuid4()], key=str)
    with pytest.raises(UnknownUserError) as refused:
        sync.sync_days([DAY], user_ids=[pine, *strangers])
    assert f"{strangers[0]}, {strangers[1]}" in str(refused.value)
    assert str(pine) not in str(refused.value)
    assert "voiceai-pipeline users" in str(refused.value)
    assert ledger_rows(engine) == []


def test_days_read_shortly_before_a_connection_broke_are_re_synced_when_it_is_back(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    user = connect("Pine Realty").user.id
    clock.now = midnight(DAY + timedelta(days=1)) + timedelta(minutes=15)

    def night() -> None:
        today = clock.now.date()
        days = [today - timedelta(days=ago) for ago in (4, 3, 2, 1)]
        sync.sync_days(days, mode=Mode.REREAD)

    night()
    late = table(engine, "Pine Realty")[-1]["call_id"]
    sandbox.world.revoke(location_of("Pine Realty"))
    sandbox.world.calls.change(location_of("Pine Realty"), late, summary="It came later.")
    for _ in range(4):
        clock.now += timedelta(days=1)
        night()
    connect("Pine Realty")
    with engine.connect() as db:
        waiting = {day for _, day in ledger.waiting(db, [user], date.min)}
    sync.sync_days(waiting, user_ids=[user], mode=Mode.ONLY_FAILED)
    rows = {row["call_id"]: row for row in table(engine, "Pine Realty")}
    assert rows[late]["summary"] == "It came later."


def test_an_empty_range_and_a_future_day_are_refused_with_a_sentence(
    sync: Sync, clock: Clock
) -> None:
    with pytest.raises(SyncRequestError, match="No day was given"):
        sync.sync_days([])
    with pytest.raises(SyncRequestError, match=r"2026-11-21 lies in the future.*2026-11-20"):
        sync.sync_days([DAY, date(2026, 11, 21)])


def test_only_the_requested_users_are_read(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    sandbox.world.clear_requests()
    results = sync.sync_days([DAY], user_ids=[UUID(DEMO["Pine Realty"].id)])
    assert [r.user.name for r in results] == ["Pine Realty"]
    assert set(read_requests(sandbox)) == {location_of("Pine Realty")}
    assert sync.sync_days([DAY], user_ids=[]) == []


def test_a_range_is_one_window_and_gaps_are_not_read(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    sandbox.world.clear_requests()
    sync.sync_days([*DAYS, DAY - timedelta(days=9)])
    spans = {
        (int(r.query["endDate"]) - int(r.query["startDate"])) / 1000 - 2
        for r in sandbox.requests
        if r.path == CALL_LOGS
    }
    assert spans == {86_400.0, 3 * 86_400.0}


def test_today_is_read_up_to_now_and_extended_later(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connect("Harbor Dental")
    today = clock.now.date()
    (first,) = sync.sync_days([today])
    assert (first.state, first.read_until) == (DayState.COMPLETE, clock.now)
    assert sync.report([today])[0].is_green
    clock.now += timedelta(hours=8)
    (second,) = sync.sync_days([today])
    assert second.read_until == clock.now
    assert second.new > 0
    clock.now += timedelta(hours=8)  # tomorrow: what came after the last read is unread
    (report,) = sync.report([today])
    assert not report.is_green
    (third,) = sync.sync_days([today], mode=Mode.ONLY_FAILED)
    assert third.read_until == midnight(today + timedelta(days=1))
    assert sync.report([today])[0].is_green
    assert len(table(engine)) == len(expected_calls(sandbox, "Harbor Dental", today, today))


def test_an_unreachable_database_is_reported_in_a_sentence_without_sql(
    vault: TokenVault, client: HighLevelClient
) -> None:
    gone = open_engine(Secret("postgresql+psycopg://nobody:INVENTED-PASSWORD@127.0.0.1:9/none"))
    tokens = Tokens(gone, vault, client)
    sync = Sync(gone, tokens, client, NEW_YORK)
    for attempt in (
        lambda: sync.sync_days([DAY]),
        lambda: sync.report([DAY]),
        Directory(gone, tokens, client).sync_agents,
        Directory(gone, tokens, client).sync_locations,
    ):
        with pytest.raises(PipelineError) as failure:
            attempt()
        assert failure.value.failure is FailureClass.DATABASE
        text = str(failure.value)
        assert "INVENTED" not in text
        assert "SELECT" not in text
        assert "nobody" not in text
        assert "voiceai-pipeline doctor" in text
        assert failure.value.__cause__ is None


def test_a_database_dropped_during_a_sync_is_reported(
    postgres: EmbeddedPostgres,
    template: str,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    postgres.create_database("doomed", template=template)
    engine = open_engine(Secret(postgres.url("doomed")))
    client = Interrupted(highlevel_settings(sandbox.url))
    with client:
        tokens = Tokens(engine, vault, client, now=clock)
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        connector("Harbor Dental")
        connector.browser.close()
        client.meanwhile = lambda: postgres.drop_database("doomed")
        impatient = Sync(
            engine, tokens, client, NEW_YORK, now=clock, terms=Terms(outage=timedelta(0))
        )
        with pytest.raises(PipelineError) as failure:
            impatient.sync_days([DAY])
    engine.dispose()
    assert failure.value.failure is FailureClass.DATABASE
    assert "api_keys" not in str(failure.value)

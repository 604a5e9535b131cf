"""Days of users into the tables: complete, exactly once, honest, and each location on its own."""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls import call_store, ledger
from voiceai_pipeline.calls.day_status import RETRIED, RETRY_DELAYS
from voiceai_pipeline.calls.dimensions import Directory
from voiceai_pipeline.calls.location_queue import Terms
from voiceai_pipeline.calls.sync import Mode, Sync, SyncRequestError
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, User
from voiceai_pipeline.core.days import DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel import calls as highlevel
from voiceai_pipeline.highlevel.calls import Page
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.calls import THIRD_PARTY_SECRET
from voiceai_pipeline.sandbox.faults import CALL_LOGS, KINDS, VARIANTS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import (
    DEMO,
    KEYS,
    Clock,
    Connector,
    counted,
    highlevel_settings,
)

DAY = date(2026, 11, 18)
DAYS = [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)]
NEW_YORK = ZoneInfo("America/New_York")
UTC_ZONE = ZoneInfo("UTC")
HEALTHY = [name for name, user in DEMO.items() if user.role in ("healthy", "bad_day")]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["voiceai_pipeline_tests.support.token_processes", __name__])


def place(name: str) -> str:
    location_id = DEMO[name].location_id
    assert location_id is not None
    return location_id


def midnight(day: date, zone: ZoneInfo = UTC_ZONE) -> datetime:
    return Window.of_day(day, zone).start


def truth(sandbox: RunningSandbox, name: str, first: date, last: date) -> list[dict[str, Any]]:
    """What HighLevel has for these UTC days."""
    start, end = midnight(first), midnight(last + timedelta(days=1))
    return sandbox.world.calls.between(place(name), start, end)


def table(engine: sa.Engine, name: str = "") -> list[dict[str, Any]]:
    """``call_logs``, of one user's location or all of it, with the version of each row."""
    where = "WHERE location_id = :place" if name else ""
    query = f"SELECT *, xmin::text AS written FROM call_logs {where} ORDER BY started_at, call_id"  # noqa: S608
    with engine.connect() as db:
        values = {"place": place(name)} if name else {}
        return [dict(row) for row in db.execute(sa.text(query), values).mappings()]


def digest(engine: sa.Engine) -> str:
    """The calls, without what only says when we saw them."""
    query = (
        "SELECT md5(string_agg(t, '|' ORDER BY t)) FROM (SELECT ROW(location_id, call_id, "
        "started_at, raw, content_hash, missing_since IS NULL)::text AS t FROM call_logs) AS x"
    )
    with engine.connect() as db:
        return str(db.execute(sa.text(query)).scalar_one())


def read_requests(sandbox: RunningSandbox) -> Counter[str]:
    """How often each location's calls were asked for."""
    return Counter(r.location_id or "" for r in sandbox.requests if r.path == CALL_LOGS)


def rows(engine: sa.Engine, *days: date) -> list[DayResult]:
    with engine.connect() as db:
        return ledger.results(db, days=days or DAYS)


def retry_at(row: DayResult) -> datetime | None:
    """When a failed day is to be tried again by itself (UTC); None if it takes somebody first."""
    if row.failure not in RETRIED:
        return None
    if row.finished_at is None or not 1 <= row.attempt <= len(RETRY_DELAYS):
        return None
    return row.finished_at + RETRY_DELAYS[row.attempt - 1]


def by_name(results: list[DayResult]) -> dict[str, DayResult]:
    return {row.user.name: row for row in results}


@pytest.fixture
def all_connections(connect: Connector) -> list[Connection]:
    return [connect(name) for name in HEALTHY]


# What is stored -----------------------------------------------------------------------------------


def same(row: dict[str, Any], item: dict[str, Any]) -> None:
    """A row holds what HighLevel said, field by field, redaction aside."""
    assert row["started_at"] == datetime.fromisoformat(item["createdAt"])
    for column, key in {
        "call_id": "id",
        "agent_id": "agentId",
        "contact_id": "contactId",
        "from_number": "fromNumber",
        "duration_seconds": "duration",
        "is_trial": "trialCall",
        "is_agent_deleted": "isAgentDeleted",
        "summary": "summary",
        "transcript": "transcript",
        "extracted_data": "extractedData",
        "translation": "translation",
        "message_id": "messageId",
    }.items():
        said = item.get(key)
        assert row[column] == (None if said == "" else said), column
    plain = {key: value for key, value in item.items() if key != "executedCallActions"}
    assert {key: row["raw"][key] for key in plain} == plain
    actions = row["executed_call_actions"]
    said_actions = item["executedCallActions"]
    assert [a["actionType"] for a in actions] == [a["actionType"] for a in said_actions]
    assert [set(a) for a in actions] == [set(a) for a in said_actions]
    assert THIRD_PARTY_SECRET not in str(row)
    assert row["missing_since"] is None


def test_every_field_of_every_call_is_what_highlevel_says(
    all_connections: list[Connection],
    engine: sa.Engine,
    sync: Sync,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    shift = [date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 2)]
    days = [*shift, *DAYS]
    results = sync.sync_days(days)
    assert {row.state for row in results} == {DayState.COMPLETE}
    assert len(results) == len(all_connections) * len(days)
    edges = 0
    for name in HEALTHY:
        expected = truth(sandbox, name, shift[0], shift[-1]) + truth(
            sandbox, name, DAYS[0], DAYS[-1]
        )
        stored = table(engine, name)
        assert len(stored) == len(expected)
        for row, item in zip(
            stored, sorted(expected, key=lambda i: (i["createdAt"], i["id"])), strict=True
        ):
            same(row, item)
        edges += sum(item["createdAt"][11:] == "00:00:00.000Z" for item in expected)
        of_day = Counter(row["started_at"].date() for row in stored)
        for result in results:
            if result.user.name == name:
                assert result.stored == result.api_total == of_day[result.day]
    assert edges > 0  # calls exactly at midnight were among them


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
def test_a_call_at_midnight_lies_in_one_day_whatever_the_bounds_mean(
    ends: Any, connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Quiet Law")
    sandbox.world.date_ends = ends
    for moment in (midnight(DAY), midnight(DAY) - timedelta(milliseconds=1)):
        sandbox.world.calls.add(place("Quiet Law"), moment)
    for day in DAYS:
        sync.sync_days([day])
    assert [(row.day, row.stored) for row in rows(engine)] == [
        (DAYS[0], 1),
        (DAYS[1], 1),
        (DAYS[2], 0),
    ]
    assert len(table(engine)) == 2


def test_days_of_another_zone_share_no_call_and_lose_none(
    connect: Connector,
    engine: sa.Engine,
    tokens: Tokens,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Harbor Dental", "Willow Spa"):
        connect(name)
    sync = Sync(engine, tokens, client, NEW_YORK, now=clock)
    days = [date(2026, 10, 30) + timedelta(days=n) for n in range(5)]
    alone = [result for day in days for result in sync.sync_days([day])]
    together = sync.sync_days(days, mode=Mode.REREAD)
    for name in ("Harbor Dental", "Willow Spa"):
        start, end = midnight(days[0], NEW_YORK), midnight(days[-1] + timedelta(days=1), NEW_YORK)
        expected = Counter(
            datetime.fromisoformat(item["createdAt"]).astimezone(NEW_YORK).date()
            for item in sandbox.world.calls.between(place(name), start, end)
        )
        for results in (alone, together):
            found = {r.day: r.stored for r in results if r.user.name == name}
            assert found == {day: expected[day] for day in days}
        assert len(table(engine, name)) == expected.total()
    assert sum(r.new + r.changed + r.missing for r in together) == 0


# Doing it again -----------------------------------------------------------------------------------


def test_running_again_changes_no_row(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync, clock: Clock
) -> None:
    sync.sync_days(DAYS)
    once = table(engine)
    clock.now += timedelta(minutes=1)
    for mode in (Mode.REREAD, Mode.RESUME):
        again = sync.sync_days(DAYS, mode=mode)
        assert {r.state for r in again} == {DayState.COMPLETE}
        assert sum(r.new + r.changed + r.missing for r in again) == 0
    assert table(engine) == once


def test_ten_times_backwards_alone_and_all_at_once_give_the_same_table(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync
) -> None:
    for day in reversed(DAYS):
        sync.sync_days([day])
    once = digest(engine)
    with engine.begin() as db:
        db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))
    assert digest(engine) == "None"
    ranges = [DAYS, DAYS[:2], DAYS[1:], *[[day] for day in DAYS], DAYS, DAYS[1:], DAYS[:2], DAYS]
    with ThreadPoolExecutor(5) as pool:
        for results in pool.map(lambda days: sync.sync_days(days, mode=Mode.REREAD), ranges):
            assert {r.state for r in results} == {DayState.COMPLETE}
    assert digest(engine) == once
    with engine.connect() as db:
        per_user = db.execute(sa.text("SELECT count(*) FROM sync_status GROUP BY user_id"))
        assert set(per_user.scalars()) == {1}


def test_a_late_summary_is_an_update_and_a_vanished_call_is_marked_not_deleted(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connect("Pine Realty")
    sync.sync_days([DAY])
    before = {row["call_id"]: row for row in table(engine)}
    late, gone = list(before)[:2]
    sandbox.world.calls.change(place("Pine Realty"), late, summary="It came later.")
    sandbox.world.calls.remove(place("Pine Realty"), gone)
    clock.now += timedelta(hours=1)
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.new, result.changed, result.missing) == (0, 1, 1)
    assert result.stored == len(before) - 1
    after = {row["call_id"]: row for row in table(engine)}
    assert after[late]["summary"] == "It came later."
    assert after[gone]["missing_since"] == clock.now
    for call_id in set(before) - {late, gone}:
        assert after[call_id] == before[call_id]


# One fails, the others do not ---------------------------------------------------------------------


def test_one_users_failure_leaves_the_others_complete(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", place("Harbor Dental")))
    results = by_name(sync.sync_days([DAY]))
    assert results.pop("Harbor Dental").failure is FailureClass.PROVIDER_ERROR
    assert {r.state for r in results.values()} == {DayState.COMPLETE}
    (report,) = sync.report([DAY])
    assert not report.is_green
    assert [row.user.name for row in report.failed] == ["Harbor Dental"]
    assert table(engine, "Harbor Dental") == []
    for name in results:
        assert len(table(engine, name)) == len(truth(sandbox, name, DAY, DAY))


@pytest.mark.parametrize("mode", [Mode.ONLY_FAILED, Mode.RESUME])
def test_a_bad_day_fails_alone_and_a_rerun_reads_only_it(
    mode: Mode,
    all_connections: list[Connection],
    engine: sa.Engine,
    sync: Sync,
    sandbox: RunningSandbox,
) -> None:
    name = "Copper Kettle Catering"
    sandbox.world.add_fault(Fault("server_error", place(name), day=DAY))
    results = sync.sync_days(DAYS)
    failed = [(r.user.name, r.day, r.failure) for r in results if r.state is DayState.FAILED]
    assert failed == [(name, DAY, FailureClass.PROVIDER_ERROR)]
    assert [report.is_green for report in sync.report(DAYS)] == [True, False, True]
    with engine.connect() as db:
        status = ledger.statuses(db)[UUID(DEMO[name].id)]
    assert status.status == "failure"
    assert f"1 of 3 days, latest {DAY}" in (status.message or "")

    sandbox.world.heal(place(name))
    sandbox.world.clear_requests()
    # In Dagster: "failed and missing" days for RESUME, any range for ONLY_FAILED.
    asked = DAYS if mode is Mode.ONLY_FAILED else [DAY]
    again = sync.sync_days(asked, mode=mode)
    assert [(r.user.name, r.day, r.state) for r in again] == [(name, DAY, DayState.COMPLETE)]
    assert set(read_requests(sandbox)) == {place(name)}
    assert all(report.is_green for report in sync.report(DAYS))

    sandbox.world.clear_requests()
    if mode is Mode.ONLY_FAILED:
        assert sync.sync_days(asked, mode=mode) == []
        assert sandbox.requests == []
    else:  # everything is complete: asked again, everything is read again
        assert len(sync.sync_days(asked, mode=mode)) == len(all_connections)


def test_in_an_outage_only_the_first_day_is_asked_for_again_and_again(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    sandbox.world.add_fault(Fault("server_error", place(name), path=CALL_LOGS))
    days = [DAY - timedelta(days=n) for n in range(10)]
    apart = DAY - timedelta(days=20)
    results = sync.sync_days([apart, *days])
    assert {r.failure for r in results} == {FailureClass.PROVIDER_ERROR}
    # All attempts for the day apart, which comes first; one for the range; one for each of it.
    assert read_requests(sandbox) == {place(name): 3 + 1 + 10}

    sandbox.world.clear_requests()
    results = sync.sync_days(days)
    assert {r.failure for r in results} == {FailureClass.PROVIDER_ERROR}
    assert read_requests(sandbox) == {place(name): 3 + 3 + 9}


def test_the_day_after_an_outage_is_asked_for_as_patiently_as_ever(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    # Three attempts for the range and three for its first day; the second day asks once.
    sandbox.world.add_fault(Fault("server_error", place(name), times=7))
    sandbox.world.add_fault(Fault("server_error", place(name), times=2, day=DAY))
    days = [DAY - timedelta(days=n) for n in (3, 2, 1, 0)]
    failed, complete = DayState.FAILED, DayState.COMPLETE
    assert [r.state for r in sync.sync_days(days)] == [failed, failed, complete, complete]


def test_a_rate_limit_is_waited_for_in_an_outage_too(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    sandbox.world.add_fault(Fault("server_error", place(name), times=6))
    sandbox.world.add_fault(Fault("rate_limit", place(name), times=2, day=DAY))
    days = [DAY - timedelta(days=1), DAY]
    assert [r.state for r in sync.sync_days(days)] == [DayState.FAILED, DayState.COMPLETE]


def test_who_waits_for_a_person_is_listed_with_the_fix_and_costs_no_request(
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
    assert all("Fix: " in row.message for row in rows(engine))
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


def test_the_documented_messages_reach_the_status(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connection = connect("Larch Auto Care")
    sandbox.world.revoke(place("Larch Auto Care"))
    clock.now += timedelta(days=2)
    (result,) = sync.sync_days([DAY])
    assert (result.state, result.failure) == (DayState.WAITING, FailureClass.REFRESH_REJECTED)
    with engine.connect() as db:
        status = ledger.statuses(db)[connection.user.id]
    assert (status.status, status.records_synced) == ("failure", 0)
    assert (status.message or "").startswith("Failed to refresh token")
    assert status.last_sync_at == clock.now


def test_the_status_of_another_service_stays_as_it_is(
    connect: Connector, engine: sa.Engine, sync: Sync
) -> None:
    user_id = connect("Harbor Dental").user.id
    query = "SELECT service, last_sync_message FROM sync_status ORDER BY service"
    with engine.begin() as db:
        values = {"id": uuid4(), "user": user_id}
        db.execute(
            sa.text(
                "INSERT INTO sync_status (id, user_id, service, last_sync_message) "
                "VALUES (:id, :user, 'calendar', 'of another')"
            ),
            values,
        )
    for _ in range(2):
        sync.sync_days([DAY], mode=Mode.REREAD)
        with engine.connect() as db:
            (calendar, ours) = db.execute(sa.text(query)).all()
        assert tuple(calendar) == ("calendar", "of another")
        assert ours.last_sync_message.startswith("Synced 1 day")


def test_a_success_says_how_many(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connection = connect("Pine Realty")
    expected = len(truth(sandbox, "Pine Realty", DAYS[0], DAYS[-1]))
    sync.sync_days(DAYS)
    with engine.connect() as db:
        status = ledger.statuses(db)[connection.user.id]
    assert (status.status, status.records_synced, status.last_sync_at) == (
        "success",
        expected,
        clock.now,
    )
    assert status.message == f"Synced 3 days: {expected} calls, {expected} new, 0 changed"


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


def test_a_colleagues_token_reads_when_the_first_ones_is_revoked(
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
    assert len(table(engine)) == len(truth(sandbox, "Sunrise Clinic", DAY, DAY))


def test_a_paused_location_waits_for_all_who_share_it(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    sandbox.world.pause(place("Sunrise Clinic"))
    results = sync.sync_days([DAY])
    assert {(r.state, r.failure) for r in results} == {
        (DayState.WAITING, FailureClass.LOCATION_PAUSED)
    }
    sandbox.world.clear_requests()
    sync.sync_days([DAY])
    assert sandbox.requests == []


# No false green (D2) ------------------------------------------------------------------------------


def troubles() -> list[Any]:
    found = []
    for kind in KINDS:
        if kind in ("latency", "churn"):
            continue  # these alone break nothing
        for variant in VARIANTS if kind == "unauthorized" else VARIANTS[:1]:
            fault = Fault(kind, variant=variant, seconds=30)  # type: ignore[arg-type]
            found.append(pytest.param(fault, id=f"{kind} {variant}"))
    return found


@pytest.mark.parametrize("fault", troubles())
def test_no_trouble_of_one_user_is_ever_green(
    fault: Fault,
    connect: Connector,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Harbor Dental", "Pine Realty"):
        connect(name)
    victim = UUID(DEMO["Harbor Dental"].id)
    clock.now += timedelta(days=2)  # so that the token endpoint is asked too
    sandbox.world.add_fault(
        Fault(fault.kind, place("Harbor Dental"), seconds=30, variant=fault.variant)
    )
    with HighLevelClient(
        highlevel_settings(sandbox.url),
        retry=Retry(attempts=2),
        sleep=clock.sleep,
        token_timeout=1,
        read_timeout=0.3,
    ) as client:
        sync = Sync(engine, Tokens(engine, vault, client, now=clock), client, NEW_YORK, now=clock)
        sync.sync_days([DAY])
        (report,) = sync.report([DAY])
    assert [row.user.name for row in report.complete] == ["Pine Realty"]
    unhappy = {row.user.id: row for row in (*report.failed, *report.waiting)}
    assert set(unhappy) == {victim}
    failure = unhappy[victim].failure
    assert failure is not None
    assert report.is_green is (failure.explanation.remedy is Remedy.ACTION)
    assert table(engine, "Harbor Dental") == []
    with engine.connect() as db:
        assert ledger.statuses(db)[victim].status == "failure"


def test_a_day_that_nobody_tried_is_not_green(connect: Connector, sync: Sync) -> None:
    connect("Pine Realty")
    (report,) = sync.report([DAY])
    assert [user.name for user in report.unread] == ["Pine Realty"]
    assert not report.is_green


def test_a_bug_of_ours_is_red_for_its_user_only_and_quotes_nothing(
    connect: Connector,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    class Buggy(HighLevelClient):
        def call_logs_page(
            self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
        ) -> Page:
            if location_id == place("Harbor Dental"):
                raise KeyError("INVENTED-TRANSCRIPT")
            return super().call_logs_page(token, location_id, start, end, page)

    for name in ("Harbor Dental", "Pine Realty"):
        connect(name)
    with Buggy(highlevel_settings(sandbox.url)) as client:
        results = by_name(Sync(engine, tokens, client, NEW_YORK, now=clock).sync_days(DAYS))
    assert results["Pine Realty"].state is DayState.COMPLETE
    assert results["Harbor Dental"].failure is FailureClass.INTERNAL
    assert "KeyError" in results["Harbor Dental"].message
    assert "INVENTED" not in str(rows(engine))


# Incomplete reads ---------------------------------------------------------------------------------


def test_a_total_that_never_adds_up_writes_nothing_and_marks_nothing_missing(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Harbor Dental")
    sync.sync_days([DAY])
    before = table(engine)
    assert len(before) > 50  # more than a page
    sandbox.world.calls.remove(place("Harbor Dental"), before[0]["call_id"])
    evening = midnight(DAY) + timedelta(hours=23, minutes=59)
    sandbox.world.add_fault(
        Fault("churn", place("Harbor Dental"), add=1, add_at=evening, times=1000)
    )
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.state, result.failure) == (DayState.FAILED, FailureClass.INCOMPLETE)
    assert result.stored is None
    assert table(engine) == before
    assert not sync.report([DAY])[0].is_green
    sandbox.world.clear_faults()
    (result,) = sync.sync_days([DAY])
    assert (result.state, result.missing) == (DayState.COMPLETE, 1)
    assert len(table(engine)) == len(truth(sandbox, "Harbor Dental", DAY, DAY)) + 1


def test_a_table_that_does_not_hold_what_was_read_is_no_success(
    connect: Connector, engine: sa.Engine, sync: Sync
) -> None:
    connect("Pine Realty")
    with engine.begin() as db:
        db.execute(
            sa.text(
                "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN IF EXISTS (SELECT FROM call_logs) THEN RETURN NULL; END IF; "
                "RETURN NEW; END $$"
            )
        )
        db.execute(
            sa.text(
                "CREATE TRIGGER swallow BEFORE INSERT ON call_logs "
                "FOR EACH ROW EXECUTE FUNCTION swallow()"
            )
        )
    sync.sync_days([DAY])
    (first,) = rows(engine)
    assert first.state is DayState.FAILED
    assert first.failure is FailureClass.INCOMPLETE
    assert table(engine) == []


def test_a_call_without_an_id_is_set_aside_and_its_day_is_complete(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    at = midnight(DAY) + timedelta(hours=12)
    sandbox.world.calls.add(place("Pine Realty"), at, id="")
    (result,) = sync.sync_days([DAY])
    assert (result.state, result.set_aside) == (DayState.COMPLETE, 1)
    assert result.api_total == (result.stored or 0) + 1 == len(table(engine)) + 1
    with engine.connect() as db:
        (kept,) = db.execute(sa.text("SELECT * FROM set_aside_calls")).mappings()
    assert kept["reason"] == "the call has no id"
    assert kept["started_at"] == at
    assert kept["raw"]["summary"] == "A call added by hand."


def test_a_stored_call_that_becomes_unreadable_is_kept_and_its_day_stays_complete(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    sync.sync_days([DAY])
    before = table(engine)
    sandbox.world.calls.change(place("Pine Realty"), before[0]["call_id"], createdAt="yesterday")
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.state, result.set_aside) == (DayState.COMPLETE, 1)
    assert (result.stored, result.missing) == (len(before) - 1, 0)
    assert table(engine) == before


# A list of any kind, against a reader that remembers everything -----------------------------------


@dataclass(frozen=True)
class Part:
    """A page before it is sent."""

    items: list[dict[str, Any]]
    total: int


@dataclass
class AnyList:
    """HighLevel's list of one location, in memory, while calls come, go and change between pages;
    and all that it has answered.

    Attributes:
        calls: items by any name; one may lack its id or its time.
        churn: before each request: how many vanish, arrive and change.
        reads: the answers of each read, oldest first, with the bounds that were asked for.
    """

    chance: random.Random
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    churn: list[tuple[int, int, int]] = field(default_factory=list)
    newest_first: bool = False
    within: int = 1
    number: int = 0
    reads: list[tuple[datetime, datetime, list[Part]]] = field(default_factory=list)

    def page(self, start: datetime, end: datetime, number: int, size: int) -> Part:
        if self.churn:
            self.come_and_go(*self.churn.pop())
        listed = [item for item in self.calls.values() if self.is_asked_for(item, start, end)]
        listed.sort(key=lambda i: (i["createdAt"], i["n"]), reverse=self.newest_first)
        page = Part(listed[(number - 1) * size : number * size], len(listed))
        if number == 1 and start + timedelta(seconds=1) in map(midnight, DAYS):  # a read begins
            self.reads.append((start, end, []))
        self.reads[-1][2].append(page)
        return page

    @staticmethod
    def is_asked_for(item: dict[str, Any], start: datetime, end: datetime) -> bool:
        said = item["createdAt"]
        return said == "" or start <= datetime.fromisoformat(said) <= end

    def come_and_go(self, vanish: int, arrive: int, change: int) -> None:
        names = sorted(self.calls)
        for name in self.chance.sample(names, min(vanish, len(names))):
            del self.calls[name]
        for _ in range(arrive):
            self.arrive()
        names = sorted(self.calls)
        for name in self.chance.sample(names, min(change, len(names))):
            self.calls[name] = self.calls[name] | {"summary": f"Change {self.chance.random()}"}

    def arrive(self, **fields: Any) -> None:
        self.number += 1
        day = midnight(self.chance.choice(DAYS))
        at = day + timedelta(milliseconds=self.chance.randrange(-1, self.within))
        item = {"id": f"id{self.number}", "createdAt": at.isoformat(timespec="milliseconds")}
        self.calls[f"{self.number}"] = item | {"n": self.number} | fields


@dataclass
class Memory:
    """What the table must hold, by a reader that keeps whole lists in memory."""

    rows: dict[str, tuple[dict[str, Any], bool]] = field(default_factory=dict)

    def read(self, start: datetime, end: datetime, pages: list[Part]) -> bool:
        """Take over a read, if it adds up; False if it does not."""
        seen = {str(item.get("id") or item["n"]): item for page in pages for item in page.items}
        if len(seen) != pages[0].total:
            return False
        window = Window(start + timedelta(seconds=1), end - timedelta(seconds=1))
        listed = {
            name: item
            for name, item in seen.items()
            if item.get("id")
            and item["createdAt"]
            and datetime.fromisoformat(item["createdAt"]) in window
        }
        for call_id, (item, _) in self.rows.items():
            if datetime.fromisoformat(item["createdAt"]) in window and call_id not in seen:
                self.rows[call_id] = (item, True)
        self.rows |= {call_id: (item, False) for call_id, item in listed.items()}
        return True


class Listing(HighLevelClient):
    """A client that reads a list in memory."""

    listed: AnyList

    def call_logs_page(
        self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
    ) -> Page:
        part = self.listed.page(start, end, page, highlevel.PAGE_SIZE)
        return Page([highlevel.as_sent(item) for item in part.items], part.total)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    within=st.sampled_from([2, 12, 400, 86_400_000]),
    churn=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=12),
    odd=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    newest_first=st.booleans(),
)
def test_the_table_is_what_a_reader_that_remembers_everything_would_write(
    seed: int,
    count: int,
    within: int,
    churn: list[tuple[int, int, int]],
    odd: tuple[int, int],
    newest_first: bool,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
    quiet_law: Connection,
    small_pages: None,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same list every time
    listed = AnyList(chance, newest_first=newest_first, within=within)
    for _ in range(count):
        listed.arrive()
    for _ in range(odd[0]):
        listed.arrive(id="")
    for _ in range(odd[1]):
        listed.arrive(createdAt="")
    memory = Memory()
    with engine.begin() as db:
        db.execute(sa.text("DELETE FROM call_logs"))
    with Listing(highlevel_settings("http://127.0.0.1:9")) as client:
        client.listed = listed
        sync = Sync(engine, tokens, client, UTC_ZONE, now=clock)
        for shift in (churn, [], [(1, 1, 1)], []):
            clock.now += timedelta(minutes=1)
            before, known = table(engine), dict(memory.rows)
            listed.churn, listed.reads = list(shift), []
            results = sync.sync_days(DAYS, mode=Mode.REREAD)
            last = {read[:2]: read for read in listed.reads}
            took = [memory.read(*read) for read in last.values()]
            assert len(took) == (1 if took[0] else 1 + len(DAYS)), "a day alone only if all failed"
            assert [r.state is DayState.COMPLETE for r in results] == (took[1:] or [True] * 3)
            after = table(engine)
            assert {
                row["call_id"]: (row["raw"], row["missing_since"] is not None) for row in after
            } == memory.rows
            unchanged = [i for i, row in memory.rows.items() if known.get(i) == row]
            written = {row["call_id"]: row["written"] for row in before}
            assert {
                row["call_id"]: row["written"] for row in after if row["call_id"] in unchanged
            } == {i: written[i] for i in unchanged}
            for result in results:
                if result.state is DayState.COMPLETE:
                    of_day = {
                        i: row
                        for i, row in memory.rows.items()
                        if row[0]["createdAt"].startswith(str(result.day))
                    }
                    there = [i for i, (_, missing) in of_day.items() if not missing]
                    assert result.stored == len(there)
                    assert result.new == sum(i not in known for i in of_day)
                    assert result.missing == sum(
                        missing and not known.get(i, ({}, True))[1]
                        for i, (_, missing) in of_day.items()
                    )
                    assert result.changed == sum(
                        not missing and i in known and known[i][0] != item
                        for i, (item, missing) in of_day.items()
                    )


@pytest.fixture
def quiet_law(connect: Connector) -> Connection:
    return connect("Quiet Law")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, batches and files so small that a few calls fill many."""
    monkeypatch.setattr(highlevel, "PAGE_SIZE", 5)
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 7)
    monkeypatch.setattr("voiceai_pipeline.calls.intake._IN_MEMORY", 500)


# Side by side in time -----------------------------------------------------------------------------


class Interrupted(HighLevelClient):
    """A client in whose first read something else happens."""

    meanwhile: Callable[[], object] | None = None

    def call_logs_page(
        self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
    ) -> Page:
        got = super().call_logs_page(token, location_id, start, end, page)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return got


def hold_for_dead(engine: sa.Engine) -> None:
    """Whoever reads a location now has given no sign of life for so long that others may read."""
    with engine.begin() as db:
        db.execute(sa.text("UPDATE location_leases SET expires_at = '-infinity'"))


def test_an_older_read_that_ends_later_takes_nothing_back(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    tokens: Tokens,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    connect("Pine Realty")
    sync.sync_days([DAY])
    known, gone, *_ = (row["call_id"] for row in table(engine))
    at = midnight(DAY) + timedelta(hours=20)

    def news() -> None:
        clock.now += timedelta(minutes=1)
        sandbox.world.calls.add(place("Pine Realty"), at)
        sandbox.world.calls.change(place("Pine Realty"), known, summary="The newer one.")
        sandbox.world.calls.remove(place("Pine Realty"), gone)
        hold_for_dead(engine)
        (newer,) = sync.sync_days([DAY], mode=Mode.REREAD)
        assert (newer.new, newer.changed, newer.missing) == (1, 1, 1)
        clock.now += timedelta(minutes=1)

    clock.now += timedelta(hours=1)
    client = Interrupted(highlevel_settings(sandbox.url))
    with client:
        client.meanwhile = news
        older = Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock)
        (result,) = older.sync_days([DAY], mode=Mode.REREAD)
    assert result.state is DayState.COMPLETE
    now = {row["call_id"]: row for row in table(engine)}
    expected = truth(sandbox, "Pine Realty", DAY, DAY)
    assert {i for i, row in now.items() if row["missing_since"] is None} == {
        item["id"] for item in expected
    }
    assert now[known]["summary"] == "The newer one."


def test_an_older_read_of_today_does_not_fail_over_calls_that_came_after_it(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    tokens: Tokens,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    connect("Harbor Dental")
    clock.now = clock.now.replace(hour=14)
    today = clock.now.date()

    def an_hour_passes() -> None:
        clock.now += timedelta(hours=3)
        hold_for_dead(engine)
        (newer,) = sync.sync_days([today])
        assert newer.new > 0

    client = Interrupted(highlevel_settings(sandbox.url))
    with client:
        client.meanwhile = an_hour_passes
        (result,) = Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock).sync_days([today])
    assert result.state is DayState.COMPLETE
    (row,) = rows(engine, today)
    assert row.read_until == clock.now  # what the newer read reached is not forgotten
    assert len(table(engine)) == len(truth(sandbox, "Harbor Dental", today, today))


def test_a_location_is_written_by_one_at_a_time(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    for name in ("Harbor Dental", "Pine Realty"):
        connect(name)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as db:
            call_store.lock_locations(db, [place("Harbor Dental")])
            running = pool.submit(sync.sync_days, [DAY])
            deadline = time.monotonic() + 10
            while not table(engine, "Pine Realty"):  # another location is not held up
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            assert read_requests(sandbox)[place("Harbor Dental")] > 0
            assert table(engine, "Harbor Dental") == []
        assert {r.state for r in running.result()} == {DayState.COMPLETE}
    assert len(table(engine, "Harbor Dental")) == len(truth(sandbox, "Harbor Dental", DAY, DAY))


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
    assert len(table(engine)) == len(truth(sandbox, "Harbor Dental", today, today))


# Killed -------------------------------------------------------------------------------------------


def sync_in_a_process(database: str, url: str, now: str) -> None:
    engine = open_engine(Secret(database))
    fixed = datetime.fromisoformat(now)
    with HighLevelClient(highlevel_settings(url)) as client:
        tokens = Tokens(engine, TokenVault(KEYS), client, now=lambda: fixed)
        sync = Sync(engine, tokens, client, ZoneInfo("UTC"), now=lambda: fixed, workers=3)
        sync.sync_days(DAYS)


def test_a_killed_sync_leaves_each_location_old_or_new(
    all_connections: list[Connection],
    engine: sa.Engine,
    database: Secret,
    sync: Sync,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    sandbox.world.add_fault(Fault("latency", path=CALL_LOGS, seconds=0.03))
    with engine.begin() as db:  # a slow write, so that kills meet it
        db.execute(
            sa.text(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END $$"
            )
        )
        for name in ("call_logs", "sync_ledger", "sync_status"):
            db.execute(
                sa.text(
                    f"CREATE TRIGGER slow AFTER INSERT OR UPDATE ON {name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION slow()"
                )
            )
    chance = random.Random(4711)  # noqa: S311 - the same kills every time
    expected = {place(name): len(truth(sandbox, name, DAYS[0], DAYS[-1])) for name in HEALTHY}
    seen: set[int] = set()
    for _ in range(8):
        sandbox.world.clear_requests()
        victim = processes.Process(
            target=sync_in_a_process, args=(database.reveal(), sandbox.url, clock.now.isoformat())
        )
        victim.start()
        deadline = time.monotonic() + 20
        while victim.is_alive() and not read_requests(sandbox):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.2))
        if victim.pid is not None and victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
        victim.join(20)
        victim.close()
        hold_for_dead(engine)
        done = {row.location_id for row in rows(engine)}
        stored = Counter(row["location_id"] for row in table(engine))
        for location_id, number in expected.items():
            assert stored[location_id] == (number if location_id in done else 0)
        with engine.connect() as db:
            assert set(ledger.statuses(db)) == {row.user.id for row in rows(engine)}
        assert {row.state for row in rows(engine)} <= {DayState.COMPLETE}
        seen.add(len(done))
    assert len(seen) > 1
    sync.sync_days(DAYS)
    assert all(report.is_green for report in sync.report(DAYS))
    for name in HEALTHY:
        assert len(table(engine, name)) == expected[place(name)]


# The database is gone -----------------------------------------------------------------------------


def test_a_database_that_cannot_be_reached_is_a_sentence_without_sql(
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


def test_a_database_dropped_in_the_middle_of_a_sync_is_said_so(
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


# What is asked for --------------------------------------------------------------------------------


def test_an_unknown_user_is_named(connect: Connector, sync: Sync, engine: sa.Engine) -> None:
    pine = connect("Pine Realty").user.id
    strangers = sorted([uuid4(), uuid4()], key=str)
    with pytest.raises(UnknownUserError) as refused:
        sync.sync_days([DAY], user_ids=[pine, *strangers])
    assert f"{strangers[0]}, {strangers[1]}" in str(refused.value)
    assert str(pine) not in str(refused.value)
    assert "voiceai-pipeline users" in str(refused.value)
    assert rows(engine) == []


def test_days_read_shortly_before_a_connection_broke_are_read_again_when_it_is_back(
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
    sandbox.world.revoke(place("Pine Realty"))
    sandbox.world.calls.change(place("Pine Realty"), late, summary="It came later.")
    for _ in range(4):
        clock.now += timedelta(days=1)
        night()
    connect("Pine Realty")
    with engine.connect() as db:
        waiting = {day for _, day in ledger.waiting(db, [user], date.min)}
    sync.sync_days(waiting, user_ids=[user], mode=Mode.ONLY_FAILED)
    rows = {row["call_id"]: row for row in table(engine, "Pine Realty")}
    assert rows[late]["summary"] == "It came later."


def test_an_empty_range_and_a_day_to_come_are_refused_with_a_sentence(
    sync: Sync, clock: Clock
) -> None:
    with pytest.raises(SyncRequestError, match="No day was given"):
        sync.sync_days([])
    with pytest.raises(SyncRequestError, match=r"2026-11-21 lies in the future.*2026-11-20"):
        sync.sync_days([DAY, date(2026, 11, 21)])


def test_only_the_users_asked_for_are_read(
    all_connections: list[Connection], engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    sandbox.world.clear_requests()
    results = sync.sync_days([DAY], user_ids=[UUID(DEMO["Pine Realty"].id)])
    assert [r.user.name for r in results] == ["Pine Realty"]
    assert set(read_requests(sandbox)) == {place("Pine Realty")}
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


def test_a_commit_takes_as_many_statements_for_many_days_as_for_one(
    connect: Connector, engine: sa.Engine, sync: Sync
) -> None:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):  # one location, two users
        connect(name)

    def statements(days: list[date]) -> int:
        with counted(engine) as seen:
            assert len(sync.sync_days(days)) == 2 * len(days)
        # But one for each request, and one for each day to see whether it is complete already.
        return sum("AS rows" not in s and not s.startswith("SELECT sync_ledger") for s in seen)

    for days in ([DAY], [DAY - timedelta(days=n) for n in range(1, 9)]):
        sync.sync_days(days)
    one = statements([DAY])
    assert statements([DAY - timedelta(days=n) for n in range(1, 9)]) == one


def test_stretches_are_runs_of_days() -> None:
    days = [DAY + timedelta(days=n) for n in (0, 1, 2, 5, 6, 9)]
    assert [len(run) for run in stretches(days)] == [3, 2, 1]
    assert [len(run) for run in stretches(days, at_most=2)] == [2, 1, 2, 1]
    assert stretches([]) == []


# Trying again -------------------------------------------------------------------------------------


def test_failures_are_counted_and_tried_again_ever_more_slowly_until_people_must(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connect("Pine Realty")
    sandbox.world.add_fault(Fault("server_error", place("Pine Realty")))
    waits = []
    for attempt in range(1, len(RETRY_DELAYS) + 2):
        sync.sync_days([DAY])
        (row,) = rows(engine)
        assert row.attempt == attempt
        assert row.finished_at is not None
        at = retry_at(row)
        waits.append(at and at - row.finished_at)
    assert waits == [*RETRY_DELAYS, None]
    sandbox.world.clear_faults()
    sync.sync_days([DAY])
    (row,) = rows(engine)
    assert (row.attempt, row.failure, retry_at(row)) == (0, None, None)


@pytest.mark.parametrize("failure", list(FailureClass))
def test_only_what_may_pass_by_itself_is_tried_again_by_itself(failure: FailureClass) -> None:
    row = DayResult(
        User(uuid4(), "Invented"),
        "Loc",
        DAY,
        DayState.FAILED,
        failure=failure,
        attempt=1,
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert (retry_at(row) is not None) is (failure.explanation.remedy is Remedy.RERUN)


# What is unknown ----------------------------------------------------------------------------------


def test_the_ledger_finds_due_just_the_rows_whose_time_has_come(engine: sa.Engine) -> None:
    now = midnight(DAY)
    shapes = [(f, n) for f in FailureClass for n in range(len(RETRY_DELAYS) + 2)]
    people = {UUID(int=number): shape for number, shape in enumerate(shapes, start=1)}
    ages = [delay + timedelta(seconds=s) for delay in RETRY_DELAYS for s in (-1, 0)]
    days = {DAY - timedelta(days=ago): age for ago, age in enumerate(ages)}
    with engine.begin() as db:
        for user_id in people:
            connections.add_user(db, user_id, business_name=str(user_id))
        ledger_row = sa.text(
            "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, attempt, "
            "finished_at) VALUES (:user, 'Loc', :day, 'failed', :failure, :attempt, :finished)"
        )
        values = [
            {"user": user_id, "day": day, "failure": failure.value, "attempt": attempt,
             "finished": now - age}
            for user_id, (failure, attempt) in people.items()
            for day, age in days.items()
        ]  # fmt: skip
        db.execute(ledger_row, values)
        first = min(days)
        found = ledger.due_for_retry(db, people, RETRIED, RETRY_DELAYS, now, first)
        after = ledger.due_for_retry(db, people, RETRIED, RETRY_DELAYS, now, DAY)
        some = ledger.due_for_retry(
            db, list(people)[:1], RETRIED, RETRY_DELAYS, now + timedelta(days=9), first
        )
        expected = {
            (row.user.id, row.day)
            for row in ledger.results(db, days=list(days))
            if (at := retry_at(row)) is not None and at <= now
        }
    assert expected
    assert set(found) == expected
    assert {day for _, day in after} <= {DAY}
    assert {user_id for user_id, _ in some} <= set(list(people)[:1])


def test_a_call_action_of_an_unknown_type_is_stored_and_counted(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    action = {"actionType": "TELEPATHY", "actionName": "Read minds"}
    sandbox.world.calls.add(
        place("Pine Realty"), midnight(DAY) + timedelta(hours=9), executedCallActions=[action]
    )
    (row,) = sync.sync_days([DAY])
    assert (row.state, row.unknown_actions) == (DayState.COMPLETE, 1)
    with engine.connect() as db:
        query = sa.text("SELECT unknown_actions FROM sync_ledger")
        assert db.execute(query).scalars().all() == [1]
    assert [action] in [stored["executed_call_actions"] for stored in table(engine)]

"""How a window is read and stored: every field, without duplicates, and never half a read."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.calls import THIRD_PARTY_SECRET
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    HEALTHY,
    Interrupted,
    digest,
    expected_calls,
    expire_leases,
    ledger_rows,
    location_of,
    midnight,
    read_requests,
    table,
)


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
        expected = expected_calls(sandbox, name, shift[0], shift[-1]) + expected_calls(
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
    sandbox.world.calls.change(location_of("Pine Realty"), late, summary="It came later.")
    sandbox.world.calls.remove(location_of("Pine Realty"), gone)
    clock.now += timedelta(hours=1)
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.new, result.changed, result.missing) == (0, 1, 1)
    assert result.stored == len(before) - 1
    after = {row["call_id"]: row for row in table(engine)}
    assert after[late]["summary"] == "It came later."
    assert after[gone]["missing_since"] == clock.now
    for call_id in set(before) - {late, gone}:
        assert after[call_id] == before[call_id]


def test_a_total_that_never_adds_up_writes_nothing_and_marks_nothing_missing(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Harbor Dental")
    sync.sync_days([DAY])
    before = table(engine)
    assert len(before) > 50  # more than a page
    sandbox.world.calls.remove(location_of("Harbor Dental"), before[0]["call_id"])
    evening = midnight(DAY) + timedelta(hours=23, minutes=59)
    sandbox.world.add_fault(
        Fault("churn", location_of("Harbor Dental"), add=1, add_at=evening, times=1000)
    )
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.state, result.failure) == (DayState.FAILED, FailureClass.INCOMPLETE)
    assert result.stored is None
    assert table(engine) == before
    assert not sync.report([DAY])[0].is_green
    sandbox.world.clear_faults()
    (result,) = sync.sync_days([DAY])
    assert (result.state, result.missing) == (DayState.COMPLETE, 1)
    assert len(table(engine)) == len(expected_calls(sandbox, "Harbor Dental", DAY, DAY)) + 1


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
    (first,) = ledger_rows(engine)
    assert first.state is DayState.FAILED
    assert first.failure is FailureClass.INCOMPLETE
    assert table(engine) == []


def test_a_call_without_an_id_is_set_aside_and_its_day_is_complete(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    at = midnight(DAY) + timedelta(hours=12)
    sandbox.world.calls.add(location_of("Pine Realty"), at, id="")
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
    sandbox.world.calls.change(
        location_of("Pine Realty"), before[0]["call_id"], createdAt="yesterday"
    )
    (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
    assert (result.state, result.set_aside) == (DayState.COMPLETE, 1)
    assert (result.stored, result.missing) == (len(before) - 1, 0)
    assert table(engine) == before


def test_a_call_action_of_an_unknown_type_is_stored_and_counted(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Pine Realty")
    action = {"actionType": "TELEPATHY", "actionName": "Read minds"}
    sandbox.world.calls.add(
        location_of("Pine Realty"), midnight(DAY) + timedelta(hours=9), executedCallActions=[action]
    )
    (row,) = sync.sync_days([DAY])
    assert (row.state, row.unknown_actions) == (DayState.COMPLETE, 1)
    with engine.connect() as db:
        query = sa.text("SELECT unknown_actions FROM sync_ledger")
        assert db.execute(query).scalars().all() == [1]
    kept = [action | {"actionName": "[redacted]"}]
    assert kept in [stored["executed_call_actions"] for stored in table(engine)]


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
        sandbox.world.calls.add(location_of("Pine Realty"), at)
        sandbox.world.calls.change(location_of("Pine Realty"), known, summary="The newer one.")
        sandbox.world.calls.remove(location_of("Pine Realty"), gone)
        expire_leases(engine)
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
    expected = expected_calls(sandbox, "Pine Realty", DAY, DAY)
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
        expire_leases(engine)
        (newer,) = sync.sync_days([today])
        assert newer.new > 0

    client = Interrupted(highlevel_settings(sandbox.url))
    with client:
        client.meanwhile = an_hour_passes
        (result,) = Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock).sync_days([today])
    assert result.state is DayState.COMPLETE
    (row,) = ledger_rows(engine, today)
    assert row.read_until == clock.now  # what the newer read reached is not forgotten
    assert len(table(engine)) == len(expected_calls(sandbox, "Harbor Dental", today, today))


def test_a_location_is_written_by_one_at_a_time(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    for name in ("Harbor Dental", "Pine Realty"):
        connect(name)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as db:
            call_store.lock_locations(db, [location_of("Harbor Dental")])
            running = pool.submit(sync.sync_days, [DAY])
            deadline = time.monotonic() + 120
            while not table(engine, "Pine Realty"):  # another location is not held up
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            assert read_requests(sandbox)[location_of("Harbor Dental")] > 0
            assert table(engine, "Harbor Dental") == []
        assert {r.state for r in running.result()} == {DayState.COMPLETE}
    assert len(table(engine, "Harbor Dental")) == len(
        expected_calls(sandbox, "Harbor Dental", DAY, DAY)
    )

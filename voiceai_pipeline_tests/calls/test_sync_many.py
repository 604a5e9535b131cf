"""Many users in one sync: read concurrently, stored together, each failing on its own."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.location_queue import Terms
from voiceai_pipeline.calls.sync import WORKERS, Mode, Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.cast import DemoUser, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.statements import counted
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    UTC_ZONE,
    ledger_rows,
    midnight,
    read_requests,
    table,
)

UTC_DAY = (midnight(DAY), midnight(DAY + timedelta(days=1)))


@dataclass
class Shops:
    """Connected users with a location each, and a sync of all of them."""

    users: tuple[DemoUser, ...]
    sandbox: RunningSandbox
    sync: Sync

    def location(self, number: int) -> str:
        return str(self.users[number].location_id)


@contextmanager
def shops(
    count: int,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    *,
    workers: int = WORKERS,
    terms: Terms | None = None,
) -> Iterator[Shops]:
    locations = [make_location(f"Shop {n:03}", n, "dental", "UTC", 2) for n in range(1, count + 1)]
    users = tuple(
        DemoUser(str(UUID(int=n)), "Kim", "Doe", shop.name, shop.id, shop.company_id)
        for n, shop in enumerate(locations, start=1)
    )
    world = World(clock=clock, users=users, locations=tuple(locations))
    with running(world, limits=False) as sandbox, open_client(sandbox.url, clock) as client:
        consent = Consent(engine, vault, client, now=clock)
        connector = Connector(engine, client, consent)
        for user in users:
            with engine.begin() as db:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
            consent.connect(UUID(user.id), connector.code(user))
        connector.browser.close()
        tokens = Tokens(engine, vault, client, now=clock)
        sync = Sync(
            engine,
            tokens,
            client,
            UTC_ZONE,
            now=clock,
            workers=workers,
            terms=terms or Terms(poll=0.05),
        )
        yield Shops(users, sandbox, sync)


def held(engine: sa.Engine) -> set[str]:
    """Locations that a run holds a lease on."""
    with engine.connect() as db:
        return set(db.execute(sa.text("SELECT location_id FROM location_leases")).scalars())


def token_reads(statements: list[str]) -> list[str]:
    """Those that read users' tokens."""
    return [one for one in statements if one.startswith("SELECT") and "refresh_token" in one]


def writes(statements: list[str]) -> list[str]:
    """Those that tell how locations' days stand."""
    return [one for one in statements if one.startswith("INSERT INTO sync_ledger")]


@soak
def test_one_bad_user_among_many_is_the_only_one_failed_and_the_only_one_re_synced(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    size = repeated(40, 200)
    with shops(size, engine, vault, clock) as many:
        world, bad = many.sandbox.world, many.users[size // 2]
        world.add_fault(Fault("server_error", str(bad.location_id), path=CALL_LOGS))

        many.sync.sync_days([DAY])

        (report,) = many.sync.report([DAY])
        assert len(report.complete) == size - 1
        assert [str(row.user.id) for row in report.failed] == [bad.id]
        assert not report.is_green

        world.heal(str(bad.location_id))
        world.clear_requests()
        many.sync.sync_days([DAY])

        assert {request.location_id for request in many.sandbox.requests} == {bad.location_id}
        (report,) = many.sync.report([DAY])
        assert report.is_green


@pytest.mark.parametrize("light", [-1, 1 << 16])
def test_windows_with_few_new_calls_are_stored_together(
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    light: int,
) -> None:
    monkeypatch.setattr("voiceai_pipeline.calls.intake._LIGHT", light)
    with shops(30, engine, vault, clock, workers=4) as many:
        with counted(engine) as statements:
            many.sync.sync_days([DAY])
        # Those that are begun last are stored as they end.
        assert len(writes(statements)) == 30 if light < 0 else len(writes(statements)) <= 20
        before = table(engine)
        there = [many.sandbox.world.calls.between(str(p.location_id), *UTC_DAY) for p in many.users]
        assert len(before) == sum(map(len, there)) > 30
        many.sandbox.world.clear_requests()
        clock.sleep(60)
        with counted(engine) as statements:
            results = many.sync.sync_days([DAY], mode=Mode.REREAD)
        assert {row.state for row in results} == {DayState.COMPLETE}
        assert len(results) == len({row.user.id for row in results}) == 30
        assert {row.finished_at for row in ledger_rows(engine, DAY)} == {clock.now}
        assert set(read_requests(many.sandbox).values()) == {1}
        assert len(token_reads(statements)) <= 20
        assert len(writes(statements)) == 30 if light < 0 else len(writes(statements)) <= 20
    assert table(engine) == before


def test_no_day_is_left_out_beside_a_gap_or_a_bad_day(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    """Only the last window of a location is stored with others."""
    apart, *beside = [DAY - timedelta(days=n) for n in (9, 3, 2, 1)]
    with shops(6, engine, vault, clock, workers=2) as many:
        many.sync.sync_days([apart, *beside])
        bad = many.users[1]
        fault = Fault("server_error", str(bad.location_id), path=CALL_LOGS, day=beside[1])
        many.sandbox.world.add_fault(fault)
        results = many.sync.sync_days([apart, *beside], mode=Mode.REREAD)
        assert len({(row.user.id, row.day) for row in results}) == len(results) == 6 * 4
        failed = [(str(row.user.id), row.day) for row in results if row.state is DayState.FAILED]
        assert failed == [(bad.id, beside[1])]


def test_a_window_that_waits_is_stored_soon_even_if_no_other_read_finishes(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    terms = Terms(linger=0.05)
    with shops(9, engine, vault, clock, workers=2, terms=terms) as many:
        many.sync.sync_days([DAY])
        clock.sleep(60)
        for number in range(1, 9):
            fault = Fault("latency", many.location(number), path=CALL_LOGS, seconds=0.7)
            many.sandbox.world.add_fault(fault)
        with ThreadPoolExecutor(1) as pool:
            running_sync = pool.submit(many.sync.sync_days, [DAY], mode=Mode.REREAD)
            deadline = time.monotonic() + 120
            while not (done := [r for r in ledger_rows(engine, DAY) if r.finished_at == clock.now]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert [row.location_id for row in done] == [many.location(0)]
            while many.location(0) in (still := held(engine)):
                assert time.monotonic() < deadline
            assert still, "while others are being read"
            assert len(running_sync.result()) == 9


def test_a_window_that_cannot_be_stored_with_others_fails_alone(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    with shops(12, engine, vault, clock, workers=2) as many:
        many.sync.sync_days([DAY])
        bad = many.users[3]
        with engine.begin() as db:
            db.execute(
                sa.text(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END $$"
                )
            )
            db.execute(
                sa.text(
                    "CREATE TRIGGER refuse BEFORE UPDATE ON sync_ledger FOR EACH ROW WHEN "
                    f"(NEW.user_id = '{bad.id}' AND NEW.state = 'complete') "
                    "EXECUTE FUNCTION refuse()"
                )
            )
        clock.sleep(60)
        many.sync.sync_days([DAY], mode=Mode.REREAD)
        found = {str(row.user.id): row for row in ledger_rows(engine, DAY)}
        failed = found.pop(bad.id)
        assert (failed.state, failed.failure) == (DayState.FAILED, FailureClass.UNSTORABLE)
        assert len(found) == 11
        for row in found.values():
            assert (row.state, row.finished_at) == (DayState.COMPLETE, clock.now)


def test_a_call_that_vanished_from_one_of_many_is_found_missing_there_and_nowhere_else(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    with shops(12, engine, vault, clock, workers=2) as many:
        days = [DAY - timedelta(days=1), DAY]
        many.sync.sync_days(days)
        location = many.location(5)
        gone = [row["call_id"] for row in table(engine) if row["location_id"] == location][-1]
        many.sandbox.world.calls.remove(location, gone)
        results = many.sync.sync_days(days, mode=Mode.REREAD)
        assert len(results) == 12 * 2
        found = {(row.location_id, row.day): row.missing for row in results if row.missing}
        assert found == {(location, DAY): 1}
        marked = [row["call_id"] for row in table(engine) if row["missing_since"]]
        assert marked == [gone]


def test_slow_tenants_do_not_keep_the_others_waiting(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    """As many slow tenants as workers: unless they give up their slots, no other is read."""
    terms = Terms(slow=0.05)
    with shops(12, engine, vault, clock, workers=2, terms=terms) as many:
        slow = [many.location(0), many.location(1)]
        for location in slow:
            many.sandbox.world.add_fault(Fault("latency", location, path=CALL_LOGS, seconds=1.5))
        with ThreadPoolExecutor(1) as pool:
            running_sync = pool.submit(many.sync.sync_days, [DAY])
            deadline = time.monotonic() + 120
            while len(done := {row.location_id for row in ledger_rows(engine, DAY)}) < 10:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not done & set(slow)
            assert {row.state for row in running_sync.result()} == {DayState.COMPLETE}

"""Old days beside HighLevel's totals: what differs is found, opened once, and fixed by a re-read;
nothing else.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.reconciliation import DAYS, DayComparison, Reconciliation, Verdict
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings, open_client
from voiceai_pipeline_tests.support.reconciled_days import (
    OLD,
    PAST,
    asked,
    days_of,
    noon,
    remembered,
    row,
    rows,
)
from voiceai_pipeline_tests.support.synced_calls import (
    HEALTHY,
    UTC_ZONE,
    location_of,
    midnight,
    retry_at,
)


@pytest.mark.parametrize("change", ["arrived", "vanished"])
def test_a_call_that_arrived_or_vanished_in_an_old_day_opens_it_and_the_next_read_fixes_it(
    change: str,
    both_dialects: str,
    pine: str,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    calls = sandbox.world.calls.between(pine, midnight(OLD), midnight(OLD) + timedelta(days=1))
    before = len(calls)
    if change == "arrived":
        sandbox.world.calls.add(pine, noon(OLD))
    else:
        sandbox.world.calls.remove(pine, calls[0]["id"])
    total = before + (1 if change == "arrived" else -1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        reconciliation = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock)
        (result,) = reconciliation.reconcile(run_id="run")

        assert days_of(result, Verdict.OPENED) == [OLD]
        assert days_of(result, Verdict.EQUAL) == [day for day in PAST if day != OLD]
        assert DayComparison(OLD, before, total, Verdict.OPENED) in result.days
        opened = row(engine, "Pine Realty", OLD)
        assert (opened.state, opened.failure) == (DayState.FAILED, FailureClass.INCOMPLETE)
        assert f"total {total} now, {before} stored" in opened.message
        assert "Fix: " in opened.message
        assert retry_at(opened) == clock.now + timedelta(minutes=15)
        others = [r for r in rows(engine) if r.day != OLD]
        assert {r.state for r in others} == {DayState.COMPLETE}

        sandbox.world.clear_requests()
        sync = Sync(engine, tokens, client, UTC_ZONE, now=clock)
        (again,) = sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
        assert (again.day, again.state, again.stored) == (OLD, DayState.COMPLETE, total)
        assert (again.new, again.missing) == ((1, 0) if change == "arrived" else (0, 1))

        sandbox.world.clear_requests()
        (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST
    assert remembered(engine) == set()
    assert {r.version for r in asked(sandbox)} == {"v3" if both_dialects == "v3" else "2021-04-15"}


def test_a_call_that_came_back_is_found(
    pine: str,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    """A missing call is kept in the table, and is none of those that HighLevel should count."""
    gone = sandbox.world.calls.add(pine, noon(OLD))
    sync.sync_days([OLD], mode=Mode.REREAD)
    sandbox.world.calls.remove(pine, gone["id"])
    sync.sync_days([OLD], mode=Mode.REREAD)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST
    sandbox.world.calls.add(pine, noon(OLD), id=gone["id"])
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]


def test_equal_totals_open_nothing_and_take_one_small_request_per_location(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    for name in HEALTHY:
        connect(name)
    sync.sync_days(PAST)
    before = rows(engine)
    clock.now += timedelta(hours=1)
    sandbox.world.clear_requests()
    results = reconciliation.reconcile()
    assert Counter(r.location_id for r in asked(sandbox)) == {
        location_of(name): 1 for name in HEALTHY
    }
    assert {r.query["pageSize"] for r in asked(sandbox)} == {"1"}
    assert {result.location_id for result in results} == {location_of(name) for name in HEALTHY}
    for result in results:
        assert result.failure is None
        assert days_of(result, Verdict.EQUAL) == PAST
    assert rows(engine) == before


def test_days_are_requested_one_by_one_only_where_the_window_differs(
    connect: Connector,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Pine Realty", "Harbor Dental"):
        connect(name)
    sync.sync_days(PAST)
    sandbox.world.calls.add(location_of("Pine Realty"), noon(OLD))
    sandbox.world.clear_requests()
    reconciliation.reconcile()
    assert Counter(r.location_id for r in asked(sandbox)) == {
        location_of("Pine Realty"): 1 + DAYS,
        location_of("Harbor Dental"): 1,
    }


def test_users_who_share_a_location_share_the_request_and_each_has_the_day_opened(
    sunrise: str, engine: sa.Engine, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    (result,) = reconciliation.reconcile()
    assert len(asked(sandbox)) == 1
    assert days_of(result, Verdict.EQUAL) == PAST
    sandbox.world.calls.add(sunrise, noon(OLD))
    reconciliation.reconcile()
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        assert row(engine, name, OLD).state is DayState.FAILED


def test_another_users_token_is_used_and_a_disconnected_user_is_left_alone(
    sunrise: str,
    engine: sa.Engine,
    consent: Consent,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    with engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE api_keys SET refresh_token = 'INVENTED-REVOKED', token_expires_at = NULL "
                "WHERE user_id = :id"
            ),
            {"id": DEMO["Sunrise Clinic"].id},
        )
    sandbox.world.calls.add(sunrise, noon(OLD))
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]

    consent.disconnect(UUID(DEMO["Sunrise Clinic"].id))
    earlier = OLD - timedelta(days=2)
    sandbox.world.calls.add(sunrise, noon(earlier))
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [earlier]
    assert row(engine, "Sunrise Front Desk", earlier).state is DayState.FAILED
    assert row(engine, "Sunrise Clinic", earlier).state is DayState.COMPLETE


def test_a_paused_location_is_paused_for_all_users_who_share_it(
    sunrise: str, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(sunrise)
    (result,) = reconciliation.reconcile()
    assert result.failure is not None
    assert result.failure.failure is FailureClass.LOCATION_PAUSED
    sandbox.world.clear_requests()
    assert reconciliation.reconcile() == []
    assert asked(sandbox) == []


class Boastful(HighLevelClient):
    """Sees a total for OLD that is greater than what HighLevel lists."""

    more = 1

    def call_total(
        self, token: Secret, location_id: str, start: datetime, end: datetime
    ) -> int | None:
        total = super().call_total(token, location_id, start, end)
        return total + self.more if total is not None and start < noon(OLD) < end else total


@pytest.fixture
def boastful(sandbox: RunningSandbox) -> Iterator[Boastful]:
    with Boastful(highlevel_settings(sandbox.url)) as client:
        yield client


def test_a_difference_that_a_new_read_confirms_is_shown_and_not_opened_again_until_it_changes(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    boastful: Boastful,
    clock: Clock,
) -> None:
    reconciliation = Reconciliation(engine, tokens, boastful, UTC_ZONE, now=clock)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]
    clock.now += timedelta(minutes=16)
    (again,) = sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
    assert again.state is DayState.COMPLETE

    for _ in range(3):
        clock.now += timedelta(hours=1)
        (result,) = reconciliation.reconcile()
        assert days_of(result, Verdict.CONTRADICTED) == [OLD]
        assert [day.difference for day in result.days if day.difference] == [1]
        assert row(engine, "Pine Realty", OLD).state is DayState.COMPLETE

    boastful.more = 2
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]

    clock.now += timedelta(days=30)
    reconciliation.reconcile()
    assert remembered(engine) == set()


def test_a_read_that_started_before_the_day_was_opened_confirms_nothing(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    boastful: Boastful,
    clock: Clock,
) -> None:
    reconciliation = Reconciliation(engine, tokens, boastful, UTC_ZONE, now=clock)
    before = row(engine, "Pine Realty", OLD)
    reconciliation.reconcile()
    clock.now += timedelta(minutes=1)
    with engine.begin() as db:
        ledger.record(db, [replace(before, finished_at=clock.now)], None)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]


def test_a_read_that_finishes_during_the_request_for_the_total_wins(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    class Overtaken(HighLevelClient):
        def call_total(
            self, token: Secret, location_id: str, start: datetime, end: datetime
        ) -> int | None:
            total = super().call_total(token, location_id, start, end)
            sandbox.world.calls.add(pine, noon(OLD))
            clock.now += timedelta(seconds=1)
            sync.sync_days([OLD], mode=Mode.REREAD)
            return total

    with Overtaken(highlevel_settings(sandbox.url)) as client:
        (result,) = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock).reconcile()
    assert days_of(result, Verdict.OPENED) == []
    assert row(engine, "Pine Realty", OLD).state is DayState.COMPLETE

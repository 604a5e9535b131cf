"""What a total can and cannot say: days that are not compared, calls around midnight, and locations
that cannot be asked.
"""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.reconciliation import Reconciliation, Verdict
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.reconciled_days import (
    OLD,
    PAST,
    TODAY,
    asked,
    by_location,
    days_of,
    noon,
    row,
    rows,
)
from voiceai_pipeline_tests.support.synced_calls import (
    MS,
    NEW_YORK,
    UTC_ZONE,
    location_of,
    midnight,
)

EDGES = [timedelta(seconds=-1), -999 * MS, -2 * MS, -MS, timedelta(), MS, timedelta(seconds=1)]


@pytest.mark.parametrize("zone", [UTC_ZONE, NEW_YORK], ids=str)
@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("drifts", [False, True], ids=["nothing drifts", "a day drifts"])
def test_calls_around_midnight_are_no_drift_whatever_the_bounds_mean(
    drifts: bool,
    ends: Any,
    zone: ZoneInfo,
    connect: Connector,
    engine: sa.Engine,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    """Midnights between two days that are compared, and those before the first and after the last,
    beyond which nothing is stored. The clocks change in New York on November 1."""
    connect("Quiet Law")
    quiet = location_of("Quiet Law")
    sandbox.world.date_ends = ends
    read = PAST[5:-5]
    for day in (read[0], date(2026, 11, 1), date(2026, 11, 2), OLD, read[-1] + timedelta(days=1)):
        for edge in EDGES:
            sandbox.world.calls.add(quiet, midnight(day, zone) + edge)
    Sync(engine, tokens, client, zone, now=clock).sync_days(read)
    if drifts:
        sandbox.world.calls.add(quiet, midnight(read[3], zone) + timedelta(hours=1))
    sandbox.world.clear_requests()
    (result,) = Reconciliation(engine, tokens, client, zone, now=clock).reconcile()
    assert [day.day for day in result.days] == read
    assert days_of(result, Verdict.OPENED) == ([read[3]] if drifts else [])
    assert len(asked(sandbox)) == (1 + len(read) if drifts else 1)
    for day in result.days:
        window = Window.of_day(day.day, zone)
        listed = sandbox.world.calls.between(quiet, window.start, window.end)
        assert day.total == len(listed)


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("edge", [timedelta(seconds=-1), -MS, timedelta(), MS], ids=str)
def test_a_call_that_arrives_around_a_midnight_opens_its_day(
    edge: timedelta,
    ends: Any,
    pine: str,
    reconciliation: Reconciliation,
    sync: Sync,
    sandbox: RunningSandbox,
) -> None:
    """Its neighbour may be opened with it where the call lies on the bound itself: that costs one
    read and is over."""
    sandbox.world.date_ends = ends
    new = midnight(OLD) + edge
    sandbox.world.calls.add(pine, new)
    (result,) = reconciliation.reconcile()
    opened = set(days_of(result, Verdict.OPENED))
    assert new.date() in opened
    assert opened <= {OLD - timedelta(days=1), OLD}
    sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST


def test_a_response_without_a_total_gives_no_verdict(
    pine: str, engine: sa.Engine, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_envelope(pine, "no_total")
    sandbox.world.calls.add(pine, noon(OLD))
    before = rows(engine)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.NO_TOTAL) == PAST
    assert {(day.total, day.difference) for day in result.days} == {(None, 0)}
    assert result.failure is None
    assert rows(engine) == before
    assert len(asked(sandbox)) == 1


def test_a_total_under_its_other_name_is_a_total(
    pine: str, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_envelope(pine, "wild")
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST


def test_a_location_that_fails_affects_no_other(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Pine Realty", "Harbor Dental", "Quiet Law"):
        connect(name)
    sync.sync_days(PAST)
    for name in ("Pine Realty", "Harbor Dental", "Quiet Law"):
        sandbox.world.calls.add(location_of(name), noon(OLD))
    sandbox.world.add_fault(Fault("server_error", location_of("Harbor Dental")))
    # The window is answered, and the first ten days; then it breaks.
    sandbox.world.add_fault(Fault("server_error", location_of("Quiet Law"), after=11))
    results = by_location(reconciliation.reconcile())
    assert days_of(results[location_of("Pine Realty")], Verdict.OPENED) == [OLD]
    for name, compared in (("Harbor Dental", []), ("Quiet Law", PAST[:10])):
        failure = results[location_of(name)].failure
        assert failure is not None
        assert failure.failure is FailureClass.PROVIDER_ERROR
        assert [day.day for day in results[location_of(name)].days] == compared
        assert row(engine, name, OLD).state is DayState.COMPLETE


def test_today_and_incomplete_days_are_not_compared(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    connect("Pine Realty")
    sandbox.world.add_fault(Fault("server_error", location_of("Pine Realty"), day=OLD))
    sync.sync_days([*PAST[10:], TODAY])
    sandbox.world.clear_faults()
    failed = row(engine, "Pine Realty", OLD)
    assert failed.state is DayState.FAILED
    for day in (PAST[0], OLD, TODAY):
        sandbox.world.calls.add(location_of("Pine Realty"), midnight(day) + timedelta(hours=1))
    sandbox.world.clear_requests()
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == [day for day in PAST[10:] if day != OLD]
    assert row(engine, "Pine Realty", OLD) == failed
    assert len(asked(sandbox)) == 2  # the days before it, and those after it


def test_users_without_read_days_and_users_who_cannot_be_synced_cause_no_request(
    connect: Connector, reconciliation: Reconciliation, sandbox: RunningSandbox, consent: Consent
) -> None:
    connect.add("Juniper Fitness")
    connect("Harbor Dental")
    consent.disconnect(connect("Pine Realty").user.id)
    sandbox.world.clear_requests()
    (result,) = reconciliation.reconcile()
    assert (result.location_id, result.days, result.failure) == (
        location_of("Harbor Dental"),
        (),
        None,
    )
    assert asked(sandbox) == []


def test_a_call_set_aside_counts_as_held(
    pine: str,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.calls.add(pine, noon(OLD), id="")
    (result,) = sync.sync_days([OLD], mode=Mode.REREAD)
    assert result.set_aside == 1
    (compared,) = reconciliation.reconcile()
    assert days_of(compared, Verdict.EQUAL) == PAST


def test_an_unexpected_error_fails_its_location_only_and_quotes_nothing(
    pine: str, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    class Buggy(HighLevelClient):
        def call_total(
            self, token: Secret, location_id: str, start: datetime, end: datetime
        ) -> int | None:
            raise KeyError("INVENTED-TRANSCRIPT")

    with Buggy(highlevel_settings(sandbox.url)) as client:
        (result,) = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock).reconcile()
    assert result.failure is not None
    assert result.failure.failure is FailureClass.INTERNAL
    assert "INVENTED" not in str(result.failure)

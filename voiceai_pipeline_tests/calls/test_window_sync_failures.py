"""Failing windows: never green, few requests in an outage, and no quotes in the error."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.calls import Page
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.faults import CALL_LOGS, KINDS, VARIANTS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    NEW_YORK,
    by_name,
    ledger_rows,
    location_of,
    read_requests,
    table,
)


def faults() -> list[Any]:
    found = []
    for kind in KINDS:
        if kind in ("latency", "churn"):
            continue  # these alone break nothing
        for variant in VARIANTS if kind == "unauthorized" else VARIANTS[:1]:
            fault = Fault(kind, variant=variant, seconds=30)  # type: ignore[arg-type]
            found.append(pytest.param(fault, id=f"{kind} {variant}"))
    return found


@pytest.mark.parametrize("fault", faults())
def test_no_fault_of_one_user_is_ever_green(
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
        Fault(fault.kind, location_of("Harbor Dental"), seconds=30, variant=fault.variant)
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


def test_an_unexpected_error_fails_its_user_only_and_quotes_nothing(
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
            if location_id == location_of("Harbor Dental"):
                raise KeyError("INVENTED-TRANSCRIPT")
            return super().call_logs_page(token, location_id, start, end, page)

    for name in ("Harbor Dental", "Pine Realty"):
        connect(name)
    with Buggy(highlevel_settings(sandbox.url)) as client:
        results = by_name(Sync(engine, tokens, client, NEW_YORK, now=clock).sync_days(DAYS))
    assert results["Pine Realty"].state is DayState.COMPLETE
    assert results["Harbor Dental"].failure is FailureClass.INTERNAL
    assert "KeyError" in results["Harbor Dental"].message
    assert "INVENTED" not in str(ledger_rows(engine))


def test_in_an_outage_only_the_first_day_is_retried(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    sandbox.world.add_fault(Fault("server_error", location_of(name), path=CALL_LOGS))
    days = [DAY - timedelta(days=n) for n in range(10)]
    apart = DAY - timedelta(days=20)
    results = sync.sync_days([apart, *days])
    assert {r.failure for r in results} == {FailureClass.PROVIDER_ERROR}
    # All attempts for the day apart, which comes first; one for the range; one for each of it.
    assert read_requests(sandbox) == {location_of(name): 3 + 1 + 10}

    sandbox.world.clear_requests()
    results = sync.sync_days(days)
    assert {r.failure for r in results} == {FailureClass.PROVIDER_ERROR}
    assert read_requests(sandbox) == {location_of(name): 3 + 3 + 9}


def test_the_day_after_an_outage_is_retried_as_usual(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    # Three attempts for the range and three for its first day; the second day asks once.
    sandbox.world.add_fault(Fault("server_error", location_of(name), times=7))
    sandbox.world.add_fault(Fault("server_error", location_of(name), times=2, day=DAY))
    days = [DAY - timedelta(days=n) for n in (3, 2, 1, 0)]
    failed, complete = DayState.FAILED, DayState.COMPLETE
    assert [r.state for r in sync.sync_days(days)] == [failed, failed, complete, complete]


def test_a_rate_limit_is_waited_for_in_an_outage_too(
    connect: Connector, sync: Sync, sandbox: RunningSandbox
) -> None:
    name = "Harbor Dental"
    connect(name)
    sandbox.world.add_fault(Fault("server_error", location_of(name), times=6))
    sandbox.world.add_fault(Fault("rate_limit", location_of(name), times=2, day=DAY))
    days = [DAY - timedelta(days=1), DAY]
    assert [r.state for r in sync.sync_days(days)] == [DayState.FAILED, DayState.COMPLETE]

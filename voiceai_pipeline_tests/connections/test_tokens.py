"""Valid tokens: refreshed in time, once, and spent on requests."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.exchange_gate import BURST, POSTS_PER_SECOND
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import (
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.statements import counted
from voiceai_pipeline_tests.support.token_endpoint import (
    DAY,
    Endpoint,
    failure_of,
    granted,
    location_of,
    reads,
    refreshes,
    standing,
    stored,
    tokens_at,
)
from voiceai_pipeline_tests.support.token_fleet import TICK, Provider, fleet, refreshing_at


@pytest.mark.parametrize(("seconds", "posts"), [(299, 1), (300, 1), (301, 0)])
def test_a_valid_token_is_refreshed_at_five_minutes_and_not_before(
    seconds: int,
    posts: int,
    harbor: Connection,
    tokens: Tokens,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    assert harbor.token_expires_at is not None
    clock.now = harbor.token_expires_at - timedelta(seconds=seconds)
    tokens.get_valid_token(harbor.user.id)
    assert len(refreshes(sandbox)) == posts


def test_a_wider_margin_refreshes_earlier(
    harbor: Connection, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    assert harbor.token_expires_at is not None
    clock.now = harbor.token_expires_at - timedelta(minutes=20)
    tokens.get_valid_token(harbor.user.id)
    tokens.get_valid_token(harbor.user.id, margin=timedelta(minutes=30))
    assert len(refreshes(sandbox)) == 1


def test_a_fresh_token_is_handed_out_without_a_request(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.clear_requests()
    assert tokens.get_valid_token(harbor.user.id) == tokens.get_valid_token(harbor.user.id)
    assert sandbox.requests == []


def test_an_unknown_user_and_a_user_who_never_connected_raise_different_errors(
    connect: Connector, tokens: Tokens
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    assert failure_of(lambda: tokens.get_valid_token(user_id)) is FailureClass.NO_CONNECTION
    with pytest.raises(UnknownUserError, match="no user"):
        tokens.get_valid_token(uuid4())


def spend(sandbox: RunningSandbox, tokens: Tokens, client: HighLevelClient, who: Connection) -> int:
    """Read one page of calls; how many there are."""
    start, end = NOON - timedelta(days=1), NOON
    page = tokens.spend(
        who.user.id, lambda token: client.call_logs_page(token, location_of(who), start, end, 1)
    )
    return len(page.items)


@pytest.mark.parametrize("variant", ["invalid_jwt", "documented"])
def test_a_refused_token_is_refreshed_once_and_the_request_retried_once(
    variant: Any,
    harbor: Connection,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.add_fault(Fault("unauthorized", location_of(harbor), times=1, variant=variant))
    assert spend(sandbox, tokens, client, harbor) > 0
    assert reads(sandbox) == [401, 200]
    assert refreshes(sandbox) == [200]


def test_a_second_refusal_stops(
    harbor: Connection, tokens: Tokens, client: HighLevelClient, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("unauthorized", location_of(harbor)))
    failure = failure_of(lambda: spend(sandbox, tokens, client, harbor))
    assert failure is FailureClass.ACCESS_REJECTED
    assert reads(sandbox) == [401, 401]
    assert refreshes(sandbox) == [200]


@pytest.mark.parametrize(
    ("fault", "failure", "answers"),
    [
        (Fault("unauthorized", variant="scope"), FailureClass.SCOPE_MISSING, [401]),
        (Fault("unauthorized", variant="authclass"), FailureClass.SCOPE_MISSING, [401]),
        (Fault("forbidden_location"), FailureClass.WRONG_LOCATION, [403]),
        (Fault("unauthorized", variant="version"), FailureClass.OUR_REQUEST, [401]),
        (Fault("gateway_timeout_401"), FailureClass.PROVIDER_ERROR, [401] * 3),
    ],
    ids=lambda value: value.variant if isinstance(value, Fault) else None,
)
def test_a_refusal_that_no_refresh_fixes_spends_no_refresh_token(
    fault: Fault,
    failure: FailureClass,
    answers: list[int],
    harbor: Connection,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.add_fault(fault)
    assert failure_of(lambda: spend(sandbox, tokens, client, harbor)) is failure
    assert reads(sandbox) == answers
    assert refreshes(sandbox) == []


def test_a_token_refused_because_another_caller_refreshed_it_is_replaced_without_a_request(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    old = tokens.get_valid_token(harbor.user.id)
    clock.now += timedelta(days=2)
    new = tokens.get_valid_token(harbor.user.id)
    assert tokens.get_valid_token(harbor.user.id, rejected=old) == new
    assert refreshes(sandbox) == [200]


def test_a_token_that_is_refused_right_after_its_refresh_is_not_refreshed_again(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    endpoint.answer = lambda: (200, granted())
    same = Secret("INVENTED-ACCESS-1")
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        assert tokens.get_valid_token(expired.user.id, rejected=same) == same
    assert len(endpoint.posts) == 1


def test_a_token_that_expires_on_its_way_is_an_error_and_costs_one_post(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    def slowly() -> tuple[int, object]:
        clock.now += timedelta(seconds=2)
        return 200, granted(expires_in=1)

    endpoint.answer = slowly
    with (
        tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens,
        pytest.raises(PipelineError, match="refreshed, but it has expired already"),
    ):
        tokens.get_valid_token(expired.user.id)
    assert len(endpoint.posts) == 1


def test_only_the_token_endpoint_can_revoke(
    harbor: Connection, engine: sa.Engine, tokens: Tokens
) -> None:
    tokens.report(harbor.user.id, FailureClass.REFRESH_REJECTED)
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


def test_a_report_about_a_disconnected_user_changes_nothing(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, consent: Consent
) -> None:
    consent.disconnect(harbor.user.id)
    before = stored(engine, harbor.user.id)
    for failure in FailureClass:
        tokens.report(harbor.user.id, failure)
    assert stored(engine, harbor.user.id) == before


def test_a_refusal_of_a_replaced_token_does_not_affect_the_new_one(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    harbor = connect("Harbor Dental")
    client = connect.client
    sandbox.world.add_fault(
        Fault("unauthorized", location_of(harbor), path=CALL_LOGS, variant="scope")
    )

    def refused_while_reconnecting(token: Secret) -> object:
        connect("Harbor Dental")
        return client.call_logs_page(
            token, location_of(harbor), NOON - timedelta(days=1), NOON, page=1
        )

    with pytest.raises(PipelineError):
        tokens.spend(harbor.user.id, refused_while_reconnecting)
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


def test_a_sync_in_flight_stops_within_a_second_of_a_disconnection(
    harbor: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    sandbox: RunningSandbox,
    consent: Consent,
) -> None:
    sandbox.world.clear_requests()
    sandbox.world.add_fault(Fault("latency", location_of(harbor), seconds=0.5))
    days = [DAY - timedelta(days=n) for n in range(40)]
    with ThreadPoolExecutor(1) as pool:
        running_sync = pool.submit(sync.sync_days, days)
        deadline = time.monotonic() + 120
        while not reads(sandbox):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        consent.disconnect(harbor.user.id)
        asked = len(reads(sandbox))
        results = running_sync.result()
    assert len(reads(sandbox)) <= asked + 2, "those of one second"
    assert {(r.state, r.failure) for r in results} == {
        (DayState.WAITING, FailureClass.NO_CONNECTION)
    }
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT count(*) FROM call_logs")).scalar_one() == 0


def test_a_spender_reuses_a_token_until_a_row_changes(
    harbor: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    consent: Consent,
    connect: Connector,
    clock: Clock,
) -> None:
    seconds = itertools.count()  # each look at the time is a second later
    tokens = Tokens(engine, vault, client, now=clock, monotonic=lambda: float(next(seconds)))
    spend = tokens.spender(harbor.user.id)
    first = spend(lambda token: token)
    with counted(engine) as statements:
        assert [spend(lambda token: token) for _ in range(3)] == [first] * 3
    assert len(statements) == 3, "one statement each"
    tokens.refresh(harbor.user.id)
    second = spend(lambda token: token)
    assert second != first
    clock.now += timedelta(hours=23, minutes=56)  # expired, but for the margin
    third = spend(lambda token: token)
    assert third != second
    with engine.begin() as db:  # as the source system reconnects: by another row
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, access_token, token_expires_at, "
                "location_id, is_active, updated_at) VALUES (gen_random_uuid(), :user, 'highlevel',"
                " 'INVENTED-ELSEWHERE', :end, :location, true, :end)"
            ),
            {
                "user": harbor.user.id,
                "location": harbor.location_id,
                "end": clock.now + timedelta(days=1),
            },
        )
    assert spend(lambda token: token) == Secret("INVENTED-ELSEWHERE")
    consent.disconnect(harbor.user.id)
    asked: list[Secret] = []
    assert failure_of(lambda: spend(asked.append)) is FailureClass.NO_CONNECTION
    assert asked == []


def test_one_question_a_second_tells_whether_all_connections_stand(
    harbor: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    connect: Connector,
    consent: Consent,
    clock: Clock,
) -> None:
    pine, seconds = connect("Pine Realty"), [0.0]
    tokens = Tokens(engine, vault, client, now=clock, monotonic=lambda: seconds[0])
    spends = [tokens.spender(one.user.id) for one in (harbor, pine)]
    for _ in range(2):
        kept = [spend(lambda token: token) for spend in spends]
    with counted(engine) as statements:
        for tenth in range(30):
            seconds[0] = 2 + tenth / 10
            assert [spend(lambda token: token) for spend in spends] == kept
    assert 3 <= len(statements) <= 4
    consent.disconnect(harbor.user.id)
    seconds[0] += 1.0
    assert failure_of(lambda: spends[0](lambda token: token)) is FailureClass.NO_CONNECTION
    assert spends[1](lambda token: token) == kept[1]


def test_a_sync_in_another_time_zone_uses_the_same_tokens(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> None:
    clock.now += timedelta(days=2)
    auckland = Sync(engine, tokens, client, ZoneInfo("Pacific/Auckland"), now=clock)
    (day,) = auckland.sync_days([DAY])
    assert day.state is DayState.COMPLETE


def test_a_batch_is_refreshed_at_a_steady_pace(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    users = fleet(engine, 60, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    before, started = clock.now, time.monotonic()
    with refreshing_at(engine, vault, clock, provider) as tokens:
        assert not any(tokens.refresh_due(users).values())
    assert provider.posts == 60
    # What the work takes is real time, and the pauses are simulated.
    took = (clock.now - before).total_seconds() + time.monotonic() - started
    assert took >= (60 - BURST) / POSTS_PER_SECOND

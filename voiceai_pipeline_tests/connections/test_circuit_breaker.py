"""Failures that affect all users: a wrong client secret, an outage, and lost grants."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    alerts,
    circuit_breaker,
)
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.failures import (
    FailureClass,
)
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.token_fleet import (
    TICK,
    Provider,
    app_events,
    delivered,
    due,
    fleet,
    refreshing_at,
    states,
)


@soak
def test_a_wrong_client_secret_for_an_hour_affects_no_user_and_raises_one_alert(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    size = repeated(150, 1000)
    users = fleet(engine, size, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with engine.connect() as db:
        columns = "connection_state, connection_reason, failed_attempts, token_version, is_active"
        query = sa.text(f"SELECT {columns}, refresh_token FROM api_keys ORDER BY user_id")  # noqa: S608
        before = db.execute(query).all()
    provider.failure = (401, {"message": "client secret is not valid", "error": "Unauthorized"})
    notices = []
    with refreshing_at(engine, vault, clock, provider) as tokens:
        end = clock.now + timedelta(hours=1)
        while clock.now < end:
            outcomes = tokens.refresh_due(users)
            assert {o.failure for o in outcomes.values() if o} == {FailureClass.CLIENT_REFUSED}
            assert len([o for o in outcomes.values() if o]) == size
            notices += delivered(engine)
            clock.now += 3 * TICK
        # Five open it, eight workers may be on their way; then a probe in five minutes.
        assert provider.posts <= 5 + 8 + 60 / 5
        with engine.connect() as db:
            assert db.execute(query).all() == before
        assert notices == [("app", "opened")]
        with engine.begin() as db:
            assert circuit_breaker.read(db).is_open
        assert app_events(engine) == ["circuit_opened"]

        provider.failure = None
        clock.now += timedelta(minutes=5)
        outcomes = tokens.refresh_due(users)
        late = [user for user, outcome in outcomes.items() if outcome]
        # Callers that ask while the first success is in flight have to wait.
        assert len(late) <= 100
        assert not any(tokens.refresh_due(late).values())
    assert delivered(engine) == [("app", "closed")]
    assert app_events(engine) == ["circuit_opened", "circuit_closed"]
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert max(provider.spent.values()) <= 2 + 60 / 5


@soak
@pytest.mark.parametrize(
    "failure",
    [(503, {"message": "Service Unavailable"}), (504, {}), (429, {}), (0, {}), (-1, {})],
    ids=["503", "504", "429", "reset", "timeout"],
)
def test_an_outage_of_four_days_costs_no_user_the_connection(
    failure: tuple[int, dict[str, Any]],
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
) -> None:
    users = fleet(engine, 12, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.failure, step = failure, timedelta(hours=repeated(4, 1))
    timeout = 0.05 if failure[0] == -1 else 30
    notices = []
    with refreshing_at(engine, vault, clock, provider, timeout) as tokens:
        end = clock.now + timedelta(days=4)
        while clock.now < end:
            outcomes = tokens.refresh_due(users)
            assert all(o and not o.failure.needs_action for o in outcomes.values())
            notices += delivered(engine)
            clock.now += step
        assert set(states(engine)) <= {"connected", "in_doubt"}
        # No token is posted again and again: the circuit lets one probe through at a time.
        # (A rate limit spends nothing: each exchange waits a minute for it, asking seven times.)
        asked = 7 if failure[0] == 429 else 1
        assert provider.posts <= asked * (5 + 8)
        assert notices == [("app", "opened")]
    provider.failure = None
    with refreshing_at(engine, vault, clock, provider) as tokens:
        outcomes = {u: o for u, o in tokens.refresh_due(users).items() if o}
        clock.now += timedelta(minutes=1)
        assert not any(tokens.refresh_due(list(outcomes)).values())
    assert states(engine) == {"connected": 12}
    assert due(engine, clock) == []
    assert max(provider.spent.values()) <= 2 or failure[0] > 0
    assert delivered(engine) == [("app", "closed")]


@soak
def test_a_partial_outage_that_loses_only_grants_spends_one_replay_a_day_at_most(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    users = fleet(engine, 30, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.failure, provider.half = (-1, {}), True
    with refreshing_at(engine, vault, clock, provider, timeout=0.05) as tokens:
        end = clock.now + timedelta(days=4)
        while clock.now < end:
            tokens.refresh_due(users)
            clock.now += timedelta(hours=repeated(4, 1))
    provider.failure = None
    with refreshing_at(engine, vault, clock, provider) as tokens:
        clock.now += timedelta(hours=24)
        for _ in range(3):
            tokens.refresh_due(users)
            clock.now += timedelta(minutes=1)
    lost = states(engine)["needs_reconnect"]
    assert lost <= 4
    assert states(engine) == Counter(connected=30 - lost, needs_reconnect=lost)
    assert max(provider.spent.values()) <= 2


def test_one_users_lasting_failures_do_not_suspend_the_others(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    odd, *_ = users = fleet(engine, 5, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.failure, provider.only = (500, {}), f"INVENTED-R-{odd}"
    notices = []
    with refreshing_at(engine, vault, clock, provider) as tokens:
        for _ in range(20):
            outcomes = tokens.refresh_due(users)
            assert [user for user, outcome in outcomes.items() if outcome] == [odd]
            notices += delivered(engine)
            clock.now += TICK
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert notices == [("Shop", "opened")]


def test_a_replay_answered_with_errors_raises_an_alert_and_is_retried_hourly(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    notices, end = [], clock.now + timedelta(days=2)
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure, provider.half = (0, {}), False
        assert tokens.refresh_due([user])[user]
        provider.failure, provider.half = (500, {}), True
        while clock.now < end:
            if due(engine, clock):
                assert tokens.refresh_due([user])[user]
            notices += delivered(engine)
            clock.now += TICK
        assert states(engine) == {"in_doubt": 1}
        assert provider.posts <= 1 + 48 + 1
        assert ("Shop", "opened") in notices
        provider.failure = None
        clock.now += timedelta(hours=1)
        assert tokens.refresh_due([user]) == {user: None}


def test_a_refusal_of_one_user_does_not_resume_replays(engine: sa.Engine, clock: Clock) -> None:
    with engine.begin() as db:
        circuit_breaker.count_failure(db, FailureClass.UNREACHABLE, "", clock.now, None)
        circuit_breaker.pause_replays(db, clock.now + timedelta(days=1))
        circuit_breaker.count_success(db, granted=False, refreshed=False)
        assert circuit_breaker.read(db).replays_rest_until is not None
        circuit_breaker.count_success(db, granted=True, refreshed=True)
        assert circuit_breaker.read(db).replays_rest_until is None


def test_a_consent_shows_that_our_client_works_and_closes_the_circuit(
    engine: sa.Engine, connect: Connector, clock: Clock
) -> None:
    with engine.begin() as db:
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(db, FailureClass.CLIENT_REFUSED, "", clock.now, None)
        alerts.open_(db, None, FailureClass.CLIENT_REFUSED, clock.now)
        assert circuit_breaker.read(db).is_open
    assert delivered(engine) == [("app", "opened")]
    connect("Harbor Dental")
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert delivered(engine) == [("app", "closed")]

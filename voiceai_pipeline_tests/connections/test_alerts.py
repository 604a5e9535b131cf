"""When a user's connection is worth an alert, and that it is raised once."""

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    alerts,
    history,
)
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    ConnectionState,
)
from voiceai_pipeline.core.failures import (
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.token_fleet import (
    TICK,
    Provider,
    delivered,
    fleet,
    refreshing_at,
    states,
)


def test_one_user_whose_refresh_fails_for_two_hours_raises_one_alert_and_is_not_revoked(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    well, odd = fleet(engine, 2, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    notices = []
    with refreshing_at(engine, vault, clock, provider) as tokens:
        for _ in range(30):
            provider.failure = (418, {"message": "I'm a teapot"})
            error = tokens.refresh_due([odd])[odd]
            assert error is not None
            assert error.failure is FailureClass.UNKNOWN_ANSWER
            provider.failure = None
            assert tokens.refresh(well).can_sync
            notices += delivered(engine)
            clock.now += TICK
        with engine.begin() as db:
            seen = connections.one(db, odd, clock.now)
        assert seen is not None
        assert (seen.status, seen.failed_attempts) == (ConnectionState.EXPIRING, 30)
        assert "failed 30 times in a row" in seen.cause
        assert "not documented" in seen.cause
        assert notices == [("Shop", "opened")]
        assert tokens.refresh(odd).last_failure is None
    assert delivered(engine) == [("Shop", "closed")]


def test_a_user_who_keeps_failing_and_is_then_revoked_raises_another_alert(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure = (418, {"message": "I'm a teapot"})
        for _ in range(12):
            assert tokens.refresh_due([user])[user]
        assert delivered(engine) == [("Shop", "opened")]
        provider.failure = (400, {"message": "Invalid grant: refresh token is invalid"})
        assert tokens.refresh_due([user])[user]
        assert delivered(engine) == [("Shop", "opened")]
        assert delivered(engine) == []


def test_a_missing_key_raises_one_alert_and_changes_nothing(
    engine: sa.Engine, connect: Connector, client: HighLevelClient, clock: Clock, vault: TokenVault
) -> None:
    user = connect("Harbor Dental")
    stranger = Tokens(engine, TokenVault({"other": b"o" * 32}), client, now=clock)
    for days in (0, 2):
        clock.now += timedelta(days=days)
        for _ in range(10):
            with pytest.raises(PipelineError) as refused:
                stranger.get_valid_token(user.user.id)
            assert refused.value.failure is FailureClass.TOKEN_UNREADABLE
    assert delivered(engine) == [("Harbor Dental", "opened")]
    assert states(engine) == {"connected": 1}
    with engine.begin() as db:
        entries = history.of_user(db, user.user.id)
    assert [e.event for e in entries] == [TokenEvent.REFRESH_FAILED, TokenEvent.CONNECTED]
    assert "no key 'test' in the keyring" in entries[0].sentence
    assert Tokens(engine, vault, client, now=clock).refresh(user.user.id).can_sync
    assert delivered(engine) == [("Harbor Dental", "closed")]


def test_a_notice_names_a_business_and_no_individual(engine: sa.Engine, clock: Clock) -> None:
    with engine.begin() as db:
        user_id = UUID(int=7)
        connections.add_user(db, user_id, business_name="", first_name="Ada", last_name="Byron")
        alerts.open_(db, user_id, FailureClass.REFRESH_REJECTED, clock.now)
    assert delivered(engine) == [(str(user_id), "opened")]


def test_a_long_pause_raises_one_alert_thirty_days_before_the_refresh_token_expires(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    user = connect("Harbor Dental")
    sandbox.world.pause(user.location_id or "")
    start, notices = clock.now, []
    while clock.now < start + timedelta(days=360):
        clock.now += timedelta(days=5)
        error = tokens.refresh_due([user.user.id])[user.user.id]
        assert error is not None
        assert error.failure is FailureClass.LOCATION_PAUSED
        notices += [(clock.now - start, *notice) for notice in delivered(engine)]
    assert notices == [(timedelta(days=335), "Harbor Dental", "opened")]
    sandbox.world.resume(user.location_id or "")
    clock.now += timedelta(hours=6)
    assert tokens.refresh_due([user.user.id]) == {user.user.id: None}
    assert delivered(engine) == [("Harbor Dental", "closed")]

"""What an operator asks for is tried at once, whatever rest was ordered."""

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.pauses import Pauses
from voiceai_pipeline.connections.probe import probe
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.token_fleet import TICK, Provider, fleet, refreshing_at

WRONG_SECRET = (401, {"message": "client secret is not valid", "error": "Unauthorized"})
SIZE = 12


@pytest.fixture
def users(engine: sa.Engine, clock: Clock) -> list[UUID]:
    """Users whose access tokens have expired."""
    return fleet(engine, SIZE, clock.now, expires=-TICK, refreshed=-timedelta(days=1))


def all_of(engine: sa.Engine) -> list[Connection]:
    with engine.begin() as db:
        return connections.all_connections(db)


def is_suspended(engine: sa.Engine) -> bool:
    with engine.begin() as db:
        return circuit_breaker.read(db).is_open


def test_after_credentials_were_changed_one_exchange_lets_all_users_refresh_at_once(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, users: list[UUID]
) -> None:
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure = WRONG_SECRET
        tokens.refresh_due(users)
        assert is_suspended(engine)
        provider.failure = None
        assert {e.failure for e in tokens.refresh_due(users).values() if e} == {
            FailureClass.CLIENT_REFUSED
        }
        before = provider.posts
        probe(engine, tokens, all_of(engine), paused=False)
        assert provider.posts == before + 1
        assert not is_suspended(engine)
        assert set(tokens.refresh_due(users).values()) == {None}


def test_a_paused_users_exchange_shows_as_well_that_refreshes_work_again(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, users: list[UUID]
) -> None:
    Pauses(engine).pause(users)
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure = WRONG_SECRET
        tokens.refresh_due(users)
        assert is_suspended(engine)
        provider.failure = None
        probe(engine, tokens, all_of(engine), paused=False)
        assert not is_suspended(engine)


def test_credentials_that_are_still_wrong_cost_three_exchanges_however_many_users_there_are(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, users: list[UUID]
) -> None:
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure = WRONG_SECRET
        tokens.refresh_due(users)
        before = provider.posts
        probe(engine, tokens, all_of(engine), paused=True)
        assert provider.posts == before + 3
        assert is_suspended(engine)


def test_a_test_of_a_connection_asks_the_token_endpoint_while_the_circuit_is_open(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, users: list[UUID]
) -> None:
    with refreshing_at(engine, vault, clock, provider) as tokens:
        provider.failure = WRONG_SECRET
        tokens.refresh_due(users)
        provider.failure = None
        assert tokens.refresh(users[0]).state is ConnectionState.CONNECTED
        assert not is_suspended(engine)


def test_a_lost_exchange_is_replayed_at_once_and_a_paused_user_is_tried_only_if_asked_for(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, users: list[UUID]
) -> None:
    lost, paused = users[:2]
    with engine.begin() as db:
        for user, state, values in (
            (lost, "in_doubt", "lease_id = gen_random_uuid(), lease_expires_at = :past, "),
            (paused, "paused", "connection_reason = 'location_paused', "),
        ):
            db.execute(
                sa.text(
                    f"UPDATE api_keys SET {values} connection_state = :state, "  # noqa: S608
                    "next_attempt_at = :later WHERE user_id = :user"
                ),
                {"state": state, "user": user, "later": clock.now + 6 * TICK}
                | ({"past": clock.now - TICK} if user == lost else {}),
            )
        db.execute(
            sa.text("UPDATE token_circuit SET replays_rest_until = :later"),
            {"later": clock.now + 6 * TICK},
        )
    with refreshing_at(engine, vault, clock, provider) as tokens:
        for user in (lost, paused):
            with pytest.raises(PipelineError):
                tokens.get_valid_token(user)
        probe(engine, tokens, all_of(engine), paused=False)
        assert states(engine, lost, paused) == [ConnectionState.CONNECTED, ConnectionState.PAUSED]
        probe(engine, tokens, all_of(engine), paused=True)
        assert states(engine, lost, paused) == [ConnectionState.CONNECTED] * 2
    assert provider.posts == 2


def states(engine: sa.Engine, *users: UUID) -> list[ConnectionState]:
    found = {one.user.id: one.state for one in all_of(engine)}
    return [found[user] for user in users]

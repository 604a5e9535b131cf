"""Requests in a row with one user's tokens, and rows that are read before they are needed."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.statements import counted
from voiceai_pipeline_tests.support.token_endpoint import failure_of, refreshes


@pytest.fixture
def seconds() -> list[float]:
    """The time that stamps and rows ahead are judged by."""
    return [0.0]


@pytest.fixture
def tokens(
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    seconds: list[float],
) -> Tokens:
    return Tokens(engine, vault, client, now=clock, monotonic=lambda: seconds[0])


def test_the_rows_of_many_users_are_read_by_one_statement(
    harbor: Connection, connect: Connector, engine: sa.Engine, tokens: Tokens
) -> None:
    users = [harbor.user.id, connect("Pine Realty").user.id]
    kept = [tokens.get_valid_token(one) for one in users]
    with counted(engine) as statements:
        ahead = tokens.read_ahead(users)
        assert [tokens.spender(one, ahead[one])(lambda token: token) for one in users] == kept
    assert len(statements) == 1


def test_a_row_that_was_read_more_than_a_second_ahead_is_read_again(
    harbor: Connection, consent: Consent, tokens: Tokens, seconds: list[float]
) -> None:
    user = harbor.user.id
    spends = [tokens.spender(user, ahead) for ahead in [tokens.read_ahead([user])[user]] * 2]
    consent.disconnect(user)
    seconds[0] = 0.8
    assert isinstance(spends[0](lambda token: token), Secret)
    seconds[0] = 1.0
    assert failure_of(lambda: spends[1](lambda token: token)) is FailureClass.NO_CONNECTION


def test_a_token_that_expires_is_refreshed_although_its_row_was_read_ahead(
    harbor: Connection, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    user = harbor.user.id
    before, asked = tokens.get_valid_token(user), len(refreshes(sandbox))
    clock.now += timedelta(hours=23, minutes=57)
    token = tokens.spender(user, tokens.read_ahead([user])[user])(lambda token: token)
    assert token == tokens.get_valid_token(user) != before
    assert len(refreshes(sandbox)) == asked + 1

"""One exchange: the lease, the new pair, and what happens when another process was faster."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import token_row, token_store
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.tokens import REFRESH_MARGIN, Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings, open_client
from voiceai_pipeline_tests.support.token_endpoint import (
    Endpoint,
    failure_of,
    granted,
    location_of,
    refreshes,
    standing,
    stored,
    tokens_at,
)


def test_both_api_versions_refresh(
    both_dialects: str,
    engine: sa.Engine,
    vault: TokenVault,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        consent = Consent(engine, vault, client, now=clock)
        connector = Connector(engine, client, consent)
        for name in ("Harbor Dental", "Northwind Agency"):
            user = connector(name).user
            clock.now += timedelta(days=2)
            before = stored(engine, user.id)
            token = tokens.get_valid_token(user.id)
            after = stored(engine, user.id)
            assert sandbox.world.grant_of(access=token.reveal()) is not None
            assert before["refresh_token"] != after["refresh_token"]
            assert after["location_id"] == DEMO[name].location_id
        connector.browser.close()


def test_a_token_that_expired_a_year_ago_is_refreshed_and_keeps_its_location(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    clock.now += timedelta(days=364)
    token = tokens.get_valid_token(harbor.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    after = stored(engine, harbor.user.id)
    assert after["location_id"] == harbor.location_id
    assert after["token_expires_at"] == clock.now + timedelta(seconds=86_399)
    assert after["is_active"] is True
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


@pytest.mark.parametrize("api_version", ["dated", "v3"])
def test_fields_that_an_answer_omits_stay_as_stored(
    api_version: str,
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    before = stored(engine, expired.user.id)
    names = ("accessToken", "expiresIn") if api_version == "v3" else ("access_token", "expires_in")
    endpoint.answer = lambda: (200, dict(zip(names, ("INVENTED-ACCESS", 86_399), strict=True)))
    with tokens_at(sandbox, engine, vault, clock, endpoint.url, api_version) as tokens:
        assert tokens.get_valid_token(expired.user.id) == Secret("INVENTED-ACCESS")
    after = stored(engine, expired.user.id)
    tokens_of = [
        vault.decrypt(row["refresh_token"], "refresh_token", expired.user.id, row["token_version"])
        for row in (before, after)
    ]
    assert tokens_of[0] == tokens_of[1]
    for name in ("location_id", "scope", "company_id", "user_type", "is_active"):
        assert after[name] == before[name]
        assert after[name] is not None
    assert after["token_version"] == before["token_version"] + 1


def test_a_lifetime_shorter_than_the_margin_is_used_once_and_does_not_loop(
    expired: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_token_lifetime(location_of(expired), 60)
    assert tokens.spend(expired.user.id, lambda token: token.reveal())
    assert refreshes(sandbox) == [200]
    tokens.get_valid_token(expired.user.id)
    assert refreshes(sandbox) == [200, 200]


def test_a_waiting_caller_uses_a_short_lived_token_too(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.set_token_lifetime(location_of(expired), 60)
    with engine.begin() as db:
        row = token_row.read(db, expired.user.id, clock.now)
        assert row is not None
        lease = token_store.take_lease(db, row, LEASE)
        assert lease is not None

    def winner_finishes(_: float) -> None:
        held = row.token(vault, "refresh_token")
        assert held is not None
        pair = client.refresh(held, "Location")
        with engine.begin() as db:
            assert token_store.save_rotation(
                db, row, pair, vault, started_at=row.now, refresh_at=row.now, actor=Actor()
            )

    waiting = Tokens(engine, vault, client, now=clock, sleep=winner_finishes)
    token = waiting.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [200]


def test_a_loser_with_a_stale_row_cannot_take_the_lease(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock
) -> None:
    with engine.begin() as db:
        stale = token_row.read(db, expired.user.id, clock.now)
    assert stale is not None
    tokens.get_valid_token(expired.user.id)
    after = stored(engine, expired.user.id)
    with engine.begin() as db:
        assert token_store.take_lease(db, stale, LEASE) is None
        needs, rejected = ConnectionState.NEEDS_RECONNECT, FailureClass.REFRESH_REJECTED
        for lease in (None, uuid4()):
            assert not token_store.settle(
                db,
                stale,
                lease,
                needs,
                rejected,
                actor=Actor(),
                event=TokenEvent.REFRESH_FAILED,
            )
    assert stored(engine, expired.user.id) == after


def test_a_revocation_found_by_another_caller_is_not_requested_again(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    with engine.begin() as db:
        stale = token_row.read(db, expired.user.id, clock.now)
    assert stale is not None
    sandbox.world.revoke(location_of(expired))
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.REFRESH_REJECTED
    )
    with engine.begin() as db:
        assert token_store.take_lease(db, stale, LEASE) is None


@pytest.mark.parametrize(
    "answer",
    [
        (400, {"error": "invalid_grant", "message": "Invalid grant: refresh token is invalid"}),
        (400, {"message": "Location is not active"}),
        (503, {"message": "Service Unavailable"}),
        (200, b"not JSON"),
        (200, granted(99)),
    ],
    ids=["invalid grant", "paused", "503", "malformed", "late success"],
)
def test_a_slow_caller_that_lost_its_lease_returns_the_winners_token(
    answer: tuple[int, object],
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    tokens: Tokens,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    won: list[Secret] = []
    rows: list[dict[str, Any]] = []

    def overtaken() -> tuple[int, object]:
        clock.now += LEASE
        won.append(tokens.get_valid_token(expired.user.id))
        rows.append(stored(engine, expired.user.id))
        return answer

    endpoint.answer = overtaken
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as slow:
        assert slow.get_valid_token(expired.user.id) == won[0]
    assert len(endpoint.posts) == 1
    assert stored(engine, expired.user.id) == rows[0]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    assert refreshes(sandbox) == [200]


def test_a_reconnection_beats_an_exchange_in_flight(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    connect: Connector,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    rows: list[dict[str, Any]] = []

    def reconnected() -> tuple[int, object]:
        connect("Harbor Dental")
        rows.append(stored(engine, expired.user.id))
        return 200, granted()

    endpoint.answer = reconnected
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert stored(engine, expired.user.id) == rows[0]
    assert len(endpoint.posts) == 1


def test_a_disconnection_beats_an_exchange_in_flight(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    tokens: Tokens,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
    consent: Consent,
) -> None:
    def disconnected() -> tuple[int, object]:
        consent.disconnect(expired.user.id)
        return 200, granted()

    endpoint.answer = disconnected
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as slow:
        failure = failure_of(lambda: slow.get_valid_token(expired.user.id))
    assert failure is FailureClass.NO_CONNECTION
    row = stored(engine, expired.user.id)
    assert (row["access_token"], row["refresh_token"]) == (None, None)
    assert row["connection_state"] == "disconnected"


def test_a_lost_database_connection_after_the_answer_does_not_lose_the_pair(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.grace_seconds = 0
    with engine.begin() as db:
        # A sequence is not rolled back, so the fault passes after two writes.
        db.execute(sa.text("CREATE SEQUENCE faults"))
        db.execute(
            sa.text(
                "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.token_version > OLD.token_version AND nextval('faults') <= 2 THEN "
                "PERFORM pg_terminate_backend(pg_backend_pid()); END IF; "
                "RETURN NEW; END $$"
            )
        )
        db.execute(
            sa.text(
                "CREATE TRIGGER fault BEFORE UPDATE ON api_keys "
                "FOR EACH ROW EXECUTE FUNCTION fault()"
            )
        )
    token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [200]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


def test_the_lease_outlasts_every_timeout_of_a_token_post() -> None:
    client = HighLevelClient(highlevel_settings("http://127.0.0.1:9"), retry=Retry(attempts=1))
    assert client._token_timeout + 5 < LEASE.total_seconds()
    assert timedelta(minutes=5) == REFRESH_MARGIN
    client.close()

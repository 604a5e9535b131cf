"""Leases, rotations and settled exchanges in the rows."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import connection_store, token_row, token_store
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.token_endpoint import (
    Endpoint,
    failure_of,
    granted,
    stored,
    tokens_at,
)
from voiceai_pipeline_tests.support.user_rows import ADA, NOW, add, legacy


def test_a_scope_lost_at_a_refresh_needs_action(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    endpoint.answer = lambda: (200, granted(scope="locations.readonly"))
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(2):
            failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
            assert failure is FailureClass.SCOPE_MISSING
    assert len(endpoint.posts) == 1
    row = stored(engine, expired.user.id)
    of_row = ("refresh_token", expired.user.id, row["token_version"])
    refresh = vault.decrypt(row["refresh_token"], *of_row)
    assert refresh == Secret("INVENTED-REFRESH-1")  # the new pair is kept all the same


def row_of(engine: sa.Engine, now: datetime = NOW) -> token_row.TokenRow:
    with engine.begin() as db:
        row = token_row.read(db, ADA, now)
    assert row is not None
    return row


def take(engine: sa.Engine, row: token_row.TokenRow) -> UUID | None:
    with engine.begin() as db:
        return token_store.take_lease(db, row, LEASE)


@pytest.fixture
def ada(engine: sa.Engine) -> sa.Engine:
    add(engine, ADA, "Ada")
    legacy(engine, ADA)
    return engine


def test_a_lease_is_taken_once_taken_over_once_and_never_again(ada: sa.Engine) -> None:
    free = row_of(ada)
    first = take(ada, free)
    assert first is not None
    assert take(ada, free) is None
    held = row_of(ada, NOW + LEASE - timedelta(milliseconds=1))
    assert held.lease_id == first
    assert take(ada, held) is None
    abandoned = row_of(ada, NOW + LEASE)
    second = take(ada, abandoned)
    assert second not in (None, first)
    assert take(ada, abandoned) is None
    replay = row_of(ada, NOW + 5 * LEASE)
    assert replay.replayed
    assert take(ada, replay) is None


def save(engine: sa.Engine, row: token_row.TokenRow, pair: OAuthToken, vault: TokenVault) -> bool:
    with engine.begin() as db:
        return token_store.save_rotation(
            db, row, pair, vault, started_at=row.now, refresh_at=row.now, actor=Actor()
        )


def test_only_the_holder_of_the_lease_settles_an_exchange(ada: sa.Engine) -> None:
    row = row_of(ada)
    lease = take(ada, row)
    assert lease is not None
    state, event = ConnectionState.NEEDS_RECONNECT, TokenEvent.REFRESH_FAILED
    with ada.begin() as db:
        for other in (uuid4(), None):
            assert not token_store.settle(db, row, other, state, actor=Actor(), event=event)
        assert not token_store.leave_in_doubt(
            db,
            row,
            uuid4(),
            FailureClass.UNREACHABLE,
            lost=True,
            counts=True,
            next_attempt_at=None,
            actor=Actor(),
            detail="",
        )
    assert row_of(ada).connection.state is ConnectionState.CONNECTED
    with ada.begin() as db:
        assert token_store.settle(db, row, lease, state, actor=Actor(), event=event)
    assert row_of(ada).connection.state is state


def test_a_pair_replaces_its_own_generation_once(ada: sa.Engine, vault: TokenVault) -> None:
    row = row_of(ada)
    assert take(ada, row) is not None
    pair = OAuthToken(Secret("INVENTED-A2"), 60, refresh_token=Secret("INVENTED-R2"))
    assert save(ada, row, pair, vault)
    assert not save(ada, row, pair, vault)
    after = row_of(ada)
    assert after.token(vault, "access_token") == Secret("INVENTED-A2")
    assert after.token(vault, "refresh_token") == Secret("INVENTED-R2")
    assert (after.version, after.lease_id) == (row.version + 1, None)


def test_a_pair_that_arrives_after_its_replay_was_refused_fixes_the_connection(
    ada: sa.Engine, vault: TokenVault
) -> None:
    row = row_of(ada)
    assert take(ada, row) is not None
    replay = row_of(ada, NOW + LEASE)
    lease = take(ada, replay)
    rejected = FailureClass.REFRESH_REJECTED
    with ada.begin() as db:
        assert token_store.settle(
            db,
            replay,
            lease,
            ConnectionState.NEEDS_RECONNECT,
            rejected,
            actor=Actor(),
            event=TokenEvent.REFRESH_FAILED,
        )
    pair = OAuthToken(Secret("INVENTED-A2"), 60, refresh_token=Secret("INVENTED-R2"))
    assert save(ada, row, pair, vault)
    assert row_of(ada).connection.state is ConnectionState.CONNECTED


def test_a_location_token_of_a_pair_that_was_replaced_is_not_kept(
    ada: sa.Engine, vault: TokenVault
) -> None:
    stale = row_of(ada)
    with ada.begin() as db:
        connection_store.disconnect(db, ADA, NOW, actor=Actor())
        minted = OAuthToken(Secret("INVENTED-L"), 60)
        assert not token_store.save_location_token(db, stale, minted, vault, actor=Actor())
    assert row_of(ada).token(vault, "location_access_token") is None


def test_a_row_without_any_mention_of_a_token_is_shown(ada: sa.Engine) -> None:
    row = row_of(ada)
    assert "INVENTED" not in repr(row)

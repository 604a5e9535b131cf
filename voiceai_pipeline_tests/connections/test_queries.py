"""Who there is and how each stands: everyone is always listed, whatever became of their row."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import connection_store, token_row, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState, OAuthToken, User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ADA, BEN = (UUID(f"00000000-0000-4000-8000-00000000000{n}") for n in (1, 2))


def add(engine: sa.Engine, user_id: UUID, name: str = "", first: str = "", last: str = "") -> None:
    with engine.begin() as db:
        connections.add_user(db, user_id, business_name=name, first_name=first, last_name=last)


def legacy(engine: sa.Engine, user_id: UUID, **values: object) -> None:
    """A row as the existing application writes it."""
    row = {
        "id": uuid4(),
        "user_id": user_id,
        "service": "highlevel",
        "access_token": "INVENTED-A",
        "refresh_token": "INVENTED-R",
        "is_active": True,
        "location_id": "Loc",
        **values,
    }
    names = ", ".join(row)
    slots = ", ".join(f":{name}" for name in row)
    with engine.begin() as db:
        db.execute(sa.text(f"INSERT INTO api_keys ({names}) VALUES ({slots})"), row)  # noqa: S608


def one(engine: sa.Engine, user_id: UUID) -> Connection:
    with engine.connect() as db:
        found = connections.one(db, user_id)
    assert found is not None
    return found


def test_everyone_is_listed_by_name(engine: sa.Engine) -> None:
    nameless = uuid4()
    add(engine, ADA, "Zebra Zoo")
    add(engine, BEN, "", "Ben", "Ortiz")
    add(engine, nameless)
    add(engine, ADA, "Another name")  # who is there stays as they are
    with engine.connect() as db:
        people = connections.all_connections(db)
        assert connections.all_connections(db, []) == []
        assert [c.user.id for c in connections.all_connections(db, [BEN])] == [BEN]
        assert connections.one(db, uuid4()) is None
    assert {c.user.name for c in people} == {"Zebra Zoo", "Ben Ortiz", str(nameless)}
    assert {c.state for c in people} == {ConnectionState.NEVER_CONNECTED}


@pytest.mark.parametrize(
    ("values", "state", "obstacle"),
    [
        ({}, ConnectionState.CONNECTED, None),
        ({"refresh_token": None}, ConnectionState.CONNECTED, None),
        (
            {"refresh_token": None, "access_token": None},
            ConnectionState.DISCONNECTED,
            FailureClass.NO_CONNECTION,
        ),
        ({"is_active": False}, ConnectionState.DISCONNECTED, FailureClass.NO_CONNECTION),
        ({"is_active": None}, ConnectionState.DISCONNECTED, FailureClass.NO_CONNECTION),
        ({"location_id": None}, ConnectionState.CONNECTED, FailureClass.NO_LOCATION),
        ({"location_id": ""}, ConnectionState.CONNECTED, FailureClass.NO_LOCATION),
        (
            {"service": "another"},
            ConnectionState.NEVER_CONNECTED,
            FailureClass.NO_CONNECTION,
        ),
    ],
)
def test_a_row_of_the_existing_application_has_a_state(
    values: dict[str, object],
    state: ConnectionState,
    obstacle: FailureClass | None,
    engine: sa.Engine,
) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, **values)
    found = one(engine, ADA)
    assert (found.state, found.obstacle) == (state, obstacle)
    assert found.can_sync is (obstacle is None)


def test_of_several_rows_the_active_and_then_the_newest_is_the_connection(
    engine: sa.Engine,
) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, location_id="newest", is_active=False, updated_at=NOW)
    legacy(engine, ADA, location_id="older", updated_at=NOW - timedelta(days=2))
    legacy(engine, ADA, location_id="newer", updated_at=NOW - timedelta(days=1))
    legacy(engine, ADA, location_id="undated", updated_at=None)
    assert one(engine, ADA).location_id == "newer"
    with engine.connect() as db:
        assert len(connections.all_connections(db)) == 1


def test_rows_that_tie_are_always_read_in_the_same_order(engine: sa.Engine) -> None:
    add(engine, ADA, "Ada")
    ids = sorted((uuid4() for _ in range(6)), key=str)
    for row_id in reversed(ids):
        legacy(engine, ADA, id=row_id, location_id=str(row_id), updated_at=NOW, created_at=NOW)
    seen = set()
    for row_id in ids:
        seen.add(one(engine, ADA).location_id)
        with engine.begin() as db:  # moves the row to another place in the table
            db.execute(
                sa.text("UPDATE api_keys SET location_name = 'x' WHERE id = :id"), {"id": row_id}
            )
    assert seen == {str(ids[0])}


def test_a_reason_that_a_newer_version_stored_hides_nobody(engine: sa.Engine) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, connection_state="needs_reconnect", connection_reason="from_the_future")
    assert one(engine, ADA).reason is FailureClass.INTERNAL


def test_a_state_that_a_newer_version_stored_hides_nobody(engine: sa.Engine) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, connection_state="hibernating")
    add(engine, BEN, "Ben")
    with engine.connect() as db:
        people = connections.all_connections(db)
    assert [(p.user.name, p.state) for p in people] == [
        ("Ada", ConnectionState.CONNECTED),
        ("Ben", ConnectionState.NEVER_CONNECTED),
    ]


# Leases -------------------------------------------------------------------------------------------


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


def test_only_the_holder_of_the_lease_ends_an_exchange(ada: sa.Engine) -> None:
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


def test_a_pair_that_comes_after_its_replay_was_refused_mends_the_connection(
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


def test_connecting_somebody_who_is_no_user_is_refused(
    engine: sa.Engine, vault: TokenVault
) -> None:
    nobody = Connection(User(uuid4(), "Nobody"), ConnectionState.CONNECTED)
    with pytest.raises(LookupError), engine.begin() as db:
        connection_store.save_connection(
            db,
            nobody,
            OAuthToken(Secret("INVENTED"), 60),
            vault,
            started_at=NOW,
            refresh_at=NOW,
            actor=Actor(),
        )


def test_a_row_without_any_mention_of_a_token_is_shown(ada: sa.Engine) -> None:
    row = row_of(ada)
    assert "INVENTED" not in repr(row)

"""Users and their connections as they are listed."""

from datetime import date, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.user_rows import ADA, BEN, NOW, add, legacy, one


def test_due_users_are_listed_from_the_planned_time_on_however_long_ago(
    harbor: Connection, engine: sa.Engine, clock: Clock
) -> None:
    assert harbor.refresh_at is not None
    assert harbor.token_expires_at is not None
    assert timedelta(minutes=30) <= harbor.token_expires_at - harbor.refresh_at
    assert harbor.token_expires_at - harbor.refresh_at <= timedelta(minutes=30, hours=4.8)

    def due() -> list[UUID]:
        with engine.connect() as db:
            return [c.user.id for c in connections.due_for_refresh(db, clock.now)]

    clock.now = harbor.refresh_at - timedelta(seconds=1)
    assert due() == []
    clock.now += timedelta(seconds=1)
    assert due() == [harbor.user.id]
    clock.now += timedelta(days=300)
    assert due() == [harbor.user.id]


def test_everyone_is_listed_by_name(engine: sa.Engine) -> None:
    nameless = uuid4()
    add(engine, ADA, "Zebra Zoo")
    add(engine, BEN, "", "Ben", "Ortiz")
    add(engine, nameless)
    add(engine, ADA, "Another name")  # an existing user stays unchanged
    with engine.connect() as db:
        listed = connections.all_connections(db)
        assert connections.all_connections(db, []) == []
        assert [c.user.id for c in connections.all_connections(db, [BEN])] == [BEN]
        assert connections.one(db, uuid4()) is None
    assert {c.user.name for c in listed} == {"Zebra Zoo", "Ben Ortiz", str(nameless)}
    assert {c.state for c in listed} == {ConnectionState.NEVER_CONNECTED}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"location_id": None},
        {"refresh_token": None, "access_token": None},
        {"connection_state": "paused", "connection_reason": "location_paused"},
        {
            "connection_state": "needs_reconnect",
            "connection_reason": "scope_missing",
            "scope": "locations.readonly",
        },
        {"connection_state": "connected", "last_failure": "provider_error", "failed_attempts": 2},
    ],
)
def test_a_sync_reads_the_same_about_a_user_as_all_other_readers(
    engine: sa.Engine, values: dict[str, object]
) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, **values)
    add(engine, BEN, "Ben")
    legacy(engine, BEN, **values)
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO sync_pauses (user_id, since, paused_by, reason) "
                "VALUES (:user, :since, 'kim', 'moves')"
            ),
            {"user": BEN, "since": NOW},
        )
    with engine.begin() as db:
        listed = connections.all_connections(db)
        told = list(connections.to_sync(db))
        assert list(connections.to_sync(db, [])) == []

    def said(user: Connection) -> tuple[object, ...]:
        why = None if user.can_sync else (user.obstacle, user.message)
        return user.user, user.state, user.location_id, user.can_sync, why

    assert list(map(said, told)) == list(map(said, listed))
    assert told


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
        with engine.begin() as db:  # moves the row within the table
            db.execute(
                sa.text("UPDATE api_keys SET location_name = 'x' WHERE id = :id"), {"id": row_id}
            )
    assert seen == {str(ids[0])}


def test_a_reason_stored_by_a_newer_version_hides_no_user(engine: sa.Engine) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, connection_state="needs_reconnect", connection_reason="from_the_future")
    assert one(engine, ADA).reason is FailureClass.INTERNAL


def test_a_state_stored_by_a_newer_version_hides_no_user(engine: sa.Engine) -> None:
    add(engine, ADA, "Ada")
    legacy(engine, ADA, connection_state="hibernating")
    add(engine, BEN, "Ben")
    with engine.connect() as db:
        listed = connections.all_connections(db)
    assert [(c.user.name, c.state) for c in listed] == [
        ("Ada", ConnectionState.CONNECTED),
        ("Ben", ConnectionState.NEVER_CONNECTED),
    ]


def test_more_users_can_be_asked_for_than_a_statement_has_parameters(engine: sa.Engine) -> None:
    harbor = uuid4()
    with engine.begin() as db:
        connections.add_user(db, harbor, business_name="Harbor Dental")
        many = [*(uuid4() for _ in range(70_000)), harbor]
        assert [found.user.id for found in connections.all_connections(db, many)] == [harbor]
        assert [found.user.id for found in connections.to_sync(db, many)] == [harbor]
        assert ledger.results(db, days=[date(2026, 11, 20)], user_ids=many) == []
        assert ledger.statuses(db, many) == {}

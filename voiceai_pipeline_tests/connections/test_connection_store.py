"""Connecting, reconnecting, choosing a location and disconnecting, as stored."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import connection_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.consent_errors import ChooseLocationError, ConsentError
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
    OAuthToken,
    User,
)
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, make_location
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.token_endpoint import (
    DAY,
    failure_of,
    location_of,
    standing,
    stored,
)
from voiceai_pipeline_tests.support.user_rows import NOW


@pytest.fixture
def agency_of_two(clock: Clock) -> Iterator[RunningSandbox]:
    agency = DEMO["Northwind Agency"]
    vans = make_location("Northwind Vans", 12, "motors", "Europe/Berlin", 5)
    locations = (*DEMO_LOCATIONS, replace(vans, company_id=agency.company_id))
    with running(World(clock=clock, locations=locations), limits=False) as sandbox:
        yield sandbox


def test_an_agency_with_two_locations_must_select_one_and_its_grant_is_kept(
    agency_of_two: RunningSandbox, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    agency = DEMO["Northwind Agency"]
    with open_client(agency_of_two.url, clock) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        consent = Consent(engine, vault, client, now=clock)
        connector = Connector(engine, client, consent)
        (user_id,) = connector.add("Northwind Agency")
        with pytest.raises(ChooseLocationError, match="Northwind Vans") as choice:
            consent.connect(user_id, connector.code(agency))
        assert len(choice.value.locations) == 2
        row = stored(engine, user_id)
        assert vault.decrypt(row["refresh_token"], "refresh_token", user_id, row["token_version"])
        assert standing(engine, user_id) == (
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.NO_LOCATION,
        )
        with pytest.raises(ChooseLocationError):
            consent.connect(user_id, connector.code(agency), "LocNowhere")
        chosen = choice.value.locations[1]
        connected = consent.connect(user_id, connector.code(agency), chosen.location_id)
        connector.browser.close()
        assert connected.state is ConnectionState.CONNECTED
        assert connected.location_id == chosen.location_id
        token = tokens.get_valid_token(user_id)
        grant = agency_of_two.world.grant_of(access=token.reveal())
        assert grant is not None
        assert grant.location_id == chosen.location_id


def test_a_connection_without_the_scope_waits_and_costs_no_request(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    cedar = connect("Cedar Vets")
    assert cedar.state is ConnectionState.NEEDS_RECONNECT
    assert cedar.reason is FailureClass.SCOPE_MISSING
    assert "voice-ai-dashboard.readonly" in cedar.message
    sandbox.world.clear_requests()
    (day,) = sync.sync_days([DAY])
    assert (day.state, day.failure) == (DayState.WAITING, FailureClass.SCOPE_MISSING)
    assert sandbox.requests == []


def test_connecting_stores_everything_encrypted_and_names_the_location(
    harbor: Connection, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    row = stored(engine, harbor.user.id)
    for column in ("access_token", "refresh_token"):
        assert row[column].startswith("enc:v2:test:")
        assert (
            "SANDBOX"
            in vault.decrypt(row[column], column, harbor.user.id, row["token_version"]).reveal()
        )
    assert row["name"] == "HighLevel"
    assert row["location_name"] == "Harbor Dental"
    assert row["location_timezone"] == "America/New_York"
    assert row["token_expires_at"] == clock.now + timedelta(seconds=86_399)


def test_a_refused_code_leaves_the_stored_connection_untouched(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, consent: Consent
) -> None:
    before = stored(engine, harbor.user.id)
    with pytest.raises(ConsentError):
        consent.connect(harbor.user.id, Secret("SANDBOX-CODE.invented"))
    assert stored(engine, harbor.user.id) == before


def test_a_code_is_not_spent_for_an_unknown_user(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox, consent: Consent
) -> None:
    connect.add("Harbor Dental")
    code = connect.code(DEMO["Harbor Dental"])
    with pytest.raises(UnknownUserError):
        consent.connect(uuid4(), code)
    assert [r for r in sandbox.requests if r.grant_type] == []
    assert consent.connect(UUID(DEMO["Harbor Dental"].id), code).can_sync


def test_reconnecting_after_a_revocation_replaces_the_row(
    expired: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    connect: Connector,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.revoke(location_of(expired))
    failure_of(lambda: tokens.get_valid_token(expired.user.id))
    before = stored(engine, expired.user.id)
    connect("Harbor Dental")
    after = stored(engine, expired.user.id)
    assert after["id"] == before["id"]
    assert after["token_version"] > before["token_version"]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


def test_reconnecting_keeps_the_location_known_when_its_name_cannot_be_read(
    harbor: Connection, connect: Connector, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", location_of(harbor), path="/locations/"))
    again = connect("Harbor Dental")
    assert again.location_timezone == "America/New_York"
    assert again.location_name == "Harbor Dental"


def test_disconnecting_destroys_the_tokens_and_keeps_the_user_listed(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox, consent: Consent
) -> None:
    agency = connect("Northwind Agency")
    tokens.get_valid_token(agency.user.id)  # a location token is cached
    after = consent.disconnect(agency.user.id)
    assert after.state is ConnectionState.DISCONNECTED
    row = stored(engine, agency.user.id)
    assert [row[c] for c in ("access_token", "refresh_token", "location_access_token")] == [
        None
    ] * 3
    assert row["is_active"] is False
    assert "enc:" not in str(row)
    with engine.connect() as db:
        assert [c.user.id for c in connections.all_connections(db)] == [agency.user.id]
    assert "Fix:" in after.message
    sandbox.world.clear_requests()
    assert failure_of(lambda: tokens.get_valid_token(agency.user.id)) is FailureClass.NO_CONNECTION
    assert sandbox.requests == []
    with pytest.raises(UnknownUserError):
        consent.disconnect(uuid4())


def test_reconnecting_elsewhere_moves_the_days_that_waited_or_failed(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    tokens: Tokens,
    sandbox: RunningSandbox,
    consent: Consent,
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    sync.sync_days([DAY])  # never connected: waits at no location
    connect("Harbor Dental")
    next_day = DAY + timedelta(days=1)
    sandbox.world.add_fault(Fault("server_error", day=next_day))
    sync.sync_days([next_day])
    sync.sync_days([DAY - timedelta(days=1)])  # complete at the first location
    sandbox.world.clear_faults()
    consent.connect(user_id, connect.code(DEMO["Sunrise Clinic"]))
    with engine.connect() as db:
        rows = ledger.results(db, days=[DAY + timedelta(days=n) for n in (-1, 0, 1)])
    here, there = DEMO["Harbor Dental"].location_id, DEMO["Sunrise Clinic"].location_id
    assert [(row.location_id, row.state) for row in rows] == [
        (here, DayState.COMPLETE),
        (there, DayState.WAITING),
        (there, DayState.WAITING),
    ]
    reports = sync.report([DAY, next_day])
    assert [len(report.unread) for report in reports] == [1, 1]
    assert not any(report.is_green for report in reports)


def test_every_row_of_a_user_is_out_of_use_after_a_reconnection_but_the_new_one(
    connect: Connector, engine: sa.Engine
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    with engine.begin() as db:
        for _ in range(2):
            db.execute(
                sa.text(
                    "INSERT INTO api_keys (user_id, service, access_token, refresh_token, "
                    "location_id, is_active) VALUES (:id, 'highlevel', 'a', 'r', 'LocOld', true)"
                ),
                {"id": user_id},
            )
    connect("Harbor Dental")
    with engine.connect() as db:
        active = db.execute(
            sa.text("SELECT location_id FROM api_keys WHERE is_active AND user_id = :id"),
            {"id": user_id},
        )
        assert active.scalars().all() == [DEMO["Harbor Dental"].location_id]


def test_connecting_an_unknown_user_is_refused(engine: sa.Engine, vault: TokenVault) -> None:
    unknown = Connection(User(uuid4(), "Unknown"), ConnectionState.CONNECTED)
    with pytest.raises(LookupError), engine.begin() as db:
        connection_store.save_connection(
            db,
            unknown,
            OAuthToken(Secret("INVENTED"), 60),
            vault,
            started_at=NOW,
            refresh_at=NOW,
            actor=Actor(),
        )

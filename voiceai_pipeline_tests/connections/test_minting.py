"""An agency's location tokens: minted from its Company token, and minted again when they expire."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import connection_store, token_row, token_store
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.refresh_outcome import PAUSE
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.token_endpoint import (
    failure_of,
    location_of,
    refreshes,
    standing,
)

MINT = "/oauth/locationToken"


def test_an_agency_that_may_not_mint_spends_one_refresh_token(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.add_fault(Fault("unauthorized", path=MINT))
    with pytest.raises(PipelineError, match="refreshed, but still refused"):
        tokens.get_valid_token(agency.user.id)
    assert refreshes(sandbox) == [200]


def test_a_mint_that_is_refused_for_good_becomes_a_visible_state(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.add_fault(Fault("forbidden_location", path=MINT))
    assert tokens.check(agency.user.id).failure is not None
    assert standing(engine, agency.user.id) == (
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.WRONG_LOCATION,
    )


def test_a_paused_agency_resumes_automatically(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    tokens.report(agency.user.id, FailureClass.LOCATION_PAUSED)
    clock.now += PAUSE
    assert tokens.refresh_due([agency.user.id]) == {agency.user.id: None}
    assert standing(engine, agency.user.id) == (ConnectionState.CONNECTED, None)


def test_a_token_minted_for_the_previous_location_is_not_kept(
    connect: Connector, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    agency = connect("Northwind Agency")
    with engine.begin() as db:
        before = token_row.read(db, agency.user.id, clock.now)
        assert before is not None
        assert connection_store.choose_location(db, before, "LocOther", actor=Actor())
        minted = OAuthToken(Secret("INVENTED-OLD-LOCATION"), 3600)
        assert not token_store.save_location_token(db, before, minted, vault, actor=Actor())


def test_an_agency_never_reads_calls_with_its_own_token(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    assert agency.user_type == "Company"
    assert agency.location_id == DEMO["Northwind Agency"].location_id
    sandbox.world.clear_requests()
    first = tokens.get_valid_token(agency.user.id)
    grant = sandbox.world.grant_of(access=first.reveal())
    assert grant is not None
    assert (grant.user_type, grant.location_id) == ("Location", agency.location_id)
    assert tokens.get_valid_token(agency.user.id) == first
    assert [r.path for r in sandbox.requests] == ["/oauth/locationToken"]
    clock.now += timedelta(days=1)
    second = tokens.get_valid_token(agency.user.id)
    assert second != first
    assert [r.path for r in sandbox.requests] == [
        "/oauth/locationToken",
        "/oauth/token",
        "/oauth/locationToken",
    ]
    third = tokens.get_valid_token(agency.user.id, rejected=second)
    assert third not in (first, second)
    assert len(refreshes(sandbox)) == 1


def test_a_short_lived_minted_token_is_minted_again_without_a_refresh(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.set_token_lifetime(location_of(agency), 60)
    sandbox.world.clear_requests()
    assert tokens.get_valid_token(agency.user.id) != tokens.get_valid_token(agency.user.id)
    assert [r.path for r in sandbox.requests] == ["/oauth/locationToken"] * 2


def test_an_agency_that_removed_the_app_needs_action(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.revoke(agency.company_id or "")
    assert (
        failure_of(lambda: tokens.get_valid_token(agency.user.id)) is FailureClass.REFRESH_REJECTED
    )
    assert standing(engine, agency.user.id)[0] is ConnectionState.NEEDS_RECONNECT

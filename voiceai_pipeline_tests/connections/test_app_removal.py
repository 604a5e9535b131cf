"""A message that the app was removed: checked with the stored access token, and nothing else."""

from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.app_removal import AppRemoval
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.queries import stored_connection
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.hinted_calls import now
from voiceai_pipeline_tests.support.synced_calls import HARBOR

USER = UUID(DEMO["Harbor Dental"].id)


@pytest.fixture
def clock() -> Clock:
    return Clock(now())


@pytest.fixture
def removal(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, connect: Connector,
    sandbox: RunningSandbox,
) -> AppRemoval:  # fmt: skip
    connect("Harbor Dental")
    sandbox.world.clear_requests()
    return AppRemoval(engine, vault, client, Actor("webhook"))


def state(engine: sa.Engine) -> ConnectionState:
    return stored_connection(engine, USER).state


def test_a_removed_app_is_marked_with_one_request_and_no_refresh(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    sandbox.world.revoke(HARBOR)

    assert [one.user.id for one in removal.check(HARBOR, None)] == [USER]
    assert state(engine) is ConnectionState.NEEDS_RECONNECT
    assert len(sandbox.requests) == 1
    assert not [one for one in sandbox.requests if one.path == TOKEN_PATH]


def test_a_marked_connection_keeps_its_tokens_and_its_history_says_why(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    sandbox.world.revoke(HARBOR)
    removal.check(HARBOR, None)

    with engine.connect() as db:
        kept = db.execute(sa.text("SELECT refresh_token FROM api_keys")).scalar_one()
        detail = db.execute(
            sa.text("SELECT detail FROM token_events WHERE event = 'reported'")
        ).scalar_one()
    assert kept
    assert "announced that the app was removed" in detail


def test_a_message_alone_changes_nothing(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    assert removal.check(HARBOR, None) == []
    assert state(engine) is ConnectionState.CONNECTED


def test_an_expired_token_is_not_refreshed_to_find_out(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    with engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET token_expires_at = now() - interval '1 minute'"))

    assert removal.check(HARBOR, None) == []
    assert sandbox.requests == []
    assert state(engine) is ConnectionState.CONNECTED


def test_an_answer_about_something_else_marks_nothing(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", HARBOR, status=422))

    assert removal.check(HARBOR, None) == []
    assert state(engine) is ConnectionState.CONNECTED


def test_while_highlevel_is_away_nothing_is_known_yet(
    engine: sa.Engine, removal: AppRemoval, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", HARBOR, status=503))

    with pytest.raises(PipelineError):
        removal.check(HARBOR, None)
    assert state(engine) is ConnectionState.CONNECTED


def test_a_removal_from_an_agency_concerns_its_locations_and_no_others(
    engine: sa.Engine, removal: AppRemoval, connect: Connector, tokens: Tokens,
    sandbox: RunningSandbox,
) -> None:  # fmt: skip
    agency = connect("Northwind Agency")
    assert agency.company_id is not None
    sandbox.world.clear_requests()
    removal.check(None, agency.company_id)

    assert {one.location_id for one in sandbox.requests} <= {agency.location_id}

"""The names behind the ids: each location on its own, and never in the way of the calls."""

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.dimensions import Directory
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import AGENT_SCOPE
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.synced_calls import HEALTHY, location_of


@pytest.fixture
def directory(
    engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> Directory:
    return Directory(engine, tokens, client, now=clock)


def test_agents_and_locations_are_stored_and_one_failure_stays_alone(
    all_connections: list[Connection],
    engine: sa.Engine,
    directory: Directory,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    sandbox.world.add_fault(Fault("server_error", location_of("Harbor Dental")))
    for outcome in (directory.sync_agents(), directory.sync_locations()):
        broken = outcome.pop(location_of("Harbor Dental"))
        assert isinstance(broken, PipelineError)
        assert broken.failure is FailureClass.PROVIDER_ERROR
        assert all(isinstance(count, int) for count in outcome.values())
    with engine.connect() as db:
        agents = db.execute(sa.text("SELECT * FROM voiceai_agents")).mappings().all()
        zones = db.execute(sa.text("SELECT location_id, timezone FROM locations")).all()
    for location_id, zone in zones:
        assert sandbox.world.locations[location_id].timezone == zone
    assert len(zones) == len({location_of(name) for name in HEALTHY}) - 1
    for location_id, _ in zones:
        listed = [a for a in sandbox.world.locations[location_id].agents if not a.is_deleted]
        found = {a["agent_id"]: a["name"] for a in agents if a["location_id"] == location_id}
        assert found == {a.id: a.name for a in listed}
    assert {a["first_seen_at"].date() for a in agents} == {clock.now.date()}


def test_an_agent_that_is_no_longer_listed_keeps_its_name(
    connect: Connector, engine: sa.Engine, directory: Directory, clock: Clock
) -> None:
    connect("Pine Realty")
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO voiceai_agents (location_id, agent_id, name, raw, first_seen_at, "
                "last_seen_at) VALUES (:location, 'old', 'Night desk', '{}', now(), now())"
            ),
            {"location": location_of("Pine Realty")},
        )
    directory.sync_agents()
    with engine.connect() as db:
        query = sa.text("SELECT name, missing_since FROM voiceai_agents WHERE agent_id = 'old'")
        assert tuple(db.execute(query).one()) == ("Night desk", clock.now)


def test_a_connection_without_the_agent_scope_still_has_its_calls_read(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    pine = replace(DEMO["Pine Realty"], withheld_scopes=(AGENT_SCOPE,))
    with (
        running(World(clock=clock, users=(pine,)), limits=False) as sandbox,
        open_client(sandbox.url, clock) as client,
    ):
        tokens = Tokens(engine, vault, client, now=clock)
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        connector("Pine Realty")
        connector.browser.close()
        (outcome,) = Directory(engine, tokens, client, now=clock).sync_agents().values()
        assert isinstance(outcome, PipelineError)
        assert outcome.failure is FailureClass.SCOPE_MISSING
        assert AGENT_SCOPE in str(outcome)
        sync = Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock)
        (day,) = sync.sync_days([NOON.date() - timedelta(days=1)])
        assert day.state is DayState.COMPLETE

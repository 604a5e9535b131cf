"""Fixtures shared by the tests of this room."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.reconciliation import Reconciliation
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.reconciled_days import PAST
from voiceai_pipeline_tests.support.synced_calls import HEALTHY, UTC_ZONE, location_of


@pytest.fixture
def world(clock: Clock) -> World:
    """What the sandbox holds; a test module may have a world of its own."""
    return World(clock=clock)


@pytest.fixture
def sandbox(world: World) -> Iterator[RunningSandbox]:
    """A HighLevel without faults and rate limits, on the test's clock."""
    with running(world, limits=False) as sandbox:
        yield sandbox


@pytest.fixture
def all_connections(connect: Connector) -> list[Connection]:
    return [connect(name) for name in HEALTHY]


@pytest.fixture
def reconciliation(
    engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> Reconciliation:
    return Reconciliation(engine, tokens, client, UTC_ZONE, now=clock)


@pytest.fixture
def pine(connect: Connector, sync: Sync, clock: Clock, sandbox: RunningSandbox) -> str:
    """Pine Realty's location, its last 30 days read an hour ago, and no request since."""
    connect("Pine Realty")
    sync.sync_days(PAST)
    clock.now += timedelta(hours=1)
    sandbox.world.clear_requests()
    return location_of("Pine Realty")


@pytest.fixture
def sunrise(connect: Connector, sync: Sync, sandbox: RunningSandbox) -> str:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    sync.sync_days(PAST)
    sandbox.world.clear_requests()
    return location_of("Sunrise Clinic")

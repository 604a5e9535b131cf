"""One running sandbox per test file, reset before every test."""

from collections.abc import Iterator

import pytest

from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.sandbox_client import HARBOR, NOON, Client, Clock


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    with running(World(clock=Clock()), limits=False) as sandbox:
        yield sandbox


@pytest.fixture
def clock(shared_sandbox: RunningSandbox) -> Clock:
    found = shared_sandbox.world.clock
    assert isinstance(found, Clock)
    found.now = NOON
    return found


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox, clock: Clock) -> Iterator[RunningSandbox]:
    assert clock.now == NOON
    world = shared_sandbox.world
    world.clear_requests()
    yield shared_sandbox
    world.clear_faults()
    world.grace_seconds = 30
    world.date_ends = "inclusive"
    for resource in world.paused:
        world.resume(resource)
    world.calls.load({})


@pytest.fixture
def harbor(sandbox: RunningSandbox) -> Client:
    """A client that is connected to Harbor Dental."""
    return Client(sandbox).connect(HARBOR.id)

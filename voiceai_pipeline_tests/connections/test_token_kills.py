"""Processes killed during an exchange: one replay, and never a silent loss."""

import gc
import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import history, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.oauth import TokenPair
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.token_endpoint import refreshes
from voiceai_pipeline_tests.support.token_processes import (
    Connect,
    ask_once,
    expire,
    opened,
    processes,
)


def killed_in_the_middle(
    sandbox: RunningSandbox, database: Secret, user_id: UUID, ahead: float = 0
) -> None:
    """A process sends its POST and is killed before it can write what it got."""
    location_id = str(DEMO["Harbor Dental"].location_id)
    sandbox.world.add_fault(Fault("stall", location_id, path=TOKEN_PATH, seconds=60, times=1))
    before = len(refreshes(sandbox))
    victim = processes.Process(
        target=ask_once, args=(database.reveal(), sandbox.url, user_id, ahead)
    )
    victim.start()
    deadline = time.monotonic() + 300
    while len(refreshes(sandbox)) == before:
        assert time.monotonic() < deadline, "the process never asked"
        time.sleep(0.01)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    victim.close()


def test_a_process_killed_in_the_exchange_is_replayed_once_after_its_lease(
    engine: sa.Engine,
    database: Secret,
    sandbox: RunningSandbox,
    connect: Connect,
    tokens: Tokens,
    clock: Clock,
) -> None:
    clock.now = datetime.now(UTC)
    sandbox.world.grace_seconds = 3600
    user = connect("Harbor Dental").user
    expire(engine)
    killed_in_the_middle(sandbox, database, user.id)
    with engine.begin() as db:
        leased = token_row.read(db, user.id, clock.now)
    assert leased is not None
    assert leased.lease_id is not None  # the journal of the exchange outlives the process
    assert leased.replayed is False
    clock.now = datetime.now(UTC) + LEASE
    tokens.get_valid_token(user.id)
    assert refreshes(sandbox) == [200, 200]
    with engine.begin() as db:
        after = token_row.read(db, user.id, clock.now)
    assert after is not None
    assert after.connection.state is ConnectionState.CONNECTED
    assert (after.lease_id, after.replayed, after.version) == (None, False, leased.version + 1)


def test_the_token_of_a_killed_process_is_not_spent_again_before_its_lease_expires(
    engine: sa.Engine,
    database: Secret,
    sandbox: RunningSandbox,
    connect: Connect,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
) -> None:
    clock.now = datetime.now(UTC)
    sandbox.world.grace_seconds = 3600
    user = connect("Harbor Dental").user
    expire(engine)
    killed_in_the_middle(sandbox, database, user.id)
    posts_while_waiting = []

    def wait(_: float) -> None:
        posts_while_waiting.append(len(refreshes(sandbox)))
        clock.now += timedelta(seconds=5)

    Tokens(engine, vault, client, now=clock, sleep=wait).get_valid_token(user.id)
    assert len(posts_while_waiting) >= 11
    assert set(posts_while_waiting) == {1}
    assert refreshes(sandbox) == [200, 200]


@pytest.mark.parametrize("grace", [0, 3600])
def test_a_second_loss_needs_action_and_never_posts_again(
    grace: int,
    engine: sa.Engine,
    database: Secret,
    sandbox: RunningSandbox,
    connect: Connect,
    tokens: Tokens,
    clock: Clock,
) -> None:
    clock.now = datetime.now(UTC)
    sandbox.world.grace_seconds = grace
    user = connect("Harbor Dental").user
    expire(engine)
    killed_in_the_middle(sandbox, database, user.id)
    ahead = LEASE.total_seconds() + 5
    killed_in_the_middle(sandbox, database, user.id, ahead)
    clock.now = datetime.now(UTC) + timedelta(seconds=2 * ahead)
    for _ in range(3):
        with pytest.raises(PipelineError) as failure:
            tokens.get_valid_token(user.id)
        assert failure.value.failure is FailureClass.REFRESH_REJECTED
    assert len(refreshes(sandbox)) == 2
    with engine.begin() as db:
        after = connections.one(db, user.id)
    assert after is not None
    assert after.state is ConnectionState.NEEDS_RECONNECT


class CountingWorld(World):
    """A sandbox that counts how often each refresh token is presented."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.presented: Counter[str] = Counter()

    def refresh(self, token: str) -> TokenPair:
        self.presented[token] += 1
        return super().refresh(token)


def refresh_for_ever(database: str, url: str, user_id: UUID, pipe: Pipe) -> None:
    """A process that rotates a user's tokens until it is killed; it sends how long one takes."""
    with opened(database, url) as tokens:
        # A garbage collection takes longer than a refresh here, and would skew the random times.
        gc.freeze()
        started_at = time.monotonic()
        tokens.refresh(user_id)
        pipe.send(time.monotonic() - started_at)
        while True:
            tokens.refresh(user_id)


@soak
@pytest.mark.parametrize("grace", [0.0, 3600.0], ids=["no grace", "grace"])
def test_random_kills_lose_nothing_that_can_be_kept_and_nothing_silently(
    grace: float, engine: sa.Engine, database: Secret, vault: TokenVault
) -> None:
    dice = random.Random(20261125)  # noqa: S311 - to repeat it
    world = CountingWorld()
    results: Counter[str] = Counter()
    rounds = repeated(5, 100)
    with running(world, limits=False) as sandbox:
        world.grace_seconds = grace
        with HighLevelClient(highlevel_settings(sandbox.url)) as client:
            connector = Connector(engine, client, Consent(engine, vault, client))
            user = connector("Harbor Dental").user
            later = Tokens(engine, vault, client, now=lambda: datetime.now(UTC) + 2 * LEASE)
            while results.total() < rounds or not hit_both(results, max(1, rounds // 20)):
                assert results.total() < 200, results
                row = kill_at_random(dice, engine, database, sandbox.url, user.id)
                token = row.token(vault, "refresh_token")
                assert token is not None
                was_sent = world.presented[token.reveal()] > 0
                failure = failure_of_refresh(later, row, vault)
                if failure is None:
                    results["replayed" if row.lease_id else "untouched"] += 1
                else:
                    # Only what was sent and not answered can be lost, and then it is visible.
                    assert (failure, was_sent, grace) == (FailureClass.REFRESH_REJECTED, True, 0)
                    with engine.begin() as db:
                        lost = connections.one(db, user.id)
                        events = [e.event for e in history.of_user(db, user.id, 2)]
                    assert lost is not None
                    assert lost.state is ConnectionState.NEEDS_RECONNECT
                    assert events == [TokenEvent.REFRESH_FAILED, TokenEvent.REPLAY_BEGAN]
                    assert connector("Harbor Dental").can_sync
                    results["lost, and said so"] += 1
                assert max(world.presented.values()) <= 2
            connector.browser.close()
    lost = results["lost, and said so"]
    assert lost == 0 if grace else lost > 0 or rounds < 100, results


def hit_both(results: Counter[str], times: int) -> bool:
    """Whether the dice hit the exchange itself so often, and also what lies around it."""
    hits = results["replayed"] + results["lost, and said so"]
    return hits >= times and results["untouched"] >= times


def failure_of_refresh(
    tokens: Tokens, row: token_row.TokenRow, vault: TokenVault
) -> FailureClass | None:
    """Why the row's token cannot be refreshed; None if it can."""
    try:
        tokens.get_valid_token(row.connection.user.id, rejected=row.token(vault, "access_token"))
    except PipelineError as error:
        return error.failure
    return None


def kill_at_random(
    dice: random.Random, engine: sa.Engine, database: Secret, url: str, user_id: UUID
) -> token_row.TokenRow:
    """Kill a process at a random moment while it refreshes; return the row that it leaves."""
    ours, theirs = processes.Pipe()
    victim = processes.Process(
        target=refresh_for_ever, args=(database.reveal(), url, user_id, theirs), daemon=True
    )
    victim.start()
    theirs.close()
    assert ours.poll(300), "the process did not start"
    time.sleep(dice.uniform(0, 2 * ours.recv()))
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    victim.close()
    ours.close()
    # What the server had in hand when its client died is finished now.
    deadline = time.monotonic() + 300
    while backends(engine) > 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    with engine.begin() as db:
        row = token_row.read(db, user_id, None)
    assert row is not None
    return row


def backends(engine: sa.Engine) -> int:
    """Statements of other sessions of this database that are still under way."""
    with engine.begin() as db:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        return int(db.execute(sa.text(query)).scalar_one())

"""Many processes, one single-use refresh token: real processes, real kills, real HTTP.

The processes are forked from a server process that has imported everything once, so that fifty of
them start within a second; each has its own engine, HTTP session and event of birth.
"""

import gc
import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import history, token_row, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState, OAuthToken
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.oauth import TokenPair
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.conftest import DEMO, KEYS, Clock, Connector, highlevel_settings

Connect = Callable[[str], Connection]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def fingerprint(token: Secret) -> str:
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16]


@contextmanager
def opened(database: str, url: str, ahead: float = 0) -> Iterator[Tokens]:
    """Tokens of a process of its own, by the database's clock or some seconds ahead of it."""
    engine = open_engine(Secret(database), pool_size=4)
    with HighLevelClient(highlevel_settings(url)) as client:
        now = (lambda: datetime.now(UTC) + timedelta(seconds=ahead)) if ahead else None
        yield Tokens(engine, TokenVault(KEYS), client, now=now)
    engine.dispose()


def outcome(tokens: Tokens, user_id: UUID) -> str:
    try:
        return fingerprint(tokens.get_valid_token(user_id))
    except PipelineError as error:
        return error.failure.value


def ask_when_told(
    database: str, url: str, user_ids: list[UUID], barrier: Barrier, pipe: Pipe
) -> None:
    """A process that asks for every user's token at once, whenever it is told to."""
    with (
        opened(database, url) as tokens,
        ThreadPoolExecutor(len(user_ids)) as pool,
    ):
        while pipe.recv():
            barrier.wait(30)
            pipe.send(list(pool.map(lambda user_id: outcome(tokens, user_id), user_ids)))


def ask_once(database: str, url: str, user_id: UUID, ahead: float) -> None:
    with opened(database, url, ahead) as tokens:
        outcome(tokens, user_id)


class Crowd:
    """Processes that ask together; the same ones in every round."""

    def __init__(self, size: int, database: Secret, url: str, user_ids: list[UUID]) -> None:
        # Kept: its semaphores vanish with it, and the processes have yet to open them.
        self.barrier = processes.Barrier(size)
        self.pipes: list[Pipe] = []
        self.members: list[ForkServerProcess] = []
        for _ in range(size):
            ours, theirs = processes.Pipe()
            member = processes.Process(
                target=ask_when_told,
                args=(database.reveal(), url, user_ids, self.barrier, theirs),
                daemon=True,
            )
            member.start()
            theirs.close()
            self.pipes.append(ours)
            self.members.append(member)

    def ask(self) -> list[list[str]]:
        """What each process got for each user."""
        for pipe in self.pipes:
            pipe.send(True)
        return [self._answer(pipe) for pipe in self.pipes]

    @staticmethod
    def _answer(pipe: Pipe) -> list[str]:
        assert pipe.poll(60), "a process did not answer"
        answer: list[str] = pipe.recv()
        return answer

    def leave(self) -> None:
        for pipe, member in zip(self.pipes, self.members, strict=True):
            pipe.send(False)
            member.join(20)
            pipe.close()
            assert member.exitcode == 0
            member.close()


def expire(engine: sa.Engine) -> None:
    with engine.begin() as db:
        db.execute(
            sa.text("UPDATE api_keys SET token_expires_at = clock_timestamp() - interval '1 day'")
        )


def refreshes(sandbox: RunningSandbox) -> list[int]:
    """The statuses that the POSTs of refresh tokens were answered with."""
    return [r.status for r in sandbox.requests if r.grant_type == "refresh_token"]


def test_fifty_processes_spend_one_refresh_token(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    sandbox.world.grace_seconds = 0  # a token spent twice is refused
    user = connect("Harbor Dental").user
    crowd = Crowd(50, database, sandbox.url, [user.id])
    seen = set()
    for _ in range(6):
        expire(engine)
        sandbox.world.clear_requests()
        answers = crowd.ask()
        assert refreshes(sandbox) == [200]
        assert len(answers) == 50
        assert len({token for (token,) in answers}) == 1
        seen.add(answers[0][0])
    crowd.leave()
    assert len(seen) == 6


def test_a_hundred_generations_are_each_spent_once(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    sandbox.world.grace_seconds = 0
    names = [name for name, user in DEMO.items() if user.role in ("healthy", "bad_day")][:5]
    assert "Northwind Agency" not in names  # an agency's door hands out minted tokens
    user_ids = [connect(name).user.id for name in names]
    crowd = Crowd(4, database, sandbox.url, user_ids)
    for _ in range(20):
        expire(engine)
        sandbox.world.clear_requests()
        answers = crowd.ask()
        assert refreshes(sandbox) == [200] * len(user_ids)
        for of_one_user in zip(*answers, strict=True):
            assert len(set(of_one_user)) == 1
    crowd.leave()


def test_fifty_processes_ask_for_a_revoked_token_and_nobody_loops(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    connection = connect("Harbor Dental")
    sandbox.world.revoke(connection.location_id or "")
    expire(engine)
    sandbox.world.clear_requests()
    crowd = Crowd(50, database, sandbox.url, [connection.user.id])
    assert crowd.ask() == [[FailureClass.REFRESH_REJECTED.value]] * 50
    crowd.leave()
    assert refreshes(sandbox) == [400]


def test_threads_of_one_process_spend_one_refresh_token(
    engine: sa.Engine, vault: TokenVault, sandbox: RunningSandbox, connect: Connect
) -> None:
    sandbox.world.grace_seconds = 0
    user = connect("Harbor Dental").user
    with (
        HighLevelClient(highlevel_settings(sandbox.url)) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        tokens = Tokens(engine, vault, client)
        for _ in range(3):
            expire(engine)
            sandbox.world.clear_requests()
            assert len(set(pool.map(lambda _: outcome(tokens, user.id), range(12)))) == 1
            assert refreshes(sandbox) == [200]


def test_a_reader_never_sees_half_a_rotation(
    engine: sa.Engine, vault: TokenVault, connect: Connect
) -> None:
    user = connect("Harbor Dental").user
    rotations = 1000
    done = threading.Event()
    mixed: list[tuple[object, ...]] = []
    polls = 0
    columns = "access_token, refresh_token, token_expires_at, token_version, scope"

    def rotate() -> None:
        for number in range(rotations):
            with engine.begin() as db:
                row = token_row.read(db, user.id, datetime(2026, 1, 1, tzinfo=UTC))
                assert row is not None
                lease = token_store.take_lease(db, row, LEASE)
                assert lease is not None
            pair = OAuthToken(
                access_token=Secret(f"access {number}"),
                expires_in=1 + number,
                refresh_token=Secret(f"refresh {number}"),
                scope=f"scope {number}",
            )
            with engine.begin() as db:
                assert token_store.save_rotation(
                    db, row, pair, vault, started_at=row.now, refresh_at=row.now, actor=Actor()
                )
        done.set()

    with ThreadPoolExecutor(1) as pool:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            before = db.execute(sa.text("SELECT token_version FROM api_keys")).scalar_one()
            writing = pool.submit(rotate)
            while not done.is_set() and not writing.done():
                row = db.execute(sa.text(f"SELECT {columns} FROM api_keys")).one()  # noqa: S608
                if row.token_version == before:
                    continue
                polls += 1
                number = row.token_version - before - 1
                access = vault.decrypt(row.access_token, "access_token", user.id).reveal()
                refresh = vault.decrypt(row.refresh_token, "refresh_token", user.id).reveal()
                expires = row.token_expires_at - datetime(2026, 1, 1, tzinfo=UTC)
                seen = (access, refresh, row.scope, expires.total_seconds())
                wanted = (f"access {number}", f"refresh {number}", f"scope {number}", 1 + number)
                if seen != wanted:
                    mixed.append(seen)
        writing.result()
    assert polls > 50
    assert mixed == []


# Killed in the middle -----------------------------------------------------------------------------


def killed_in_the_middle(
    sandbox: RunningSandbox, database: Secret, user_id: UUID, ahead: float = 0
) -> None:
    """A process sends its POST and is killed before it can write what it got."""
    place = str(DEMO["Harbor Dental"].location_id)
    sandbox.world.add_fault(Fault("stall", place, path=TOKEN_PATH, seconds=60, times=1))
    before = len(refreshes(sandbox))
    victim = processes.Process(
        target=ask_once, args=(database.reveal(), sandbox.url, user_id, ahead)
    )
    victim.start()
    deadline = time.monotonic() + 20
    while len(refreshes(sandbox)) == before:
        assert time.monotonic() < deadline, "the process never asked"
        time.sleep(0.01)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
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


def test_while_the_lease_of_a_killed_process_lasts_nobody_spends_the_token_again(
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
def test_a_second_loss_asks_for_a_person_and_never_posts_again(
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


# Two hundred random kills (T4) --------------------------------------------------------------------


class CountingWorld(World):
    """A sandbox that counts how often each refresh token is presented."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.presented: Counter[str] = Counter()

    def refresh(self, token: str) -> TokenPair:
        self.presented[token] += 1
        return super().refresh(token)


def renew_for_ever(database: str, url: str, user_id: UUID, pipe: Pipe) -> None:
    """A process that rotates a user's tokens until it is killed."""
    with opened(database, url) as tokens:
        # Not while somebody counts milliseconds: a collection takes longer than a renewal here.
        gc.freeze()
        pipe.send(True)
        while True:
            tokens.refresh(user_id)


@pytest.mark.parametrize("grace", [0.0, 3600.0], ids=["no grace", "grace"])
def test_a_hundred_random_kills_lose_nothing_that_can_be_kept_and_nothing_silently(
    grace: float, engine: sa.Engine, database: Secret, vault: TokenVault
) -> None:
    dice = random.Random(20261125)  # noqa: S311 - to repeat it
    world = CountingWorld()
    ends: Counter[str] = Counter()
    with running(world, limits=False) as sandbox:
        world.grace_seconds = grace
        with HighLevelClient(highlevel_settings(sandbox.url)) as client:
            connector = Connector(engine, client, Consent(engine, vault, client))
            user = connector("Harbor Dental").user
            later = Tokens(engine, vault, client, now=lambda: datetime.now(UTC) + 2 * LEASE)
            for _ in range(100):
                row = kill_at_random(dice, engine, database, sandbox.url, user.id)
                token = row.token(vault, "refresh_token")
                assert token is not None
                was_sent = world.presented[token.reveal()] > 0
                failure = failure_of_renewal(later, row, vault)
                if failure is None:
                    ends["replayed" if row.lease_id else "untouched"] += 1
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
                    ends["lost, and said so"] += 1
                assert max(world.presented.values()) <= 2
            connector.browser.close()
    # The dice hit the exchange itself as well as what lies around it.
    assert ends["replayed"] + ends["lost, and said so"] >= 5, ends
    assert ends["untouched"] >= 5, ends
    assert (ends["lost, and said so"] > 0) is (grace == 0), ends


def failure_of_renewal(
    tokens: Tokens, row: token_row.TokenRow, vault: TokenVault
) -> FailureClass | None:
    """Why the row's token cannot be renewed; None if it can."""
    try:
        tokens.get_valid_token(row.connection.user.id, rejected=row.token(vault, "access_token"))
    except PipelineError as error:
        return error.failure
    return None


def kill_at_random(
    dice: random.Random, engine: sa.Engine, database: Secret, url: str, user_id: UUID
) -> token_row.TokenRow:
    """Kill a process that renews at a random moment of its work; the row as it leaves it."""
    ours, theirs = processes.Pipe()
    victim = processes.Process(
        target=renew_for_ever, args=(database.reveal(), url, user_id, theirs), daemon=True
    )
    victim.start()
    theirs.close()
    assert ours.poll(20), "the process did not start"
    ours.recv()
    time.sleep(dice.uniform(0, 0.06))
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    assert victim.exitcode == -signal.SIGKILL
    victim.close()
    ours.close()
    # What the server had in hand when its client died is finished now.
    deadline = time.monotonic() + 10
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

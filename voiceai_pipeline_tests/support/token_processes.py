"""Processes that ask for tokens at the same time.

They are forked from a server that has imported everything, so fifty of them start within a second;
each has its own engine and HTTP session.
"""

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.keys import KEYS

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


def ask_on_signal(
    database: str, url: str, user_ids: list[UUID], barrier: Barrier, pipe: Pipe
) -> None:
    """A process that asks for all users' tokens at once, each time it gets a signal."""
    with (
        opened(database, url) as tokens,
        ThreadPoolExecutor(len(user_ids)) as pool,
    ):
        while pipe.recv():
            barrier.wait(120)
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
                target=ask_on_signal,
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
            member.join(120)
            pipe.close()
            assert member.exitcode == 0
            member.close()


def expire(engine: sa.Engine) -> None:
    with engine.begin() as db:
        db.execute(
            sa.text("UPDATE api_keys SET token_expires_at = clock_timestamp() - interval '1 day'")
        )

"""Many processes and threads, one single-use refresh token: real processes, real HTTP."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import sqlalchemy as sa

from voiceai_pipeline.connections import token_row, token_store
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.token_endpoint import refreshes
from voiceai_pipeline_tests.support.token_processes import Connect, Crowd, expire, outcome


@soak
def test_fifty_processes_spend_one_refresh_token(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    sandbox.world.grace_seconds = 0  # a token spent twice is refused
    user = connect("Harbor Dental").user
    crowd = Crowd(50, database, sandbox.url, [user.id])
    seen = set()
    rounds = repeated(2, 100)
    for _ in range(rounds):
        expire(engine)
        sandbox.world.clear_requests()
        answers = crowd.ask()
        assert refreshes(sandbox) == [200]
        assert len(answers) == 50
        assert len({token for (token,) in answers}) == 1
        seen.add(answers[0][0])
    crowd.leave()
    assert len(seen) == rounds


@soak
def test_each_of_many_generations_is_spent_once(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    sandbox.world.grace_seconds = 0
    names = [name for name, user in DEMO.items() if user.role in ("healthy", "bad_day")][:5]
    assert "Northwind Agency" not in names  # an agency gets minted tokens
    user_ids = [connect(name).user.id for name in names]
    crowd = Crowd(4, database, sandbox.url, user_ids)
    for _ in range(repeated(4, 20)):
        expire(engine)
        sandbox.world.clear_requests()
        answers = crowd.ask()
        assert refreshes(sandbox) == [200] * len(user_ids)
        for of_one_user in zip(*answers, strict=True):
            assert len(set(of_one_user)) == 1
    crowd.leave()


def test_twelve_processes_ask_for_a_revoked_token_and_none_loops(
    engine: sa.Engine, database: Secret, sandbox: RunningSandbox, connect: Connect
) -> None:
    connection = connect("Harbor Dental")
    sandbox.world.revoke(connection.location_id or "")
    expire(engine)
    sandbox.world.clear_requests()
    crowd = Crowd(12, database, sandbox.url, [connection.user.id])
    assert crowd.ask() == [[FailureClass.REFRESH_REJECTED.value]] * 12
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


@soak
def test_a_reader_never_sees_half_a_rotation(
    engine: sa.Engine, vault: TokenVault, connect: Connect
) -> None:
    user = connect("Harbor Dental").user
    rotations = repeated(200, 1000)
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
                of_row = (user.id, row.token_version)
                access = vault.decrypt(row.access_token, "access_token", *of_row).reveal()
                refresh = vault.decrypt(row.refresh_token, "refresh_token", *of_row).reveal()
                expires = row.token_expires_at - datetime(2026, 1, 1, tzinfo=UTC)
                seen = (access, refresh, row.scope, expires.total_seconds())
                wanted = (f"access {number}", f"refresh {number}", f"scope {number}", 1 + number)
                if seen != wanted:
                    mixed.append(seen)
        writing.result()
    assert polls > 20
    assert mixed == []

"""Which keys the stored tokens need, and encrypting them again while they are used."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import key_rotation, token_row, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.key_rotation import PLAIN
from voiceai_pipeline.connections.spool import Generation, Spool
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.secret import Secret

OLD, NEW = {"old": b"o" * 32}, {"new": b"n" * 32}
USERS = [UUID(int=number) for number in range(1, 21)]
NOW = datetime(2026, 11, 20, tzinfo=UTC)
COLUMNS = key_rotation.COLUMNS


def secret_of(column: str, user_id: UUID) -> Secret:
    return Secret(f"INVENTED-{column}-{user_id.int}")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, TokenVault({**NEW, **OLD}))


@pytest.fixture
def rows(engine: sa.Engine) -> sa.Engine:
    """Users with tokens under the old key: connected, paused, disconnected, and a stale row."""
    old = TokenVault(OLD)
    insert = sa.text(
        "INSERT INTO api_keys (id, user_id, service, access_token, refresh_token, "
        "location_access_token, token_version, is_active, connection_state) VALUES "
        "(gen_random_uuid(), :user, 'highlevel', :access_token, :refresh_token, "
        ":location_access_token, :version, :active, :state)"
    )
    with engine.begin() as db:
        for user_id in USERS:
            connections.add_user(db, user_id, business_name=f"User {user_id.int}")
            version = user_id.int % 5
            sealed = {c: old.encrypt(secret_of(c, user_id), c, user_id, version) for c in COLUMNS}
            state = ("connected", "paused", "disconnected")[user_id.int % 3]
            values = {"user": user_id, "version": version, "active": True, "state": state}
            db.execute(insert, values | sealed)
        db.execute(insert, values | sealed | {"active": False})
        db.execute(
            sa.text(
                "UPDATE api_keys SET access_token = 'INVENTED-access_token-3' WHERE user_id = :id"
            ),
            {"id": USERS[2]},
        )
    return engine


def tokens(engine: sa.Engine, vault: TokenVault) -> list[Secret]:
    query = sa.text("SELECT * FROM api_keys ORDER BY user_id, is_active")
    with engine.begin() as db:
        return [
            vault.decrypt(row[column], column, row["user_id"], row["token_version"])
            for row in db.execute(query).mappings()
            for column in COLUMNS
        ]


def test_every_row_and_pair_is_encrypted_again_and_the_old_key_may_go(
    rows: sa.Engine, spool: Spool, tmp_path: Path
) -> None:
    waiting = Generation(USERS[0], UUID(int=99), 3)
    pair = OAuthToken(Secret("INVENTED-A"), 60, Secret("INVENTED-R"))
    Spool(tmp_path, TokenVault(OLD)).put(waiting, pair, NOW)
    both = TokenVault({**NEW, **OLD})
    before = tokens(rows, both)
    with rows.begin() as db:
        found = key_rotation.usage(db, tmp_path)
    assert (found.rows, found.spooled) == ({"old": 21, PLAIN: 1}, {"old": 1})
    assert (found.needed("old"), found.key_ids) == (22, {"old"})

    shown = list[tuple[int, int]]()
    result = key_rotation.encrypt_again(rows, both, spool, lambda *done: shown.append(done))

    assert (result.done, result.unreadable, shown[-1]) == (22, [], (21, 21))
    with rows.begin() as db:
        found = key_rotation.usage(db, tmp_path)
    # What another application stored in plain text stays so until its next refresh.
    assert found.rows == {"new": 21, PLAIN: 1}
    assert (found.spooled, found.unbound) == ({"new": 1}, 0)
    assert tokens(rows, TokenVault(NEW)) == before
    restored = Spool(tmp_path, TokenVault(NEW)).get(waiting)
    assert restored is not None
    assert (restored.token.refresh_token, restored.started_at) == (Secret("INVENTED-R"), NOW)
    # Nothing is left to do.
    assert key_rotation.encrypt_again(rows, both, Spool(tmp_path / "none", both)).done == 0


def test_what_no_key_opens_is_named_and_stays(rows: sa.Engine, tmp_path: Path) -> None:
    with rows.begin() as db:
        db.execute(
            sa.text("UPDATE api_keys SET access_token = 'enc:v2:gone:AAAA' WHERE user_id = :id"),
            {"id": USERS[0]},
        )
    both = TokenVault({**NEW, **OLD})
    result = key_rotation.encrypt_again(rows, both, Spool(tmp_path, both))
    assert result.unreadable == [USERS[0]]
    with rows.begin() as db:
        found = key_rotation.usage(db, tmp_path)
    assert found.rows == {"new": 21, "gone": 1, PLAIN: 1}


def test_a_pair_that_arrives_after_its_row_was_encrypted_again_is_kept(
    rows: sa.Engine, spool: Spool
) -> None:
    both = TokenVault({**NEW, **OLD})
    with rows.begin() as db:
        row = token_row.read(db, USERS[0], None)
        busy = token_row.read(db, USERS[1], None)
        assert row is not None
        assert busy is not None
        assert token_store.take_lease(db, busy, timedelta(minutes=1))
    # One refresh is in flight; of the other one the lease has ended before its answer came.
    result = key_rotation.encrypt_again(rows, both, spool)
    assert result.busy == 1
    for one in (row, busy):
        pair = OAuthToken(Secret("INVENTED-A"), 60, Secret("INVENTED-R"))
        with rows.begin() as db:
            assert token_store.save_rotation(
                db, one, pair, both, started_at=NOW, refresh_at=NOW, actor=Actor("test")
            )
            after = token_row.read(db, one.connection.user.id, None)
        assert after is not None
        assert after.token(both, "refresh_token") == Secret("INVENTED-R")


def test_no_read_fails_while_keys_change_and_tokens_are_refreshed(
    rows: sa.Engine, spool: Spool
) -> None:
    ended, started = Event(), Event()

    def read() -> int:
        """Read as a process does that was started before the new key came first."""
        reads, vault = 0, TokenVault({**OLD, **NEW})
        while not ended.is_set() or reads < len(USERS):
            user_id = USERS[reads % len(USERS)]
            with rows.begin() as db:
                row = token_row.read(db, user_id, None)
            assert row is not None
            assert row.token(vault, "refresh_token") is not None
            reads += 1
            started.set()
        return reads

    def refresh() -> int:
        done, vault = 0, TokenVault({**OLD, **NEW})
        while not ended.is_set():
            with rows.begin() as db:
                row = token_row.read(db, USERS[done % len(USERS)], None)
                assert row is not None
                # An answer without a refresh token keeps the old one, bound to the new generation.
                token: dict[str, Any] = {"access_token": Secret("INVENTED"), "expires_in": 60}
                done += token_store.save_rotation(
                    db, row, OAuthToken(**token), vault,
                    started_at=NOW, refresh_at=NOW, actor=Actor("test"),
                )  # fmt: skip
        return done

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read), pool.submit(read)]
        refreshing = pool.submit(refresh)
        started.wait(60)
        for _ in range(3):
            rotated = key_rotation.encrypt_again(rows, TokenVault({**NEW, **OLD}), spool)
            assert rotated.unreadable == []
        ended.set()
        assert sum(one.result() for one in reading) >= 2 * len(USERS)
        assert refreshing.result() > 0

"""New token pairs on disk while the database is down."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    connection_store,
    history,
    token_row,
)
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.spool import Generation, Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.failures import (
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres, stop
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.token_fleet import (
    CALLBACK,
    TICK,
    Provider,
    delivered,
    fleet,
    states,
)


@dataclass
class Away:
    """A pipeline whose PostgreSQL stops right after the next exchange was answered."""

    home: Path
    engine: sa.Engine
    tokens: Tokens
    spool: Spool
    user: Connection
    waits: list[float]
    sandbox: RunningSandbox

    def refreshes(self) -> int:
        return sum(r.grant_type == "refresh_token" for r in self.sandbox.requests)

    def stored_works(self) -> bool:
        token = self.tokens.get_valid_token(self.user.user.id)
        return self.sandbox.world.grant_of(access=token.reveal()) is not None


class _Stopping(HighLevelClient):
    stopping: Callable[[], None] | None = None

    def refresh(self, refresh_token: Secret, user_type: str) -> OAuthToken:
        token = super().refresh(refresh_token, user_type)
        if self.stopping:
            self.stopping()
            self.stopping = None
        return token


@pytest.fixture
def away(
    tmp_path: Path, sandbox: RunningSandbox, vault: TokenVault, clock: Clock
) -> Iterator[Away]:
    sandbox.world.grace_seconds = 0  # a pair that is lost is lost
    with EmbeddedPostgres.hold(tmp_path, durable=False) as server:
        server.create_database("voiceai")
        engine = open_engine(Secret(server.url("voiceai")))
        migrate.upgrade(engine)
        waits: list[float] = []
        spool = Spool(tmp_path / "spool", vault)
        with _Stopping(highlevel_settings(sandbox.url)) as client:
            connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
            user = connector("Harbor Dental")
            connector.browser.close()
            tokens = Tokens(engine, vault, client, spool=spool, now=clock, sleep=waits.append)
            client.stopping = lambda: stop(tmp_path)
            clock.now += timedelta(days=2)
            sandbox.world.clear_requests()
            yield Away(tmp_path, engine, tokens, spool, user, waits, sandbox)
        engine.dispose()


def test_a_pair_survives_a_database_that_is_down_and_the_process_that_got_it(away: Away) -> None:
    with pytest.raises(PipelineError) as failure:
        away.tokens.get_valid_token(away.user.user.id)
    assert failure.value.failure is FailureClass.DATABASE
    assert sum(away.waits) < 60
    assert len(list(away.spool.waiting())) == 1
    (file,) = (away.home / "spool").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (away.home / "spool").stat().st_mode & 0o777 == 0o700
    assert "SANDBOX-" not in file.read_text()
    with EmbeddedPostgres.hold(away.home, durable=False):
        assert away.stored_works()  # what another process would do
        assert away.refreshes() == 1
        assert list(away.spool.waiting()) == []
        with away.engine.begin() as db:
            events = [e.event for e in history.of_user(db, away.user.user.id)]
            after = connections.one(db, away.user.user.id)
        assert events[0] is TokenEvent.RESTORED
        assert after is not None
        assert after.state is ConnectionState.CONNECTED


def test_a_database_that_is_back_within_the_retries_gets_the_pair_at_once(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = []

    def back_after_three_waits(seconds: float) -> None:
        away.waits.append(seconds)
        if len(away.waits) == 3:
            holders.append(EmbeddedPostgres.hold(away.home, durable=False))

    monkeypatch.setattr(away.tokens._refresher, "_sleep", back_after_three_waits)
    assert away.stored_works()
    assert away.refreshes() == 1
    assert list(away.spool.waiting()) == []
    for holder in holders:
        holder.release()


def test_a_pair_that_the_disk_refuses_too_is_held_in_memory_and_logged(
    away: Away, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (away.home / "spool").write_text("not a folder")
    holders = []

    def back_after_five_minutes(seconds: float) -> None:
        away.waits.append(seconds)
        if sum(away.waits) > 300 and not holders:
            holders.append(EmbeddedPostgres.hold(away.home, durable=False))

    monkeypatch.setattr(away.tokens._refresher, "_sleep", back_after_five_minutes)
    assert away.stored_works()
    assert away.refreshes() == 1
    assert "Do not stop this process" in caplog.text
    assert "SANDBOX-" not in caplog.text
    for holder in holders:
        holder.release()


def test_a_pair_is_restored_for_a_user_who_was_given_up_in_the_meantime(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, tmp_path: Path
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        with engine.begin() as db:
            row = token_row.read(db, user, clock.now)
        assert row is not None
        pair = OAuthToken(Secret("INVENTED-NEW"), 3600, refresh_token=Secret("INVENTED-NEXT"))
        spool.put(Generation(user, row.id, row.version), pair, clock.now)
        provider.failure = (400, {"message": "Invalid grant: refresh token is invalid"})
        elsewhere = Tokens(engine, vault, client, now=clock)
        with pytest.raises(PipelineError):
            elsewhere.get_valid_token(user)
        assert states(engine) == {"needs_reconnect": 1}
        assert delivered(engine) == [("Shop", "opened")]
        assert tokens.refresh_due([]) == {}
        assert states(engine) == {"connected": 1}
        assert delivered(engine) == [("Shop", "closed")]
        assert tokens.get_valid_token(user) == Secret("INVENTED-NEW")


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.TimeoutError("the pool is exhausted"),
        sa.exc.InternalError("UPDATE", {}, Exception("read-only transaction")),
    ],
    ids=["no connection left", "read-only"],
)
def test_no_database_error_loses_a_pair(
    error: sa.exc.SQLAlchemyError,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
    tmp_path: Path,
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    refused: list[int] = []

    def refuse_twice(_: sa.Connection, *statement: object) -> None:
        if "SET access_token" in str(statement) and len(refused) < 2:
            refused.append(len(list(spool.waiting())))
            raise error

    sa.event.listen(engine, "before_cursor_execute", refuse_twice)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        tokens = Tokens(engine, vault, client, spool=spool, now=clock, sleep=clock.sleep)
        assert tokens.get_valid_token(user) == Secret("INVENTED-ACCESS-1")
    assert refused == [0, 1]  # at the second attempt it waits on disk already
    assert list(spool.waiting()) == []
    assert provider.posts == 1


def test_an_unreadable_pair_on_disk_does_not_stop_other_refreshes(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, tmp_path: Path
) -> None:
    odd, well = fleet(engine, 2, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with engine.begin() as db:
        row = token_row.read(db, odd, clock.now)
    assert row is not None
    pair = OAuthToken(Secret("INVENTED"), 3600, refresh_token=Secret("INVENTED"))
    strange = Spool(tmp_path / "spool", TokenVault({"gone": b"g" * 32}))
    strange.put(Generation(odd, row.id, row.version), pair, clock.now)
    (tmp_path / "spool" / "notes.json").write_text("no pair of ours")
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        spool = Spool(tmp_path / "spool", vault)
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        outcomes = tokens.refresh_due([odd, well])
    assert outcomes[well] is None
    assert outcomes[odd] is not None
    assert outcomes[odd].failure is FailureClass.TOKEN_UNREADABLE
    assert delivered(engine) == [("Shop", "opened")]
    assert len(list(spool.waiting())) == 1  # for when the key is back


def test_a_disconnection_deletes_pairs_on_disk_too(
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool", vault)
    consent = Consent(engine, vault, client, spool=spool, now=clock)
    connector = Connector(engine, client, consent)
    user = connector("Harbor Dental").user.id
    connector.browser.close()
    pair = OAuthToken(Secret("INVENTED"), 3600, refresh_token=Secret("INVENTED"))
    spool.put(Generation(user, UUID(int=1), 7), pair, clock.now)
    (tmp_path / "spool" / f".{user}.half").write_text("half a draft")
    other = Generation(UUID(int=2), UUID(int=3), 1)
    spool.put(other, pair, clock.now)
    consent.disconnect(user)
    assert list(spool.waiting()) == [other]
    assert len(list((tmp_path / "spool").iterdir())) == 1


@pytest.mark.parametrize("change", ["disconnect", "newer"])
def test_a_superseded_pair_is_deleted(
    change: str,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
    tmp_path: Path,
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        with engine.begin() as db:
            row = token_row.read(db, user, clock.now)
        assert row is not None
        if change == "newer":
            Tokens(engine, vault, client, now=clock).get_valid_token(user)
        else:
            with engine.begin() as db:
                connection_store.disconnect(db, user, clock.now, actor=history.Actor())
        pair = OAuthToken(Secret("INVENTED-OLD"), 3600, refresh_token=Secret("INVENTED-OLDER"))
        spool.put(Generation(user, row.id, row.version), pair, clock.now)
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        assert tokens.refresh_due([]) == {}
    assert list(spool.waiting()) == []
    with engine.begin() as db:
        after = token_row.read(db, user, clock.now)
    assert after is not None
    assert after.token(vault, "access_token") != Secret("INVENTED-OLD")


def test_a_pair_on_disk_is_found_again_by_its_generation_only(
    tmp_path: Path, vault: TokenVault
) -> None:
    spool = Spool(tmp_path / "spool", vault)
    pair = OAuthToken(Secret("INVENTED"), 60, refresh_token=Secret("INVENTED"))
    spool.put(Generation(UUID(int=1), UUID(int=2), 3), pair, NOON)
    found = spool.get(Generation(UUID(int=1), UUID(int=2), 3))
    assert found is not None
    assert (found.token, found.started_at) == (pair, NOON)
    assert spool.get(Generation(UUID(int=1), UUID(int=2), 4)) is None

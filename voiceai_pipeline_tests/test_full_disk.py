"""A full disk: a small file system that holds the database and everything else of VOICEAI_HOME."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core import disk
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.database.engine import database_sentence, open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.small_disk import SmallDisk, mounted
from voiceai_pipeline_tests.support.token_endpoint import refreshes, stored

DAYS = [date(2026, 11, 16), date(2026, 11, 17), date(2026, 11, 18)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "small", 192) as disk:
        yield disk


def test_a_full_disk_loses_nothing_is_named_and_heals_automatically(
    small_disk: SmallDisk,
    client: HighLevelClient,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.grace_seconds = 0  # a pair that is lost is lost
    home = small_disk.folder / "home"
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.hold(home, durable=False))
        server.create_database("voiceai")
        engine = open_engine(Secret(server.url("voiceai")))
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        server.create_database("other")
        other = open_engine(Secret(server.url("other")))
        stack.callback(other.dispose)
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        user = connector("Harbor Dental").user.id
        connector.browser.close()
        waits = list[float]()

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            clock.sleep(seconds)
            if len(waits) == 3:
                small_disk.free()

        spool, pairs = Spool(home / "spool", vault), NewestPairs(home / "pairs", vault)
        tokens = Tokens(engine, vault, client, spool=spool, pairs=pairs, now=clock, sleep=sleep)
        sync = Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock)

        # A sync: red, and the sentence names the disk.
        small_disk.fill()
        assert disk.is_full(home)
        assert "MB are free on the disk" in str(disk.room_warning(home))
        with pytest.raises(PipelineError) as red:
            sync.sync_days(DAYS)
        assert red.value.failure is FailureClass.DISK_FULL
        assert "disk of the database is full" in str(red.value)
        assert "Free some space" in str(red.value)

        # A migration: a sentence, and nothing half done.
        with pytest.raises(sa.exc.DBAPIError) as refused:
            migrate.upgrade(other)
        assert "disk of the database is full" in database_sentence(refused.value)
        with pytest.raises((PostgresError, sa.exc.DBAPIError, OSError)):
            EmbeddedPostgres.hold(small_disk.folder / "another", durable=False)

        # A refresh: the pair waits in memory, for neither the database nor the disk can take it.
        with engine.begin() as db:
            version = stored(engine, user)["token_version"]
            db.execute(sa.text("SELECT 1"))
        clock.now += timedelta(days=2)
        sandbox.world.clear_requests()
        tokens.get_valid_token(user)
        assert refreshes(sandbox) == [200]
        assert stored(engine, user)["token_version"] == version + 1
        if (small_disk.folder / "filler").exists():
            small_disk.free()

        # There is room again: everything goes on.
        assert {row.state for row in sync.sync_days(DAYS)} == {DayState.COMPLETE}
        migrate.upgrade(other)
        clock.now += timedelta(days=2)
        tokens.get_valid_token(user)
        assert refreshes(sandbox) == [200, 200]


def test_a_disk_with_less_than_a_gigabyte_or_a_twentieth_free_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def with_free(free: int, total: int) -> str | None:
        usage = disk.shutil._ntuple_diskusage(total, total - free, free)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: usage)
        return disk.room_warning(tmp_path)

    gigabyte = 2**30
    assert with_free(gigabyte, 10 * gigabyte) is None
    assert "Only 1,023 MB are free" in str(with_free(gigabyte - 1, 10 * gigabyte))
    assert with_free(5 * gigabyte, 100 * gigabyte) is None
    assert "Free some space" in str(with_free(5 * gigabyte - 1, 100 * gigabyte))

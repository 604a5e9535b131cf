"""A database restored from a backup: its refresh tokens are spent, the newest are on disk."""

import contextlib
import errno
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import requests
import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, circuit_breaker
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_messages import message_of
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.database import dump
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.token_endpoint import refreshes, standing, stored
from voiceai_pipeline_tests.support.token_fleet import app_events

NAMES = ("Harbor Dental", "Maple Plumbing", "Quiet Law", "Pine Realty", "Northwind Agency")

PAGE = PageSettings("127.0.0.1", 8791, "http://page.test", "http://dagster.test")


@dataclass
class Backups:
    """Connected users, whose database can be dumped and restored.

    Attributes:
        pairs: where the newest pairs are kept.
    """

    engine: sa.Engine
    vault: TokenVault
    client: HighLevelClient
    clock: Clock
    sandbox: RunningSandbox
    folder: Path
    users: list[UUID] = field(default_factory=list)
    pairs: Path = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = self.folder / "pairs"

    def connect(self, *names: str) -> None:
        with contextlib.closing(requests.Session()) as browser:
            connector = Connector(self.engine, self.client, self.consent, browser)
            self.users += [connector(name).user.id for name in names]

    @property
    def consent(self) -> Consent:
        pairs = NewestPairs(self.pairs, self.vault)
        return Consent(self.engine, self.vault, self.client, pairs=pairs, now=self.clock)

    @property
    def tokens(self) -> Tokens:
        pairs = NewestPairs(self.pairs, self.vault)
        return Tokens(
            self.engine, self.vault, self.client, pairs=pairs, now=self.clock,
            sleep=self.clock.sleep,
        )  # fmt: skip

    def refresh_all(self) -> list[int]:
        """A day later, what a refresh run does; the statuses of its token POSTs."""
        self.clock.now += timedelta(days=1)
        self.sandbox.world.clear_requests()
        self.tokens.refresh_due(self.users)
        return refreshes(self.sandbox)

    def dump(self) -> Path:
        file = self.folder / "voiceai.dump"
        dump.dump(self.engine.url, file)
        return file

    def restore(self, file: Path) -> None:
        self.engine.dispose()
        dump.restore(self.engine.url, file)

    def states(self) -> set[ConnectionState]:
        with self.engine.begin() as db:
            return {one.state for one in connections.all_connections(db, self.users)}


@pytest.fixture
def backups(
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
    tmp_path: Path,
) -> Backups:
    sandbox.world.grace_seconds = 0  # what is spent is spent
    made = Backups(engine, vault, client, clock, sandbox, tmp_path)
    made.connect(*NAMES)
    return made


def test_a_restored_backup_heals_itself_before_a_spent_token_is_sent(backups: Backups) -> None:
    assert backups.refresh_all() == [200] * len(NAMES)
    file = backups.dump()
    for _ in range(2):
        assert backups.refresh_all() == [200] * len(NAMES)
    gone, *others = backups.users
    backups.consent.disconnect(gone)
    backups.restore(file)
    assert backups.refresh_all() == [200] * len(others)
    assert {standing(backups.engine, user)[0] for user in others} == {ConnectionState.CONNECTED}
    # A backup does not undo a disconnection either.
    assert standing(backups.engine, gone)[0] is ConnectionState.DISCONNECTED
    assert stored(backups.engine, gone)["refresh_token"] is None
    # The pair brought back once is not brought back again.
    assert backups.refresh_all() == [200] * len(others)


def test_a_connection_made_after_the_backup_comes_back_with_its_location(
    backups: Backups, engine: sa.Engine
) -> None:
    late = Connector(engine, backups.client, backups.consent).add("Juniper Fitness")
    file = backups.dump()
    backups.connect("Juniper Fitness")
    location = stored(engine, late[0])["location_id"]
    backups.restore(file)
    assert backups.refresh_all() == [200] * len(backups.users)
    assert stored(engine, late[0])["location_id"] == location
    # A row that is deleted on purpose stays deleted: the history knows its pair.
    with engine.begin() as db:
        db.execute(sa.text("DELETE FROM api_keys WHERE user_id = :id"), {"id": late[0]})
    backups.users.remove(late[0])
    backups.refresh_all()
    with engine.begin() as db:
        found = connections.one(db, late[0])
    assert found is not None
    assert found.state is ConnectionState.NEVER_CONNECTED


@pytest.mark.parametrize("kept", ["nothing", "old pairs"])
def test_where_the_newest_pairs_exist_nowhere_three_refusals_suspend_all_with_one_alert(
    backups: Backups, engine: sa.Engine, kept: str
) -> None:
    backups.connect("Copper Kettle Catering", "Juniper Fitness", "Larch Auto Care")
    backups.refresh_all()
    file = backups.dump()
    old = backups.pairs.rename(backups.folder / "old")
    for _ in range(2):
        backups.refresh_all()
    backups.restore(file)
    shutil.rmtree(backups.pairs)
    if kept == "old pairs":
        # As after the whole machine was reset to an older state.
        old.rename(backups.pairs)
    assert len(backups.refresh_all()) <= 3
    with engine.begin() as db:
        assert circuit_breaker.read(db).reason is FailureClass.TOKENS_SPENT
        reasons = Counter(notice.reason for notice in alerts.pending(db, "test"))
        (notice,) = (one for one in alerts.pending(db, "test") if one.user is None)
        said = "\n".join(message_of(notice, PAGE).text.splitlines())
    assert reasons[FailureClass.TOKENS_SPENT] == 1
    assert "restored from a backup" in said
    assert "VOICEAI_HOME/pairs" in said
    assert app_events(engine) == ["circuit_opened"]
    # One user an hour is tried: the user refreshed last before the backup still works.
    before = len(refreshes(backups.sandbox))
    backups.tokens.refresh_due(backups.users)
    assert len(refreshes(backups.sandbox)) == before
    backups.clock.now += circuit_breaker.PROBE_SPENT_EVERY
    backups.tokens.refresh_due(backups.users)
    assert len(refreshes(backups.sandbox)) == before + 1


def test_newer_pairs_that_turn_up_later_resume_the_refreshes(backups: Backups) -> None:
    backups.connect("Copper Kettle Catering", "Juniper Fitness")
    file = backups.dump()
    backups.refresh_all()
    backups.restore(file)
    away = backups.pairs.rename(backups.folder / "away")
    assert len(backups.refresh_all()) == 3
    away.rename(backups.pairs)
    # The refused users too; all of it without a request that names a spent token.
    assert backups.refresh_all() == [200] * len(backups.users)
    assert backups.states() == {ConnectionState.CONNECTED}
    assert app_events(backups.engine) == ["circuit_opened", "circuit_closed"]


def test_users_who_removed_the_app_are_no_restored_backup(
    backups: Backups, engine: sa.Engine, sandbox: RunningSandbox
) -> None:
    backups.refresh_all()
    for user in backups.users[:4]:
        sandbox.world.revoke(str(stored(engine, user)["location_id"]))
    backups.refresh_all()
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert standing(engine, backups.users[4])[0] is ConnectionState.CONNECTED


def test_the_newest_pairs_are_encrypted_and_private_and_a_full_disk_leaves_no_older_one(
    backups: Backups, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = list(backups.pairs.glob("*"))
    assert sorted(file.stem for file in files) == sorted(map(str, backups.users))
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert backups.pairs.stat().st_mode & 0o777 == 0o700
    assert "SANDBOX-" not in "".join(file.read_text() for file in files)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert backups.refresh_all() == [200] * len(backups.users)
    assert list(backups.pairs.glob("*")) == []
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    # A file that cannot be read is none.
    (backups.pairs / f"{backups.users[0]}.json").write_text("half a fi")
    assert backups.refresh_all() == [200] * len(backups.users)

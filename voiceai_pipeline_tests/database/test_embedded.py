"""The embedded server's life, with real servers, real processes and real kills."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy

from voiceai_pipeline.database import embedded
from voiceai_pipeline.database.embedded import EmbeddedPostgres, PostgresError, is_running, stop

HOLDER = """
import sys
from pathlib import Path
import psycopg
from voiceai_pipeline.database.embedded import EmbeddedPostgres
server = EmbeddedPostgres.hold(Path(sys.argv[1]), durable=False)
url = server.url("postgres").replace("+psycopg", "")
with psycopg.connect(url) as connection:
    print(*connection.execute("SELECT pg_postmaster_start_time()").fetchone(), flush=True)
exec(sys.argv[2])
sys.stdout.flush()
sys.stdin.read()
"""

NOBODY = pwd.getpwnam("nobody").pw_uid
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's ways not to be root")


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that is not there yet."""
    home = tmp_path / "home"
    yield home
    end(home)
    shutil.rmtree(home, ignore_errors=True)  # 40 MB


@pytest.fixture(scope="module")
def old_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("old") / "home"
    hold(home).release()
    end(home)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(old_home: Path) -> Iterator[Path]:
    """A home whose data many tests share; its server runs at the beginning of none."""
    yield old_home
    end(old_home)


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that any user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        end(Path(folder) / "home")


def hold(home: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres.hold(home, durable=False)


def end(home: Path) -> None:
    stop(home)
    wait_until(lambda: not watchdogs(home))


@contextlib.contextmanager
def holder(home: Path, then: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds, or is about to, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """What a holder prints once it holds: when its server started."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def connect(server: EmbeddedPostgres, database: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(server.url(database).replace("+psycopg", ""), autocommit=True)


def ask(server: EmbeddedPostgres, query: str, database: str = "postgres") -> object:
    with connect(server, database) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return row[0] if row else None


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def stopped(home: Path) -> bool:
    """Nothing of the server lives, in connections or in processes."""
    return not is_running(home) and not processes("postgres", "-D", str(home / "postgres/data"))


def processes(program: str, *words: str) -> list[int]:
    """The pids of a program whose command line holds all these words."""
    lines = ((process.pid, process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))
    return [
        pid
        for pid, line in lines
        if line and Path(line[0]).name.startswith(program) and set(words) <= set(line)
    ]


def watchdogs(home: Path) -> list[int]:
    return processes("python", "voiceai_pipeline.database.embedded", "watch", str(home))


def postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().split()[0])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


# Living and dying


def test_it_starts_answers_and_stops(home: Path) -> None:
    assert not is_running(home)
    with hold(home) as server:
        assert is_running(home)
        assert ask(server, "SELECT 1") == 1
    wait_until(lambda: stopped(home) and not watchdogs(home))


def test_a_second_holder_shares_and_the_last_one_stops_it(home: Path) -> None:
    first = hold(home)
    started = ask(first, "SELECT pg_postmaster_start_time()::text")
    second = hold(home)
    first.release()
    first.release()
    time.sleep(0.3)
    assert ask(second, "SELECT pg_postmaster_start_time()::text") == started
    assert len(watchdogs(home)) == 1
    second.release()
    wait_until(lambda: stopped(home))


def test_the_server_stops_after_its_last_holder_is_killed(home: Path) -> None:
    with holder(home) as process:
        assert said(process)
        assert is_running(home)
        process.kill()
        wait_until(lambda: stopped(home) and not watchdogs(home))


def test_two_processes_starting_at_once_get_one_server(new_home: Path) -> None:
    with holder(new_home) as one, holder(new_home) as other:
        assert said(one) == said(other) != ""
        assert len(watchdogs(new_home)) == 1


def test_a_newcomer_and_a_stopping_watchdog_never_meet(home: Path) -> None:
    hold(home).release()
    for pause in (0.0, 0.005, 0.01, 0.02, 0.04):
        time.sleep(pause)
        with hold(home) as server:
            time.sleep(0.1)  # the old watchdog, if it was leaving, has left
            assert ask(server, "SELECT 1") == 1
            assert watchdogs(home)
    wait_until(lambda: stopped(home) and not watchdogs(home))


def test_children_of_a_holder_do_not_hold(home: Path) -> None:
    with holder(
        home, 'import subprocess; print(subprocess.Popen(["sleep", "60"], close_fds=False).pid)'
    ) as process:
        assert said(process)
        child = int(said(process))
        process.kill()
        wait_until(lambda: stopped(home))
        os.kill(child, signal.SIGKILL)


def test_a_fork_neither_keeps_nor_frees_its_parents_hold(home: Path) -> None:
    server = hold(home)
    fork = os.fork()
    if fork == 0:
        server.release()
        os._exit(0)
    os.waitpid(fork, 0)
    time.sleep(0.3)
    assert ask(server, "SELECT 1") == 1
    fork = os.fork()
    if fork == 0:
        signal.pause()
    server.release()
    wait_until(lambda: stopped(home))
    os.kill(fork, signal.SIGKILL)
    os.waitpid(fork, 0)


def test_stop_ends_it_whoever_holds_and_a_new_hold_starts_it_again(home: Path) -> None:
    with hold(home) as before:
        stop(home)
        assert stopped(home)
        with pytest.raises(PostgresError, match="hold it again"):
            before.create_database("late")
        with hold(home) as after:
            assert ask(after, "SELECT 1") == 1


def test_stop_of_a_home_that_never_was_makes_nothing(new_home: Path) -> None:
    stop(new_home)
    assert not new_home.exists()


# Accidents


def test_a_killed_postmaster_is_restarted_at_the_next_hold(home: Path) -> None:
    with hold(home) as server:
        server.create_database("kept")
        kill(postmaster(home))
        with hold(home) as again:
            assert ask(again, "SELECT 1", "kept") == 1


def test_a_stale_pid_file_that_names_a_living_stranger_fools_nobody(home: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        with hold(home) as server:
            old = postmaster(home)
            kill(old)
            for file in (home / "postgres/data/postmaster.pid", *socket_locks(home)):
                file.write_text(file.read_text().replace(str(old), str(stranger.pid)))
            with hold(home):
                assert ask(server, "SELECT 1") == 1
                assert postmaster(home) != stranger.pid
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="only Linux tells who listens")
def test_stopping_it_harms_no_stranger_whom_its_pid_file_names(home: Path) -> None:
    # As when another container shares the home: the pid in the file is the one it has there.
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger, hold(home):
        pid_file = home / "postgres/data/postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace(str(postmaster(home)), str(stranger.pid)))
        stop(home)
        assert stranger.poll() is None
        stranger.kill()


def socket_locks(home: Path) -> list[Path]:
    found = list((home / "postgres/run").glob(".s.PGSQL.*.lock"))
    assert found
    return found


def test_a_killed_watchdog_is_replaced_at_the_next_hold(home: Path) -> None:
    first = hold(home)
    (watchdog,) = watchdogs(home)
    kill(watchdog)
    second = hold(home)
    (replacement,) = watchdogs(home)
    assert replacement != watchdog
    first.release()
    second.release()
    wait_until(lambda: stopped(home))


def test_an_interrupted_initdb_does_not_poison_the_next_start(new_home: Path) -> None:
    with holder(new_home) as process:
        wait_until(lambda: (new_home / "postgres/data.new/PG_VERSION").exists())
        process.kill()  # its initdb goes on alone
    assert not (new_home / "postgres/data").exists()
    with hold(new_home) as server:
        assert ask(server, "SELECT 1") == 1
    assert not (new_home / "postgres/data.new").exists()


def test_a_holder_killed_while_it_starts_leaves_no_server(home: Path) -> None:
    hold(home).release()
    wait_until(lambda: stopped(home))
    with holder(home) as process:
        wait_until(lambda: (home / "postgres/data/postmaster.pid").exists())
        process.kill()
        wait_until(lambda: stopped(home) and not watchdogs(home))


# Places


@pytest.mark.parametrize("name", ['it\'s 100% "ours" + é & ?#', "one,two"])
def test_any_sign_in_the_path_is_fine(name: str) -> None:
    # Short above, so that the signs are in the path of the socket too.
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
        sockets.chmod(0o777)  # as a stranger might have left it
        with pytest.raises(PostgresError, match="only this user can enter"):
            hold(home)
    finally:
        shutil.rmtree(sockets)


@needs_root
def test_root_in_a_closed_folder_without_namespaces_keeps_one_power(
    new_home: Path, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_home.mkdir(mode=0o700)
    monkeypatch.setenv("PATH", only(passable, "id", "setpriv"))
    check_it_runs_as_nobody(new_home)


@needs_root
def test_root_that_can_become_nobody_else_gets_a_sentence(
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
    """A PATH on which these programs alone are found."""
    place = folder / "programs"
    place.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        (place / program).symlink_to(found)
    return str(place)


# What it keeps and what it does not tell


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


def test_databases_are_made_from_templates_and_dropped(home: Path) -> None:
    with hold(home) as server:
        server.create_database("model")
        server.create_database("model")
        with connect(server, "model") as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        server.create_database('a "copy"/1', template="model")
        assert ask(server, "SELECT n FROM t", 'a "copy"/1') == 7
        with pytest.raises(PostgresError, match="exists already"):
            server.create_database('a "copy"/1', template="model")
        with connect(server, 'a "copy"/1'):
            server.drop_database('a "copy"/1')
        server.drop_database('a "copy"/1')
        assert ask(server, "SELECT count(*) FROM pg_database WHERE datname LIKE 'a%'") == 0


def test_the_log_holds_no_values(home: Path) -> None:
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


def test_data_keep_the_version_that_wrote_them(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "INSTALLS", {16: "pginstall"})
    hold(new_home).release()
    monkeypatch.undo()
    with hold(new_home) as server:
        assert str(ask(server, "SHOW server_version")).startswith("16.")


# Sentences


def test_a_home_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostgresError, match="choose another, or set VOICEAI_DATABASE_URL"):
        hold(tmp_path / "file" / "home")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_gets_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PostgresError, match="choose another, or set VOICEAI_DATABASE_URL"):
        hold(tmp_path / "home")


def test_a_platform_without_binaries_gets_a_sentence(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "INSTALLS", {})
    with pytest.raises(PostgresError, match="set VOICEAI_DATABASE_URL and DAGSTER_POSTGRES_URL"):
        hold(new_home)


def test_data_of_another_version_get_a_sentence(new_home: Path) -> None:
    data = new_home / "postgres/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(PostgresError, match=r"PostgreSQL 12, and only \[16, 18\]"):
        hold(new_home)


def test_a_server_that_ends_at_once_says_why(new_home: Path) -> None:
    hold(new_home).release()
    wait_until(lambda: stopped(new_home))
    (new_home / "postgres/data/postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match=r"ended at once.*no_such_setting"):
        hold(new_home)

"""Holds on the embedded server: it runs while one process has one, whatever happens to others."""

import os
import signal
import time
from pathlib import Path

import pytest

from voiceai_pipeline.database.embedded import is_running, stop
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline_tests.support.embedded_homes import (
    ask,
    connect,
    hold,
    holder,
    kill,
    said,
    stopped,
    watchdogs,
)
from voiceai_pipeline_tests.support.processes import wait_until


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


def test_a_new_holder_never_gets_a_server_that_a_watchdog_is_stopping(home: Path) -> None:
    hold(home).release()
    for pause in (0.0, 0.005, 0.01, 0.02, 0.04):
        time.sleep(pause)
        with hold(home) as server:
            time.sleep(0.1)  # an old watchdog that was exiting is gone
            assert ask(server, "SELECT 1") == 1
            assert watchdogs(home)
    wait_until(lambda: stopped(home) and not watchdogs(home))


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


def test_a_holder_killed_while_it_starts_leaves_no_server(home: Path) -> None:
    hold(home).release()
    wait_until(lambda: stopped(home))
    with holder(home) as process:
        wait_until((home / "postgres/data/postmaster.pid").exists, pause=0.01)
        process.kill()
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


def test_stop_stops_it_despite_holders_and_a_new_hold_restarts_it(home: Path) -> None:
    with hold(home) as before:
        stop(home)
        assert stopped(home)
        with pytest.raises(PostgresError, match="a new hold restarts it"):
            before.create_database("late")
        with hold(home) as after:
            assert ask(after, "SELECT 1") == 1


def test_stop_creates_nothing_in_a_home_that_does_not_exist(new_home: Path) -> None:
    stop(new_home)
    assert not new_home.exists()


def test_databases_are_created_from_templates_and_dropped(home: Path) -> None:
    with hold(home) as server:
        server.create_database("model")
        server.create_database("model")
        with connect(server, "model") as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        server.create_database('a "copy"/1', template="model")
        assert ask(server, "SELECT n FROM t", 'a "copy"/1') == 7
        with pytest.raises(PostgresError, match="already exists"):
            server.create_database('a "copy"/1', template="model")
        with connect(server, 'a "copy"/1'):
            server.drop_database('a "copy"/1')
        server.drop_database('a "copy"/1')
        assert ask(server, "SELECT count(*) FROM pg_database WHERE datname LIKE 'a%'") == 0


def test_a_home_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostgresError, match="choose another, or set VOICEAI_DATABASE_URL"):
        hold(tmp_path / "file" / "home")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_gets_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PostgresError, match="choose another, or set VOICEAI_DATABASE_URL"):
        hold(tmp_path / "home")

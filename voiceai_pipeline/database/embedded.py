"""Embedded PostgreSQL for the processes of one home folder: it runs while a process holds it.

Starting and stopping the server is in ``embedded_server.py``. A server that VOICEAI_DATABASE_URL
names is never started or stopped.

The protocol has three flocks in `<home>/postgres`. The kernel releases them however a process
exits, so nothing relies on a pid:

    holders.lock   shared by every hold; an exclusive lock means that no process holds the server
    server.lock    exclusive: taken to start, then inherited by initdb, postgres and its children;
                   free means that no server uses the data
    watch.lock     exclusive, inherited by the watchdog. It waits for an exclusive holders.lock,
                   stops the server while new holders wait for that lock, and exits
"""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import errors, sql

from voiceai_pipeline.database.embedded_account import Account, spawn
from voiceai_pipeline.database.embedded_server import (
    PORT,
    SUPERUSER,
    USE_YOUR_OWN,
    PostgresError,
    Server,
)


class EmbeddedPostgres:
    """A hold on the embedded server of one home folder, which runs while it has at least one hold.

    A hold lasts until it is released or its process exits; garbage collection does not end it.
    """

    def __init__(self, server: Server, holder: int) -> None:
        """Wrap a shared flock that is already taken; use `EmbeddedPostgres.hold`."""
        self._server = server
        self._holder: int | None = holder
        self._pid = os.getpid()

    @classmethod
    def hold(cls, home: Path, *, durable: bool = True, sql_port: int | None = None) -> Self:
        """Start the server of `home` unless it runs; return once it accepts connections.

        Args:
            durable: False trades the safety of the data for speed; it is meant for tests.
            sql_port: loopback port on which a server that this call starts also listens
                (``sql_access.py``); None: its socket only.

        Raises:
            PostgresError: the server cannot run; the text says why and what to do.
        """
        server = Server(home, sql_port)
        with _os_errors_explained(server.home):
            server.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            holder = server.lock("holders", fcntl.LOCK_SH)  # waits for a stopping watchdog
            try:
                # The watchdog first, so that a holder that is killed leaves no server behind.
                _ensure_watched(server)
                server.ensure_running(durable=durable)
            except BaseException:
                os.close(holder)
                raise
        return cls(server, holder)

    def url(self, database: str, driver: str = "psycopg") -> str:
        """The SQLAlchemy URL of a database on this server."""
        return (
            f"postgresql+{driver}://{SUPERUSER}@/{quote(database, safe='')}"
            f"?host={quote(str(self._server.sockets))}&port={PORT}"
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database; an existing one is fine unless a template is given."""
        command = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            # A third of the work, for a small template, of copying it through the log.
            command += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
        try:
            self._execute(command)
        # Of two that create the same name at once, the second may violate the catalog's key.
        except (errors.DuplicateDatabase, errors.UniqueViolation) as error:
            if template is not None:
                raise PostgresError(
                    f"The database {name} already exists: drop it first."
                ) from error

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and close all connections to it."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def release(self) -> None:
        """End this hold, if it has not ended; the server stops soon after its last one."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        # A forked child shares the flock. Unlocking releases it even if the child still runs; the
        # child itself has no hold, and must not release its parent's.
        if os.getpid() == self._pid:
            fcntl.flock(holder, fcntl.LOCK_UN)
        os.close(holder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _execute(self, command: sql.Composed) -> None:
        try:
            connection = self._server.connect()
        except psycopg.OperationalError as error:
            raise PostgresError(
                f"The embedded PostgreSQL of {self._server.home} does not answer ({error}); a new"
                f" hold restarts it. Its log: {self._server.log}"
            ) from error
        with connection:
            connection.execute(command)


def stop(home: Path) -> None:
    """Stop the server of `home` now, if it runs, even if processes hold it."""
    server = Server(home)
    if server.folder.is_dir():
        with _os_errors_explained(server.home):
            server.shut_down()


def exists(home: Path) -> bool:
    """Whether `home` has a server's data; nothing is started or created."""
    return (Server(home).data / "PG_VERSION").is_file()


def is_running(home: Path) -> bool:
    """Whether the server of `home` accepts a connection, tested by opening one."""
    return Server(home).answers()


def watch(home: Path, watch_lock: int) -> None:
    """Watchdog: wait until no process holds the server, stop it, exit."""
    server = Server(home)
    holders = server.lock("holders", fcntl.LOCK_EX)
    try:
        server.shut_down()
    finally:
        # In this order: the next holder must not find a watchdog that is about to exit.
        os.close(watch_lock)
        os.close(holders)


def _ensure_watched(server: Server) -> None:
    """Start a watchdog unless one runs, and pass it the lock, which is never free in between."""
    lock = server.lock_if_free("watch")
    if lock is not None:
        command = [sys.executable, "-m", __name__, "watch", str(server.home), str(lock)]
        try:
            spawn(command, Account.own(), lock, server.folder / "watchdog.log")
        finally:
            os.close(lock)


@contextlib.contextmanager
def _os_errors_explained(home: Path) -> Iterator[None]:
    """Raise an OSError as a ``PostgresError`` that says what was refused and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some disk space and try again"
        else:
            advice = f"make it a folder that this user can write, choose another, or {USE_YOUR_OWN}"
        raise PostgresError(
            f"The embedded PostgreSQL cannot use {home}: {error.strerror} ({error.filename});"
            f" {advice}."
        ) from error


if __name__ == "__main__":
    # The whole command line is `watch HOME DESCRIPTOR`, written by _ensure_watched.
    watch(Path(sys.argv[2]), int(sys.argv[3]))

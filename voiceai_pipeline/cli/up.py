"""``voiceai-pipeline up``: from a bare clone to calls in the Dagster UI, then keeps it running.

The order: database, tables, sandbox (where no HighLevel app is configured), demo users, the
Connections page, webserver, a backfill of the last days, daemon. Everything is safe to repeat; data
stay in VOICEAI_HOME.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import requests
import sqlalchemy as sa

from voiceai_pipeline.cli.signals import interruptible
from voiceai_pipeline.cli.supervisor import Supervisor
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import PageSettings, Settings
from voiceai_pipeline.database import adoption, migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running
from voiceai_pipeline.pipeline import Pipeline, open_pipeline, server_version
from voiceai_pipeline.web.dagster_client import Dagster, DagsterError, LocationError

PROJECT: Final = Path(__file__).parents[2]
"""Where dagster.yaml and workspace.yaml are."""

DAGSTER_DATABASE: Final = "dagster"
BACKFILL_DAYS: Final = 7
"""Today, as far as it has come, and the six days before."""

_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound
"""Addresses that are listened on and cannot be asked, and what to ask instead."""

MIN_FREE_BYTES: Final = 500 * 1024 * 1024


class UpError(RuntimeError):
    """It cannot start; the text says why and what to do."""


def run(settings: Settings, port: int, tell: Callable[[str], None]) -> None:
    """Start everything and keep it running until interrupted.

    Args:
        port: of Dagster's webserver, on loopback.
        tell: says what happens, a line at a time.

    Raises:
        UpError, ChildError, PostgresError, SettingsError, IncompatibleDatabaseError: with what to
            do; whatever had been started is stopped.
    """
    with ExitStack() as stack:
        home = settings.home
        _make_home(home)
        url, read_only = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{settings.read_only_port}"
        stack.enter_context(_only_one(home, url))
        page = settings.page
        _refuse_taken_port("127.0.0.1", port, f"make up PORT={port + 1}")
        _refuse_taken_port(page.host, page.port, f"VOICEAI_PAGE_PORT={page.port + 1} make up")
        if settings.read_only_port is not None:
            _refuse_read_only_port(settings.read_only_port, {port, page.port})
        stack.enter_context(interruptible())

        is_embedded = settings.database_url is None or settings.dagster_url is None
        tell("Database: starting" if settings.database_url is None else "Database: connecting")
        env = stack.enter_context(dagster_environment(settings))
        pipeline = stack.enter_context(open_pipeline(settings))
        _migrate(pipeline.engine, embedded=settings.database_url is None, tell=tell)

        supervisor = Supervisor(home / "logs", PROJECT, tell)
        stack.callback(lambda: tell("Stopped. The data stay; start again with: make up"))
        stack.callback(supervisor.stop)
        stack.callback(lambda: tell("Stopping..."))

        if settings.highlevel.is_sandbox:
            _start_sandbox(settings, supervisor, tell)
            try:
                connect_demo_users(pipeline, settings.highlevel.api_url, tell)
            except (requests.RequestException, ValueError) as error:
                raise UpError(
                    f"The sandbox could not connect the demo users ({type(error).__name__}). Start "
                    f"again; if it stays, its log says more: {home / 'logs' / 'sandbox.log'}"
                ) from error

        tell("Connections: starting the page")
        env = {"VOICEAI_DAGSTER_URL": url, **env}  # links in cells, alerts and on the page
        argv = [sys.executable, "-m", "voiceai_pipeline.web", "--dagster", url]
        supervisor.start("page", argv, env)

        tell("Dagster: starting the webserver")
        workspace = ["-w", str(PROJECT / "workspace.yaml")]
        argv = [_program("dagster-webserver"), *workspace, "-h", "127.0.0.1", "-p"]
        supervisor.start("webserver", [*argv, str(port)], env)
        # The page is there long before Dagster has loaded: it is of use without.
        _wait_until(lambda: _answers(f"{_here(page)}/health"), supervisor, "page", seconds=60)
        tell(f"Connections: {page.url}")
        dagster = Dagster(url)
        _wait_until(lambda: _is_loaded(dagster), supervisor, "webserver", seconds=150)
        if settings.read_only_port is not None:
            # Not earlier: two at once would both create Dagster's tables.
            tell("Dagster: starting the webserver for analysts")
            argv += [str(settings.read_only_port), "--read-only"]
            supervisor.start("webserver-read-only", argv, env)
            there = f"{read_only}/server_info"
            _wait_until(lambda: _answers(there), supervisor, "webserver-read-only", seconds=150)
        _backfill(pipeline, dagster, tell)
        tell("Dagster: starting the daemon")
        supervisor.start("daemon", [_program("dagster-daemon"), "run", *workspace], env)

        tell("")
        tell(f"Connections  {page.url}")
        tell(f"Dagster      {url}/assets/call_logs?view=partitions")
        if settings.read_only_port is not None:
            tell(
                f"Read-only    http://127.0.0.1:{settings.read_only_port}  (the same, for analysts)"
            )
        if settings.highlevel.is_sandbox:
            tell(f"Sandbox      {settings.highlevel.api_url}  (break, heal, revoke, pause there)")
        tell("Ctrl-C stops everything.")
        tell("")
        while True:
            # The database first: nothing else comes back without it.
            if is_embedded and not is_running(home):
                tell("The database stopped; starting it again.")
                stack.enter_context(EmbeddedPostgres.hold(home))
            supervisor.keep_running()
            time.sleep(1)


@contextmanager
def dagster_environment(settings: Settings) -> Iterator[dict[str, str]]:
    """The environment in which Dagster's programs find their instance and the same settings.

    The embedded server is held while the ``with`` lasts, if it is Dagster's database.
    """
    with ExitStack() as stack:
        url = settings.dagster_url
        if url is None:
            server = stack.enter_context(EmbeddedPostgres.hold(settings.home))
            server.create_database(DAGSTER_DATABASE)
            url = Secret(server.url(DAGSTER_DATABASE, driver="psycopg2"))
        else:
            # Dagster itself would try for ten seconds and then speak in tracebacks.
            server_version(url, "DAGSTER_POSTGRES_URL")
        env = {
            **os.environ,
            "DAGSTER_HOME": str(PROJECT),
            "DAGSTER_POSTGRES_URL": url.reveal(),
            "VOICEAI_HOME": str(settings.home),
        }
        if settings.highlevel.is_sandbox and "VOICEAI_START_DATE" not in os.environ:
            env["VOICEAI_START_DATE"] = _sandbox_start(settings.home).isoformat()
        yield env


def _sandbox_start(home: Path) -> date:
    """First partition of a demo: as many days as its first backfill has, so that none is missing
    and "Failed and missing" means the red one."""
    path = home / "sandbox-start-date"
    if not path.exists():
        path.write_text(f"{datetime.now(UTC).date() - timedelta(days=BACKFILL_DAYS - 1)}\n")
    return date.fromisoformat(path.read_text().strip())


# Before anything starts --------------------------------------------------------------------------


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "up.lock").open("a").close()
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise UpError(
            f"{home} cannot be used: {error.strerror}. Choose a folder that this user can write "
            "with VOICEAI_HOME."
        ) from error
    if free < MIN_FREE_BYTES:
        raise UpError(
            f"The disk of {home} has only {free // 2**20} MB left, and at least "
            f"{MIN_FREE_BYTES // 2**20} MB are needed. Free some space, or choose another folder "
            "with VOICEAI_HOME."
        )


@contextmanager
def _only_one(home: Path, url: str) -> Iterator[None]:
    """Hold the home for this process; a lock dies with its holder, however it dies."""
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            about = json.loads(lock.read() or "{}")
            raise UpError(
                f"It is already running at {about.get('url', 'an address of its own')} (process "
                f"{about.get('pid', 'unknown')}). Use it there, or stop it with Ctrl-C first."
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        lock.flush()
        yield


def _refuse_taken_port(host: str, port: int, otherwise: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise UpError(
                f"Port {port} is taken by another program. Stop that program, or use another port: "
                f"{otherwise}"
                if taken
                else f"Port {port} cannot be used: {error.strerror}. Use another: {otherwise}"
            ) from error


def _refuse_read_only_port(port: int, others: Collection[int]) -> None:
    if port in others:
        raise UpError(
            f"VOICEAI_READ_ONLY_PORT is {port}, where another part of this is to listen. Choose "
            "another."
        )
    _refuse_taken_port("127.0.0.1", port, f"VOICEAI_READ_ONLY_PORT={port + 1} make up")


# The steps ---------------------------------------------------------------------------------------


def _migrate(engine: sa.Engine, *, embedded: bool, tell: Callable[[str], None]) -> None:
    """Bring our own database up to date; somebody else's only if it is empty (decision 2)."""
    with engine.begin() as db:
        is_current = migrate.is_current(db)
        may = embedded or adoption.is_empty(db)
    if is_current and not embedded:
        return
    if not may:
        raise UpError(
            "The database needs a migration, and it is not an empty one, so nothing was changed. "
            "See what would be done with `voiceai-pipeline migrate --sql`, then run "
            "`voiceai-pipeline migrate`."
        )
    if not is_current:
        tell("Database: creating the tables")
    # Views and comments follow the code, also where no revision is due.
    migrate.upgrade(engine)


def _start_sandbox(settings: Settings, supervisor: Supervisor, tell: Callable[[str], None]) -> None:
    url = settings.highlevel.api_url
    port = urlsplit(url).port or 80
    _refuse_taken_port("127.0.0.1", port, f"VOICEAI_SANDBOX_PORT={port + 1} make up")
    tell("Sandbox: starting a local HighLevel, because HIGHLEVEL_CLIENT_ID is not set")
    argv = [sys.executable, "-m", "voiceai_pipeline.sandbox", "--port", str(port)]
    argv += ["--state-file", str(settings.home / "sandbox.json")]
    supervisor.start("sandbox", argv, os.environ)
    _wait_until(lambda: _answers(f"{url}/sandbox/state"), supervisor, "sandbox", seconds=60)


def connect_demo_users(pipeline: Pipeline, sandbox: str, tell: Callable[[str], None]) -> None:
    """Twelve users, connected as a browser would; then the demo's troubles happen to two."""
    from voiceai_pipeline.sandbox.cast import DEMO_USERS
    from voiceai_pipeline.sandbox.demo import authorize

    with pipeline.engine.begin() as db:
        demo_ids = {UUID(demo.id) for demo in DEMO_USERS}
        if any(person.user.id not in demo_ids for person in connections.all_connections(db)):
            tell("Sandbox: the database has users of its own, so no demo users are added")
            return
        for demo in DEMO_USERS:
            connections.add_user(
                db,
                UUID(demo.id),
                business_name=demo.business_name,
                first_name=demo.first_name,
                last_name=demo.last_name,
            )
        states = {str(person.user.id): person.state for person in connections.all_connections(db)}
    new = [
        demo
        for demo in DEMO_USERS
        if states[demo.id] is ConnectionState.NEVER_CONNECTED and demo.role != "never_connected"
    ]
    if not new:
        return
    tell(f"Sandbox: connecting {len(new)} demo users through its OAuth pages")
    with requests.Session() as browser:
        for demo in new:
            page = f"{pipeline.client.authorize_url('demo')}&user={demo.id}"
            callback = authorize(browser, page, demo.installs_on)
            code = parse_qs(urlsplit(callback).query)["code"][0]
            pipeline.consent.connect(UUID(demo.id), Secret(code))
            trouble = {"revoked": "revoke", "paused": "pause"}.get(demo.role)
            if trouble:
                browser.post(
                    f"{sandbox}/sandbox/{trouble}",
                    json={"location_id": demo.location_id},
                    timeout=10,
                ).raise_for_status()


def _backfill(pipeline: Pipeline, dagster: Dagster, tell: Callable[[str], None]) -> None:
    """Ask for those of the last days that nobody has tried yet; red ones retry by themselves."""
    today = datetime.now(pipeline.zone).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(BACKFILL_DAYS))]
    untried = [report.day for report in pipeline.sync.report(days) if report.unread]
    if not untried:
        return
    tell(f"Dagster: asking for a backfill of {len(untried)} days")
    try:
        dagster.backfill(untried, f"The last {BACKFILL_DAYS} days")
    except DagsterError as error:
        # No reason to stop: everything else runs, and the days can be asked for by hand.
        tell(
            f"{error} Ask for it in the UI: {dagster.url}/assets/call_logs?view=partitions, "
            "Materialize."
        )


def _is_loaded(dagster: Dagster) -> bool:
    try:
        return dagster.is_loaded()
    except LocationError as error:
        raise UpError(str(error)) from error


def _here(page: PageSettings) -> str:
    """Where this machine finds the page, whatever stands before it for others."""
    host = _WILDCARDS.get(page.host, page.host)
    return f"http://[{host}]:{page.port}" if ":" in host else f"http://{host}:{page.port}"


def _answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=2).ok
    return False


def _wait_until(
    ready: Callable[[], bool], supervisor: Supervisor, name: str, *, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        supervisor.keep_running()
        if time.monotonic() > deadline:
            raise UpError(
                f"The {name} has not answered for {seconds:.0f} seconds. Its log ends with:\n"
                f"{supervisor.tail(name)}"
            )
        time.sleep(0.2)


def _program(name: str) -> str:
    """A program of this virtual environment, whether or not it is activated."""
    return str(Path(sys.executable).parent / name)

"""``voiceai-pipeline up``: starts everything, from a bare clone to calls in Dagster's UI, and keeps
it running.

It starts, in this order: the database and its tables, the sandbox and its demo users (if no
HighLevel app is configured), the web pages, Dagster's UI behind them, a backfill of the last days,
Dagster's daemon. In the demo, a backfill of earlier weeks follows. It can be repeated safely: data
are kept in VOICEAI_HOME.
"""

import contextlib
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
import sqlalchemy as sa

from voiceai_pipeline.calls import stored_redaction, stored_values
from voiceai_pipeline.cli.preflight import (
    UpError,
    check_home,
    check_port,
    check_ports,
    single_instance,
)
from voiceai_pipeline.cli.signals import interruptible
from voiceai_pipeline.cli.supervisor import RESTART_WINDOW, ChildError, Supervisor
from voiceai_pipeline.core.disk import is_full
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.installation import START, shipped
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import PageSettings, Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database import adoption, migrate, sql_access
from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.highlevel.transport import open_session
from voiceai_pipeline.pipeline import Pipeline, open_pipeline, server_version
from voiceai_pipeline.web.dagster_client import Dagster, DagsterError, LocationError

PROJECT: Final = shipped("dagster.yaml").parent
"""The folder of dagster.yaml and workspace.yaml: of the clone or, installed, of the package."""

DAGSTER_DATABASE: Final = "dagster"
BACKFILL_DAYS: Final = 7
"""Today so far, and the six days before."""

DEMO_WEEKS: Final = 8
"""Weeks of calls that the demo shows."""

_HISTORY_PAUSE: Final = 5
"""Seconds between checks whether the last days were tried, so that the earlier weeks can follow."""

_FULL_DISK_PAUSE: Final = 10
"""Seconds between attempts to restart what a full disk has stopped."""

_WORKSPACE: Final = ("-w", str(PROJECT / "workspace.yaml"))

ONE_HEAP: Final = {"MALLOC_ARENA_MAX": "2"}
"""glibc would give each thread of a run a heap of its own, which takes 15 MB more."""

_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound
"""Addresses to listen on that cannot be connected to, and the address to use instead."""


def run(settings: Settings, port: int, report: Callable[[str], None]) -> None:
    """Start everything and keep it running until interrupted.

    Args:
        port: of Dagster's UI process, on loopback; users reach it through the pages.
        report: called with each line of progress.

    Raises:
        UpError, ChildError, PostgresError, SettingsError, IncompatibleDatabaseError: the text says
            what to do; everything that was started is stopped.
    """
    home = settings.home
    with ExitStack() as stack:
        check_home(home)
        stack.enter_context(single_instance(home, settings.page.url))
        check_ports(settings, port)
        stack.enter_context(interruptible())

        is_embedded = settings.database_url is None or settings.dagster_url is None
        report("Database: starting" if settings.database_url is None else "Database: connecting")
        env = stack.enter_context(dagster_environment(settings))
        pipeline = stack.enter_context(open_pipeline(settings))
        _migrate(pipeline.engine, embedded=settings.database_url is None, report=report)
        _allow_sql_tools(settings, pipeline.engine, report)

        supervisor = Supervisor(home / "logs", home, report)
        stack.callback(lambda: report(f"Stopped. All data are kept; start again with: {START}"))
        stack.callback(supervisor.stop)
        stack.callback(lambda: report("Stopping..."))

        if settings.highlevel.is_sandbox:
            _start_sandbox(settings, supervisor, report)
            _connect_demo_users(settings, pipeline, report)
        key = settings.page.dagster_key or Secret(secrets.token_urlsafe(32))
        dagster = Dagster(f"http://127.0.0.1:{port}", key)
        keyed = {**env, "VOICEAI_DAGSTER_KEY": key.reveal()}
        _start_pages_and_ui(settings, dagster, supervisor, keyed, report)
        _backfill(settings, pipeline, dagster, report)
        report("Dagster: starting the daemon")
        supervisor.start(
            "daemon", [sys.executable, "-m", "dagster._daemon", "run", *_WORKSPACE], env
        )

        _announce(settings, report)
        history = _history(settings, pipeline, dagster)
        full_at = -math.inf
        while True:
            # A stop that a full disk caused may be noticed only once there is room again.
            full_at = time.monotonic() if is_full(home) else full_at
            try:
                # The database first: nothing else recovers without it.
                if is_embedded and not is_running(home):
                    report("The database stopped; starting it again.")
                    stack.enter_context(EmbeddedPostgres.hold(home, sql_port=settings.sql_port))
                supervisor.keep_running()
                next(history, None)
            except (ChildError, PostgresError):
                if not is_full(home) and time.monotonic() - full_at > RESTART_WINDOW:
                    raise
                report(f"The disk of {home} is full; free some space, and everything goes on.")
                supervisor.forget_stops()
                time.sleep(_FULL_DISK_PAUSE)
            time.sleep(1)


@contextmanager
def dagster_environment(settings: Settings) -> Iterator[dict[str, str]]:
    """The environment in which Dagster's programs find their instance and the same settings.

    The embedded server, if it is Dagster's database, is held until the ``with`` block ends.

    Raises:
        PostgresError: the embedded server cannot run.
        SettingsError: DAGSTER_HOME or DAGSTER_POSTGRES_URL cannot be used.
        sqlalchemy.exc.OperationalError: Dagster's database does not answer.
    """
    with ExitStack() as stack:
        url = settings.dagster_url
        if url is None:
            server = stack.enter_context(
                EmbeddedPostgres.hold(settings.home, sql_port=settings.sql_port)
            )
            server.create_database(DAGSTER_DATABASE)
            url = Secret(server.url(DAGSTER_DATABASE, driver="psycopg2"))
        else:
            # Dagster itself would retry for ten seconds and then print a traceback.
            server_version(url, "DAGSTER_POSTGRES_URL")
        env = {
            **ONE_HEAP,
            **_direct(os.environ),
            "DAGSTER_HOME": str(_dagster_home(settings.home)),
            "DAGSTER_POSTGRES_URL": url.reveal(),
            "VOICEAI_HOME": str(settings.home),
        }
        if settings.highlevel.is_sandbox and "VOICEAI_START_DATE" not in os.environ:
            env["VOICEAI_START_DATE"] = _sandbox_start(settings.home).isoformat()
        yield env


def _direct(env: Mapping[str, str]) -> dict[str, str]:
    """The environment in which programs reach each other on this machine without a proxy."""
    given = env.get("no_proxy") or env.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [given, "127.0.0.1", "localhost", "::1"]))
    return {**env, "no_proxy": hosts, "NO_PROXY": hosts}


def _dagster_home(home: Path) -> Path:
    """The folder of Dagster's instance: DAGSTER_HOME if it is set, else one in ``home`` with the
    ``dagster.yaml`` of this installation.

    Raises:
        SettingsError: DAGSTER_HOME is set to a folder without a ``dagster.yaml``.
    """
    ours = shipped("dagster.yaml")
    if given := os.environ.get("DAGSTER_HOME", "").strip():
        folder = Path(given).expanduser().absolute()
        if not (folder / "dagster.yaml").is_file():
            raise SettingsError(
                f"DAGSTER_HOME is {folder}, which has no dagster.yaml: Dagster would keep its runs "
                f"in SQLite there. Unset DAGSTER_HOME, or copy {ours} there."
            )
        return folder
    folder = home / "dagster"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o700)  # of an older version, in which others could read the logs of runs
    copy = folder / "dagster.yaml"
    if not copy.is_file() or copy.read_bytes() != ours.read_bytes():
        draft = folder / f"dagster.yaml.{os.getpid()}"
        draft.write_bytes(ours.read_bytes())
        draft.replace(copy)  # other processes may be reading it
    return folder


def _sandbox_start(home: Path) -> date:
    """The demo's first partition. All days since then are synced, the last week first. As no day is
    missing, "Failed and missing" in the UI selects the red day only."""
    path = home / "sandbox-start-date"
    if not path.exists():
        path.write_text(f"{datetime.now(UTC).date() - timedelta(days=7 * DEMO_WEEKS - 1)}\n")
    return date.fromisoformat(path.read_text().strip())


# The steps ---------------------------------------------------------------------------------------


def _migrate(engine: sa.Engine, *, embedded: bool, report: Callable[[str], None]) -> None:
    """Migrate the embedded database; an external one only if it is empty (decision 2)."""
    with engine.begin() as db:
        is_current = migrate.is_current(db)
        may_migrate = embedded or adoption.is_empty(db)
    if is_current and not embedded:
        return
    if not may_migrate:
        raise UpError(
            "The database needs a migration. Because it is not empty, nothing was changed. Review "
            "the SQL with `voiceai-pipeline migrate --sql`, then run `voiceai-pipeline migrate`."
        )
    if not is_current:
        report("Database: creating the tables")
    # Views and comments follow the code, even where no migration is pending.
    migrate.upgrade(engine)
    with engine.begin() as db:
        is_redacted = not stored_redaction.is_pending(db)
    if not is_redacted:
        report("Database: redacting what an older version stored; a large database takes minutes")
        stored_redaction.redact_again(engine)
    stored_values.store_once(engine)


def _allow_sql_tools(settings: Settings, engine: sa.Engine, report: Callable[[str], None]) -> None:
    """Let SQL tools in if VOICEAI_SQL_PORT is set. If that is impossible, only report why."""
    port = settings.sql_port
    if port is None:
        return
    if settings.database_url is not None:
        report("VOICEAI_SQL_PORT is ignored: it is for the embedded server")
        return
    with engine.begin() as db:
        obstacle = sql_access.obstacle(db, port)
        if obstacle is None:
            sql_access.allow(db, settings.home, port)
    report(f"SQL tools: {obstacle or sql_access.url(settings.home, port)}")


def _start_sandbox(
    settings: Settings, supervisor: Supervisor, report: Callable[[str], None]
) -> None:
    url = settings.highlevel.api_url
    port = urlsplit(url).port or 80
    check_port("127.0.0.1", port, f"VOICEAI_SANDBOX_PORT={port + 1} {START}")
    report("Sandbox: starting a local HighLevel, because HIGHLEVEL_CLIENT_ID is not set")
    argv = [sys.executable, "-m", "voiceai_pipeline.sandbox", "--port", str(port)]
    argv += ["--state-file", str(settings.home / "sandbox.json")]
    argv += ["--story-from", str(_sandbox_start(settings.home)), "--zone", settings.timezone.key]
    argv += ["--webhook-url", f"http://127.0.0.1:{settings.page.port}/webhooks/highlevel"]
    supervisor.start("sandbox", argv, os.environ)
    _wait_until(lambda: _answers(f"{url}/sandbox/state"), supervisor, "sandbox", seconds=60)


def _connect_demo_users(
    settings: Settings, pipeline: Pipeline, report: Callable[[str], None]
) -> None:
    # Imported late: an installation with a HighLevel app never loads the sandbox.
    from voiceai_pipeline.cli.demo_users import connect_demo_users

    try:
        connect_demo_users(pipeline, settings.highlevel.api_url, report)
    except (requests.RequestException, ValueError) as error:
        raise UpError(
            f"The sandbox could not connect the demo users ({type(error).__name__}). Start again; "
            f"if it fails again, see its log: {settings.home / 'logs' / 'sandbox.log'}"
        ) from error


def _start_pages_and_ui(
    settings: Settings,
    dagster: Dagster,
    supervisor: Supervisor,
    env: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    """Start the pages and Dagster's UI process side by side.

    The pages answer long before Dagster has loaded, and are useful without it.
    """
    page = settings.page
    report("Pages: starting")
    argv = [sys.executable, "-m", "voiceai_pipeline.web", "--dagster", dagster.url]
    supervisor.start("page", argv, env)
    report("Dagster: starting its UI")
    supervisor.start("webserver", _ui(urlsplit(dagster.url).port), env)
    _wait_until(lambda: _answers(f"{_local_url(page)}/health"), supervisor, "page", seconds=60)
    report(f"Pages: {page.url}")
    _wait_until(lambda: _is_loaded(dagster), supervisor, "webserver", seconds=150)


def _ui(port: int | None) -> list[str]:
    return [sys.executable, "-m", "voiceai_pipeline.defs.dagster_ui", *_WORKSPACE, f"--port={port}"]


def _backfill(
    settings: Settings, pipeline: Pipeline, dagster: Dagster, report: Callable[[str], None]
) -> None:
    """Request a backfill of those of the last days that were never tried; failed days are retried
    automatically."""
    today = datetime.now(pipeline.zone).date()
    untried = _untried(pipeline, today - timedelta(days=BACKFILL_DAYS - 1), today)
    if not untried:
        return
    report(f"Dagster: requesting a backfill of {len(untried)} days")
    try:
        dagster.backfill(untried, f"The last {BACKFILL_DAYS} days")
    except DagsterError as error:
        # No reason to stop: everything else runs, and the backfill can be started in the UI.
        report(
            f"{error} Then start the backfill in the UI: {settings.page.dagster_url}"
            "/assets/call_logs?view=partitions, Materialize."
        )


def _history(settings: Settings, pipeline: Pipeline, dagster: Dagster) -> Iterator[None]:
    """Request the demo's earlier weeks as soon as the last days were tried, so that these come
    first. The caller advances it once a second."""
    if not settings.highlevel.is_sandbox or "VOICEAI_START_DATE" in os.environ:
        return
    first = _sandbox_start(settings.home)
    while True:
        due = time.monotonic() + _HISTORY_PAUSE
        while time.monotonic() < due:
            yield
        with contextlib.suppress(PipelineError, DagsterError):
            today = datetime.now(pipeline.zone).date()
            recent = today - timedelta(days=BACKFILL_DAYS - 1)
            untried = _untried(pipeline, first, today)
            if not untried or untried[-1] < recent:
                if untried:
                    dagster.backfill(untried, f"The demo's last {DEMO_WEEKS} weeks")
                return


def _untried(pipeline: Pipeline, first: date, last: date) -> list[date]:
    """The days of a range, in order, for which a user who can be synced was never tried."""
    days = [first + timedelta(days=ahead) for ahead in range((last - first).days + 1)]
    return [status.day for status in pipeline.sync.report(days) if status.unread]


def _announce(settings: Settings, report: Callable[[str], None]) -> None:
    report("")
    report(f"Open     {settings.page.url}  (Dagster's UI: {settings.page.dagster_url})")
    if settings.highlevel.is_sandbox:
        report(f"Sandbox  {settings.highlevel.api_url}  (break, heal, revoke, pause there)")
    report("Ctrl-C stops everything.")
    report("")


def _is_loaded(dagster: Dagster) -> bool:
    try:
        return dagster.is_loaded()
    except LocationError as error:
        raise UpError(str(error)) from error


def _local_url(page: PageSettings) -> str:
    """The page's URL from this machine, without any proxy in front of it."""
    host = _WILDCARDS.get(page.host, page.host)
    return f"http://[{host}]:{page.port}" if ":" in host else f"http://{host}:{page.port}"


def _answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException), open_session() as session:
        return session.get(url, timeout=2).ok
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

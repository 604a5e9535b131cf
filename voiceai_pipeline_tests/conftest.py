"""Real parts for every test: an embedded PostgreSQL, a database of its own per test, the sandbox
over HTTP on loopback, and a clock that the test sets.
"""

import contextlib
import random
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import requests
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import HighLevelSettings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.cast import (
    DEMO_USERS,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    DemoUser,
)
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World

pytest_plugins = [
    "voiceai_pipeline_tests.support.alert_receivers",
    "voiceai_pipeline_tests.support.token_endpoint",
    "voiceai_pipeline_tests.support.token_fleet",
    "voiceai_pipeline_tests.support.product",
    "voiceai_pipeline_tests.support.chromium",
]


def pytest_configure() -> None:
    """Let the tests and what they start be stopped, also where they run in the background.

    A shell script's background job ignores SIGINT. Dagster copies that to SIGTERM after a run in
    this process, and every program that a test starts later would inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = (
    "test_operating.py",
    "cli/test_up.py",
    "web/test_browser.py",
    "defs/test_large_backfill.py",
    "cli/test_signals.py",
    "cli/test_supervisor.py",
    "connections/test_token_kills.py",
    "connections/test_token_races.py",
    "calls/test_location_queue.py",
    "test_soak.py",
    "test_benchmark.py",
)
"""Modules that take minutes: they start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long modules run first, the longest ahead."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))


KEYS = {"test": b"k" * 32}
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
REDIRECT_URI = "http://127.0.0.1:8791/oauth/callback"


_free_ports: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, handed out once only.

    It lies below those that the kernel hands out, so that no connection of another test takes it.
    """
    while True:
        port = random.randint(10_000, 30_000)  # noqa: S311 - any will do
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _free_ports:
                _free_ports.add(port)
                return port


class Clock:
    """The time, as the test says it; what sleeps on it moves it on."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the whole session."""
    home: Path = tmp_path_factory.mktemp("postgres")
    with EmbeddedPostgres.hold(home, durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """A migrated database to copy."""
    postgres.create_database("template_voiceai")
    engine = open_engine(Secret(postgres.url("template_voiceai")))
    migrate.upgrade(engine)
    engine.dispose()
    return "template_voiceai"


_numbers = count(1)


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[Secret]:
    """The URL of a database without tables, dropped after the test."""
    name = f"empty_{next(_numbers)}"
    postgres.create_database(name)
    yield Secret(postgres.url(name))
    postgres.drop_database(name)


@pytest.fixture
def database(postgres: EmbeddedPostgres, template: str) -> Iterator[Secret]:
    """The URL of a migrated database, dropped after the test."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name, template=template)
    yield Secret(postgres.url(name))
    postgres.drop_database(name)


@pytest.fixture
def engine(database: Secret) -> Iterator[sa.Engine]:
    engine = open_engine(database)
    yield engine
    engine.dispose()


@contextmanager
def counted(engine: sa.Engine) -> Iterator[list[str]]:
    """Collects the statements that are executed."""
    statements: list[str] = []

    def note(_db: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def vault() -> TokenVault:
    return TokenVault(KEYS)


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[RunningSandbox]:
    """A HighLevel without troubles and without rate limits, whose time is the test's."""
    with running(World(clock=clock), limits=False) as sandbox:
        yield sandbox


def highlevel_settings(url: str, api_version: str = "dated") -> HighLevelSettings:
    """The sandbox's app at ``url``."""
    return HighLevelSettings(
        client_id=SANDBOX_CLIENT_ID,
        client_secret=Secret(SANDBOX_CLIENT_SECRET),
        redirect_uri=REDIRECT_URI,
        auth_url=f"{url}/v2/oauth/chooselocation",
        token_url=f"{url}/oauth/token",
        api_url=url,
        api_version=api_version,
        is_sandbox=True,
    )


@pytest.fixture(params=["dated", "v3"])
def both_dialects(request: pytest.FixtureRequest) -> str:
    """For tests that must hold in either API version."""
    return str(request.param)


@pytest.fixture
def client(sandbox: RunningSandbox, clock: Clock) -> Iterator[HighLevelClient]:
    with open_client(sandbox.url, clock) as client:
        yield client


def open_client(url: str, clock: Clock, api_version: str = "dated") -> HighLevelClient:
    """A client whose retries cost simulated time only."""
    return HighLevelClient(
        highlevel_settings(url, api_version),
        retry=Retry(attempts=3),
        sleep=clock.sleep,
        token_timeout=2,
        read_timeout=2,
    )


@pytest.fixture
def tokens(engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock) -> Tokens:
    return Tokens(engine, vault, client, now=clock)


@pytest.fixture
def consent(engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock) -> Consent:
    return Consent(engine, vault, client, now=clock)


@pytest.fixture
def sync(engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock) -> Sync:
    return Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock)


DEMO = {user.business_name: user for user in DEMO_USERS}
"""The sandbox's users by name, such as ``DEMO["Harbor Dental"]``."""


@dataclass
class Connector:
    """Adds the sandbox's users to the database and connects them as a browser would."""

    engine: sa.Engine
    client: HighLevelClient
    consent: Consent
    browser: requests.Session = field(default_factory=requests.Session)
    users: Mapping[str, DemoUser] = field(default_factory=lambda: DEMO)

    def add(self, *names: str) -> list[UUID]:
        users = [self.users[name] for name in names or self.users]
        with self.engine.begin() as db:
            for user in users:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
        return [UUID(user.id) for user in users]

    def code(self, user: DemoUser) -> Secret:
        callback = authorize(self.browser, self.client.authorize_url("state"), user.installs_on)
        return Secret(parse_qs(urlsplit(callback).query)["code"][0])

    def __call__(self, name: str) -> Connection:
        (user_id,) = self.add(name)
        return self.consent.connect(user_id, self.code(self.users[name]))


@pytest.fixture
def connect(
    engine: sa.Engine, client: HighLevelClient, consent: Consent
) -> Iterator[Callable[[str], Connection]]:
    connector = Connector(engine, client, consent)
    yield connector
    connector.browser.close()

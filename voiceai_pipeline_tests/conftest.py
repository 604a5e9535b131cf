"""Real parts for every test: an embedded PostgreSQL, a database of its own per test, the sandbox
over HTTP on loopback, and a clock that the test sets.
"""

import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.compiled import open_compiler, use_compiled
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.memory import keep_files_in_memory

pytest_plugins = [
    "voiceai_pipeline_tests.support.alert_receivers",
    "voiceai_pipeline_tests.support.token_endpoint",
    "voiceai_pipeline_tests.support.token_fleet",
    "voiceai_pipeline_tests.support.product",
    "voiceai_pipeline_tests.support.wheel",
    "voiceai_pipeline_tests.support.running_product",
    "voiceai_pipeline_tests.support.order",
    "voiceai_pipeline_tests.support.chromium",
    "voiceai_pipeline_tests.support.supabase_js",
]


def pytest_configure() -> None:
    """Keep files in memory; let the tests be stopped, and what they start, in the background too.

    A shell script's background job ignores SIGINT. Dagster copies that to SIGTERM after a run in
    this process, and every program that a test starts later would inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_files_in_memory()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Let Hypothesis make its table of characters before there are workers: it keeps the table in
    ``.hypothesis``, and each of them would take two seconds to make it at the same time."""
    if not hasattr(session.config, "workerinput"):
        st.text().validate()


# A busy machine is slow without being wrong.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


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


@pytest.fixture(scope="session")
def compiler(postgres: EmbeddedPostgres) -> sa.Engine:
    """The engine that compiles the statements of all tests (``support/compiled.py``)."""
    return open_compiler(Secret(postgres.url("postgres")))


@pytest.fixture
def engine(database: Secret, compiler: sa.Engine) -> Iterator[sa.Engine]:
    engine = open_engine(database)
    use_compiled(engine, compiler)
    yield engine
    engine.dispose()


@pytest.fixture
def vault() -> TokenVault:
    return TokenVault(KEYS)


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[RunningSandbox]:
    """A HighLevel without troubles and without rate limits, whose time is the test's."""
    with running(World(clock=clock), limits=False) as sandbox:
        yield sandbox


@pytest.fixture(params=["dated", "v3"])
def both_dialects(request: pytest.FixtureRequest) -> str:
    """For tests that must hold in either API version."""
    return str(request.param)


@pytest.fixture
def patience() -> float:
    """Seconds that the client waits for an answer; few where the test's server does not answer."""
    return 30


@pytest.fixture
def client(sandbox: RunningSandbox, clock: Clock, patience: float) -> Iterator[HighLevelClient]:
    with open_client(sandbox.url, clock, timeout=patience) as client:
        yield client


@pytest.fixture
def tokens(engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock) -> Tokens:
    return Tokens(engine, vault, client, now=clock)


@pytest.fixture
def consent(engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock) -> Consent:
    return Consent(engine, vault, client, now=clock)


@pytest.fixture
def sync(engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock) -> Sync:
    return Sync(engine, tokens, client, ZoneInfo("UTC"), now=clock)


@pytest.fixture
def connect(
    engine: sa.Engine, client: HighLevelClient, consent: Consent
) -> Iterator[Callable[[str], Connection]]:
    connector = Connector(engine, client, consent)
    yield connector
    connector.browser.close()

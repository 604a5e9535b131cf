"""The pages with a real database and the sandbox in real time (``support/installation.py``)."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline.sandbox import server as sandbox_server
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.server import listen
from voiceai_pipeline.web.site import ACTOR, open_site
from voiceai_pipeline_tests.support.api_caller import Caller
from voiceai_pipeline_tests.support.compiled import use_compiled
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn
from voiceai_pipeline_tests.support.installation import API_KEY, HARBOR, Installation, Open, running
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.today import today_for


@pytest.fixture(scope="session")
def cleaner() -> Iterator[Executor]:
    """Stops servers while the next test starts."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def world() -> World:
    """A HighLevel in real time: browsers know no other."""
    return World()


@pytest.fixture
def sandbox(world: World, cleaner: Executor) -> Iterator[RunningSandbox]:
    stack = ExitStack()
    yield stack.enter_context(sandbox_server.running(world, limits=False))
    cleaner.submit(stack.close)


@pytest.fixture
def dagster() -> Iterator[DagsterStandIn]:
    with DagsterStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def open_page(
    database: Secret,
    sandbox: RunningSandbox,
    dagster: DagsterStandIn,
    compiler: sa.Engine,
    tmp_path: Path,
) -> Open:
    """Opens an installation, with environment variables that differ from the usual ones."""

    @contextmanager
    def opened(**more: str) -> Iterator[Installation]:
        today_for()  # the pages show days: none of them ends during a test
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        env = {
            "VOICEAI_HOME": str(tmp_path / "home"),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": KEYRING,
            "HIGHLEVEL_AUTH_URL": f"{sandbox.url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{sandbox.url}/oauth/token",
            "HIGHLEVEL_API_URL": sandbox.url,
            "VOICEAI_PAGE_PORT": str(port),
            "VOICEAI_DAGSTER_URL": dagster.url,
            "VOICEAI_API_KEY": API_KEY,
            **more,
        }
        settings = Settings.load(env)
        with open_pipeline(settings, actor=Actor(ACTOR)) as pipeline:
            use_compiled(pipeline.engine, compiler)
            with running(open_site(settings, pipeline), listener, sandbox, dagster) as installation:
                yield installation

    return opened


@pytest.fixture
def installation(open_page: Open) -> Iterator[Installation]:
    with open_page() as installation:
        yield installation


@pytest.fixture
def caller(installation: Installation) -> Caller:
    installation.add("Harbor Dental", "Maple Plumbing")
    return Caller(installation)


@pytest.fixture
def connected(caller: Caller) -> Iterator[Caller]:
    caller.installation.connect(HARBOR)
    return caller

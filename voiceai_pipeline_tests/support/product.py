"""The product on a real Dagster instance: dagster-postgres, real runs, the sandbox over HTTP.

Time is real here, because Dagster's partitions follow the clock of the machine.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import partitions
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.sandbox.cast import DEMO_USERS, SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.today import today_for

LOCATION = {".dagster/repository": "__repository__@voiceai_pipeline"}
"""The tag by which Dagster knows the code location of a run that it launched."""

NO_TAGS: Mapping[str, str] = {}

_numbers = count(1)


@dataclass
class Product:
    """Everything that runs in production, with the users of its sandbox.

    Attributes:
        today: the day of the test, which does not end before it (``support/today.py``).
    """

    pipeline: Pipeline
    sandbox: RunningSandbox
    instance: dg.DagsterInstance
    connect: Connector
    today: date

    @property
    def week(self) -> list[date]:
        """The last seven days that are over."""
        return [self.today - timedelta(days=ago) for ago in range(7, 0, -1)]

    @property
    def yesterday(self) -> date:
        return self.today - timedelta(days=1)

    @property
    def bad_day(self) -> date:
        """The demo's, one of the week."""
        return self.today - timedelta(days=3)

    def sync(self, days: list[date], **config: Any) -> dg.ExecuteInProcessResult:
        """Materialize days of call_logs in one run, as a backfill does."""
        return self.run(
            "sync_calls",
            tags=partitions.range_tags(days[0], days[-1]),
            run_config={"ops": {"call_logs": {"config": config}}},
        )

    def run(
        self, job: str, tags: Mapping[str, str] = NO_TAGS, **options: Any
    ) -> dg.ExecuteInProcessResult:
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, raise_on_error=False, tags={**LOCATION, **tags}, **options
        )

    def days(self, asset: str) -> set[date]:
        keys = self.instance.get_materialized_partitions(dg.AssetKey(asset))
        return {date.fromisoformat(key) for key in keys}

    @contextmanager
    def requests(self) -> Iterator[Counter[tuple[str, str | None]]]:
        """Counts the requests made inside the ``with``, by path and location."""
        counts: Counter[tuple[str, str | None]] = Counter()
        before = len(self.sandbox.requests)
        yield counts
        counts.update((r.path, r.location_id) for r in self.sandbox.requests[before:])

    def calls(self) -> list[tuple[Any, ...]]:
        query = "SELECT location_id, call_id, content_hash FROM call_logs ORDER BY 1, 2"
        with self.pipeline.engine.begin() as db:
            return [tuple(row) for row in db.execute(sa.text(query))]


@pytest.fixture
def world() -> World:
    """What the sandbox of ``product`` knows: the demo's twelve users."""
    return World()


@dataclass(frozen=True)
class Connected:
    """The demo's users, eleven of them connected: a database to copy and the sandbox's state."""

    template: str
    sandbox_state: str


@pytest.fixture(scope="session")
def connected(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Connected:
    """Every consent of the demo, given once per session."""
    name, world = "template_connected", World()
    postgres.create_database(name, template=template)
    with running(world, limits=False) as sandbox:
        home = tmp_path_factory.mktemp("connected")
        settings = Settings.load(_environment(home, postgres.url(name), "", sandbox.url))
        with open_pipeline(settings) as pipeline:
            connect = Connector(pipeline.engine, pipeline.client, pipeline.consent)
            connect.add()
            for user in DEMO_USERS:
                if user.role != "never_connected":
                    pipeline.consent.connect(UUID(user.id), connect.code(user))
            connect.browser.close()
    return Connected(name, world.dump())


@pytest.fixture(scope="session")
def dagster_template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with Dagster's own tables, to copy: creating them takes seconds."""
    name = "template_dagster"
    postgres.create_database(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_POSTGRES_URL", postgres.url(name, driver="psycopg2"))
        patch.setenv("VOICEAI_HOME", str(tmp_path_factory.mktemp("dagster")))
        with dg.DagsterInstance.from_config(str(PROJECT)):
            pass
    return name


@pytest.fixture
def dagster_database(postgres: EmbeddedPostgres, dagster_template: str) -> Iterator[str]:
    """The URL of a database with Dagster's tables, dropped after the test."""
    name = f"dagster_{next(_numbers)}"
    postgres.create_database(name, template=dagster_template)
    yield postgres.url(name, driver="psycopg2")
    postgres.drop_database(name)


@pytest.fixture
def product(
    world: World,
    database: Secret,
    dagster_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Product]:
    """All users added, none of them connected."""
    with opened(world, database.reveal(), dagster_database, tmp_path, monkeypatch) as product:
        product.connect.add()
        yield product


@pytest.fixture
def demo(
    connected: Connected,
    postgres: EmbeddedPostgres,
    dagster_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Product]:
    """Eleven users connected, with the troubles of the demo."""
    name = f"demo_{next(_numbers)}"
    postgres.create_database(name, template=connected.template)
    world = World()
    world.load(connected.sandbox_state)
    for user in DEMO_USERS:
        if user.role == "revoked":
            world.revoke(str(user.location_id))
        if user.role == "paused":
            world.pause(str(user.location_id))
    world.with_demo_troubles()
    with opened(world, postgres.url(name), dagster_database, tmp_path, monkeypatch) as product:
        yield product
    postgres.drop_database(name)


@contextmanager
def opened(
    world: World, database: str, dagster_database: str, home: Path, patch: pytest.MonkeyPatch
) -> Iterator[Product]:
    """The product at work.

    Args:
        database, dagster_database: URLs of migrated databases.
    """
    today = today_for()
    with running(world, limits=False) as sandbox:
        environment = _environment(home, database, dagster_database, sandbox.url)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        with (
            open_pipeline(Settings.load(os.environ)) as pipeline,
            dg.DagsterInstance.from_config(str(PROJECT)) as instance,
        ):
            connect = Connector(pipeline.engine, pipeline.client, pipeline.consent)
            connect.users = {user.business_name: user for user in world.users}
            yield Product(pipeline, sandbox, instance, connect, today)
            connect.browser.close()


def _environment(
    home: Path, database: str, dagster_database: str, sandbox_url: str
) -> dict[str, str]:
    return {
        "VOICEAI_HOME": str(home),
        "VOICEAI_DATABASE_URL": database,
        "VOICEAI_TOKEN_KEYS": KEYRING,
        "DAGSTER_POSTGRES_URL": dagster_database,
        "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
        "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
        "HIGHLEVEL_AUTH_URL": f"{sandbox_url}/v2/oauth/chooselocation",
        "HIGHLEVEL_TOKEN_URL": f"{sandbox_url}/oauth/token",
        "HIGHLEVEL_API_URL": sandbox_url,
    }

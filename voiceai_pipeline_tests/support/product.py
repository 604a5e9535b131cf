"""The product on a real Dagster instance: dagster-postgres, real runs, the sandbox over HTTP.

Time is real here, because Dagster's partitions follow the clock of the machine.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

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
from voiceai_pipeline_tests.conftest import Connector

LOCATION = {".dagster/repository": "__repository__@voiceai_pipeline"}
"""The tag by which Dagster knows the code location of a run that it launched."""

NO_TAGS: Mapping[str, str] = {}

_numbers = count(1)


@dataclass
class Product:
    """Everything that runs in production, with the users of its sandbox.

    Attributes:
        today: when the test began: the run of all tests may pass midnight.
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


@pytest.fixture
def product(
    world: World,
    postgres: EmbeddedPostgres,
    database: Secret,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Product]:
    name = f"dagster_{next(_numbers)}"
    postgres.create_database(name)
    with running(world, limits=False) as sandbox:
        environment = {
            "VOICEAI_HOME": str(tmp_path),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": "test:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
            "DAGSTER_POSTGRES_URL": postgres.url(name, driver="psycopg2"),
            "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
            "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
            "HIGHLEVEL_AUTH_URL": f"{sandbox.url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{sandbox.url}/oauth/token",
            "HIGHLEVEL_API_URL": sandbox.url,
        }
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.chdir(tmp_path)  # dagster.yaml keeps its files in a relative folder
        with (
            open_pipeline(Settings.load(os.environ)) as pipeline,
            dg.DagsterInstance.from_config(str(PROJECT)) as instance,
        ):
            connect = Connector(pipeline.engine, pipeline.client, pipeline.consent)
            connect.users = {user.business_name: user for user in world.users}
            connect.add()
            yield Product(pipeline, sandbox, instance, connect, datetime.now(UTC).date())
            connect.browser.close()
    postgres.drop_database(name)


@pytest.fixture
def demo(product: Product) -> Product:
    """Eleven users connected, with the troubles of the demo."""
    for user in DEMO_USERS:
        if user.role == "never_connected":
            continue
        product.connect(user.business_name)
        location = str(user.location_id)
        if user.role == "revoked":
            product.sandbox.world.revoke(location)
        if user.role == "paused":
            product.sandbox.world.pause(location)
    product.sandbox.world.with_demo_troubles()
    return product

"""The product under observation: its parts, with every logger at DEBUG and PostgreSQL logging every
bind value."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Final
from uuid import UUID

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.settings import SANDBOX_WEBHOOK_KEY, Settings
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.canary import highlevel
from voiceai_pipeline_tests.canary.canaries import CANARIES
from voiceai_pipeline_tests.canary.highlevel import CanaryHighLevel
from voiceai_pipeline_tests.canary.surfaces import Machine
from voiceai_pipeline_tests.support.dagster_runs import EXPIRE
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.receivers import running_hook
from voiceai_pipeline_tests.support.today import zone_of_a_product
from voiceai_pipeline_tests.support.up import own_servers

KEY: Final = "inner-key-0123456789abcdef"

_TALKATIVE: Final = {
    "log_statement": "all",
    "log_min_messages": "notice",
    "log_min_error_statement": "error",
    "log_error_verbosity": "default",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
}
"""As someone sets PostgreSQL who looks for a fault."""


_HEALED: Final = """
UPDATE api_keys SET is_active = true, connection_state = 'connected', connection_reason = NULL,
    next_attempt_at = NULL, lease_id = NULL, lease_expires_at = NULL, failed_attempts = 0
WHERE refresh_token IS NOT NULL
"""

_CLOSED: Final = """
UPDATE token_circuit SET failures = 0, reason = NULL, failing_since = NULL, opened_at = NULL,
    next_probe_at = NULL, replays_rest_until = NULL, last_user_id = NULL
"""


@dataclass
class Canaries:
    """The product under observation.

    Attributes:
        failures: the classes that occurred.
    """

    machine: Machine
    pipeline: Pipeline
    highlevel: CanaryHighLevel
    instance: dg.DagsterInstance
    today: date
    connect: Connector
    environment: dict[str, str]
    failures: set[FailureClass] = field(default_factory=set)

    @property
    def yesterday(self) -> date:
        return date.fromordinal(self.today.toordinal() - 1)

    def run(self, job: str, **options: object) -> None:
        """Run a job in this process, as a run's process does."""
        result = defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            **options,  # type: ignore[arg-type]
        )
        for event in result.all_events:
            if event.is_step_failure:
                self.machine.said.append(str(event.step_failure_data))

    def sync(self) -> None:
        """Sync yesterday; what failed is in ``failures`` afterwards."""
        day = str(self.yesterday)
        users = [user.id for user in DEMO_USERS]
        config = {"user_ids": users, "first": day, "last": day}
        # Days that are complete too: it is their re-read that fails.
        self.run("sync_users", run_config={"ops": {"read_user_days": {"config": config}}})
        found = self.ask("SELECT DISTINCT failure_class FROM sync_ledger")
        self.failures |= {FailureClass(one) for one in found if one}

    def refresh(self, name: str) -> None:
        try:
            self.pipeline.tokens.get_valid_token(UUID(DEMO[name].id))
        except PipelineError as error:
            self.failures.add(error.failure)
            logging.getLogger("canary").debug("failed", exc_info=True)

    def execute(self, statement: str) -> None:
        with self.pipeline.engine.begin() as db:
            db.execute(sa.text(statement))

    @property
    def noon(self) -> datetime:
        """Of yesterday."""
        return datetime.combine(self.yesterday, time(12), UTC)

    def heal(self) -> None:
        """Let every connection be as it was, with an expired token."""
        self.execute(_HEALED)
        self.execute(EXPIRE)
        self.execute(_CLOSED)

    def ask(self, query: str) -> list[str]:
        with self.pipeline.engine.begin() as db:
            return list(db.execute(sa.text(query)).scalars())


@contextmanager
def installed(
    postgres: EmbeddedPostgres, template: str, dagster_template: str, folder: Path
) -> Iterator[Canaries]:
    zone = zone_of_a_product()
    today = datetime.now(zone).date()
    folders = [folder / name for name in ("home", "temporary", "work", "dagster")]
    home, temporary, work, instance_folder = folders
    for one in folders:
        one.mkdir()
    urls = {}
    for name, copied in (("canary", template), ("canary_dagster", dagster_template)):
        postgres.create_database(name, template=copied)
        urls[name] = postgres.url(name)
        with psycopg.connect(_libpq(urls[name])) as db:
            for setting, value in _TALKATIVE.items():
                db.execute(f"ALTER DATABASE {name} SET {setting} TO '{value}'".encode())
            (data,) = db.execute("SHOW data_directory").fetchone() or ("",)
    configured = (PROJECT / "dagster.yaml").read_text()
    loggers = "python_logs:\n  managed_python_loggers:\n    - voiceai_pipeline"
    assert loggers in configured
    talkative = "python_logs:\n  python_log_level: DEBUG\n  managed_python_loggers:\n    - root"
    configured = configured.replace(loggers, talkative)
    # The one run of the daemon; what its sensors would start beside it takes minutes.
    configured = configured.replace("max_concurrent_runs: 4", "max_concurrent_runs: 1")
    (instance_folder / "dagster.yaml").write_text(configured.replace("limit: 3", "limit: 1"))
    world, page, inner = World(), free_port(), free_port()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        server = stack.enter_context(highlevel.running(world))
        hook = stack.enter_context(running_hook())
        environment = {
            **own_servers(urls["canary"], _psycopg2(urls["canary_dagster"]), server.url),
            "HIGHLEVEL_CLIENT_SECRET": CANARIES["client secret"],
            "HIGHLEVEL_WEBHOOK_KEYS": SANDBOX_WEBHOOK_KEY,
            "DAGSTER_HOME": str(instance_folder),
            "VOICEAI_HOME": str(home),
            "VOICEAI_DAGSTER_KEY": KEY,
            "VOICEAI_PAGE_PORT": str(page),
            "VOICEAI_PAGE_SECRET": CANARIES["password"],
            "VOICEAI_TIMEZONE": zone.key,
            "VOICEAI_START_DATE": str(date.fromordinal(today.toordinal() - 3)),
            "VOICEAI_ALERT_WEBHOOK_URL": hook.url,
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            "CANARY_UI": str(inner),
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        pipeline = stack.enter_context(open_pipeline(Settings.load(os.environ)))
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(instance_folder)))
        connect = Connector(pipeline.engine, pipeline.client, pipeline.consent)
        stack.callback(connect.browser.close)
        machine = Machine(
            ours=_libpq(urls["canary"]),
            dagsters=_libpq(urls["canary_dagster"]),
            home=home,
            temporary=temporary,
            work=work,
            server_log=Path(data).parent / "server.log",
            page=f"http://127.0.0.1:{page}",
        )
        machine.said = hook.texts
        yield Canaries(machine, pipeline, server, instance, today, connect, environment)
    for name in urls:
        postgres.drop_database(name)


def _libpq(url: str) -> str:
    return url.replace("+psycopg", "")


def _psycopg2(url: str) -> str:
    return url.replace("+psycopg", "+psycopg2")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what every logger of this process says to a file."""
    handler, root = logging.FileHandler(path), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    statements = logging.getLogger("sqlalchemy.engine")
    statements.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(before)
        statements.setLevel(logging.NOTSET)
        root.removeHandler(handler)
        handler.close()

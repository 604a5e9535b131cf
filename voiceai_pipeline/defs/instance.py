"""Dagster's instance on this machine, as ``dagster.yaml`` names it.

Every program that reads that file uses the same PostgreSQL for runs and events, even with an empty
environment. What runs print is in VOICEAI_HOME. Failures are ClickExceptions, which Dagster's
commands print as a sentence.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import click
import sqlalchemy as sa
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import DagsterPostgresException, retry_pg_connection_fn

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.database.engine import database_sentence
from voiceai_pipeline.defs.dagster_internals import (
    ConfigurableClassData,
    LocalArtifactStorage,
    LocalComputeLogManager,
)

DATABASE: Final = "dagster"
"""Dagster's database in the embedded server; ours is beside it."""

_LOCK: Final = 0x64616773746572  # "dagster": one creation of its tables at a time


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage, in the database that DAGSTER_POSTGRES_URL names; if unset, in the embedded
    server."""

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, _: Any) -> Self:
        with _sentences():
            settings = Settings.load(os.environ)
            given = settings.dagster_url
            url = given.reveal() if given else _embedded_url(settings.home, settings.sql_port)
            # Dagster creates its tables here, and two of its programs may start at the same time.
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with retry_pg_connection_fn(engine.connect) as db, db.begin():
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                return cls(url, inst_data=inst_data)


class Artifacts(LocalArtifactStorage):
    """Dagster's files, in VOICEAI_HOME."""

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, _: Any) -> Self:
        return cls(str(_folder()), inst_data=inst_data)


class ComputeLogs(LocalComputeLogManager):
    """What runs print, in VOICEAI_HOME."""

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, _: Any) -> Self:
        return cls(str(_folder() / "compute_logs"), inst_data=inst_data)


def _folder() -> Path:
    with _sentences():
        return Settings.load(os.environ).home / "dagster"


@functools.cache
def _embedded_url(home: Path, sql_port: int | None) -> str:
    """Dagster's database in the embedded server, which this process holds until it exits."""
    server = EmbeddedPostgres.hold(home, sql_port=sql_port)
    server.create_database(DATABASE)
    return server.url(DATABASE, driver="psycopg2")


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except (PostgresError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    except (DagsterPostgresException, sa.exc.DBAPIError) as error:
        # After its retries Dagster raises an exception of its own.
        cause = error if isinstance(error, sa.exc.DBAPIError) else error.__cause__
        if not isinstance(cause, sa.exc.DBAPIError):
            raise
        raise click.ClickException(database_sentence(cause)) from None

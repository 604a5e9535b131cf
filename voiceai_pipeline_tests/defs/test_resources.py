"""What Dagster is handed: a database that has its tables, or a sentence about what it lacks."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import stop
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import VERSION_TABLE
from voiceai_pipeline.defs import resources
from voiceai_pipeline_tests.support.keys import KEYRING

RESOURCES = (resources.database_resource, resources.pipeline_resource)
_VERSION: sa.ColumnClause[str] = sa.column("version_num")


@pytest.fixture
def own_database(empty_database: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Secret:
    """An external database without tables."""
    monkeypatch.setenv("VOICEAI_HOME", str(tmp_path))
    monkeypatch.setenv("VOICEAI_DATABASE_URL", empty_database.reveal())
    monkeypatch.setenv("VOICEAI_TOKEN_KEYS", KEYRING)
    return empty_database


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VOICEAI_HOME", str(tmp_path))
    yield
    stop(tmp_path)


@pytest.mark.usefixtures("embedded")
def test_the_embedded_database_is_migrated_whichever_command_comes_first() -> None:
    with (
        dg.build_resources({"database": resources.database_resource}) as opened,
        opened.database.begin() as db,
    ):
        assert connections.all_connections(db) == []
        db.execute(sa.update(sa.table(VERSION_TABLE, _VERSION)).values({_VERSION: "newer"}))
    # A database of newer code, which this process may still read while it is being replaced.
    with (
        dg.build_resources({"pipeline": resources.pipeline_resource}) as opened,
        opened.pipeline.engine.begin() as db,
    ):
        assert migrate.current(db) == "newer"


@pytest.mark.parametrize("resource", RESOURCES, ids=["of a sensor", "of a run"])
@pytest.mark.parametrize("revision", [None, "0001"], ids=["no tables", "older tables"])
def test_a_database_that_was_not_migrated_is_named_with_the_command(
    resource: dg.ResourceDefinition, revision: str | None, own_database: Secret
) -> None:
    engine = open_engine(own_database)
    if revision:
        migrate.upgrade(engine, revision)
    with (
        pytest.raises(dg.DagsterResourceFunctionError) as raised,
        dg.build_resources({"it": resource}),
    ):
        pass
    assert isinstance(raised.value.user_exception, dg.Failure)
    assert str(raised.value.user_exception.description).endswith(
        "Create them with: voiceai-pipeline migrate"
    )
    with engine.begin() as db:
        assert migrate.current(db) == revision  # an operator decides (decision 2)
    engine.dispose()

"""The product as a login that owns nothing, with Dagster's tables in the same database."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import app_role, migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.analysts import plain
from voiceai_pipeline_tests.support.product import Connected, Product, opened

LOGIN = "product_login"


@pytest.fixture
def product(
    connected: Connected,
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Product]:
    """All users connected; the owner has created the tables, of Dagster too, and migrated."""
    name = "of_an_application"
    postgres.create_database(name, template=connected.template)
    ours, dagsters = postgres.url(name), postgres.url(name, driver="psycopg2")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagsters)
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(PROJECT)):
        pass
    owner = open_engine(Secret(ours))
    migrate.upgrade(owner)
    owner.dispose()
    with psycopg.connect(plain(postgres.url("postgres")), autocommit=True) as db:
        db.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE voiceai_app".encode())
    world = World()
    world.load(connected.sandbox_state)
    urls = [url.replace("//postgres@", f"//{LOGIN}@") for url in (ours, dagsters)]
    with opened(world, *urls, tmp_path, monkeypatch) as product:
        yield product
    postgres.drop_database(name)
    with psycopg.connect(plain(postgres.url("postgres")), autocommit=True) as db:
        db.execute(f"DROP ROLE {LOGIN}".encode())


def test_the_product_and_dagster_run_with_a_login_that_owns_nothing(product: Product) -> None:
    with product.pipeline.engine.begin() as db:
        assert db.execute(sa.text("SELECT current_user")).scalar() == LOGIN
        assert app_role.standing(db)[0]
    assert LOGIN in os.environ["DAGSTER_POSTGRES_URL"]
    assert product.sync([product.yesterday]).success
    for job in ("refresh_tokens", "update_directory", "inspect_connections", "send_alerts"):
        assert product.run(job).success, job
    assert product.run("build_marts", partition_key=str(product.yesterday)).success
    assert product.days("call_logs") == {product.yesterday}
    with product.pipeline.engine.begin() as db:
        tables = ("call_logs", "token_events", "daily_call_metrics", "runs")
        for table in tables:
            count = db.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
            assert count > 0, table


def test_every_table_of_dagster_is_in_the_list(product: Product) -> None:
    with product.pipeline.engine.begin() as db:
        there = set(sa.inspect(db).get_table_names())
    assert there - app_role.VERBS.keys() - {"alembic_version"} <= set(app_role.DAGSTER_TABLES)

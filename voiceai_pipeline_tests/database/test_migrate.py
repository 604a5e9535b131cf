"""Migrations: of an empty database, of an older one, by processes at once, failing half way."""

import json
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from voiceai_pipeline.connections import alerts, history, key_file, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import adoption, migrate
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import VERSION_TABLE, metadata
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.schemas import everything, run

DATA = Path(__file__).parents[1] / "data"
processes = multiprocessing.get_context("forkserver")


processes.set_forkserver_preload(["voiceai_pipeline_tests.support.token_processes", __name__])


def test_an_empty_database_gets_the_tables_that_the_code_sees(empty: sa.Engine) -> None:
    with empty.connect() as db:
        assert adoption.is_empty(db)
        assert not migrate.is_current(db)
    migrate.upgrade(empty)
    with empty.connect() as db:
        assert migrate.is_current(db)
        assert not adoption.is_empty(db)
        context = MigrationContext.configure(
            db,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "include_object": lambda _, name, *__: name != VERSION_TABLE,
            },
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("release", sorted(DATA.glob("schema-*.sql")), ids=lambda path: path.stem)
def test_a_database_of_a_released_version_is_upgraded_with_the_views_that_analysts_use(
    empty: sa.Engine, release: Path
) -> None:
    with empty.begin() as db:
        db.exec_driver_sql(release.read_text())
        db.exec_driver_sql("INSERT INTO public.users (business_name) VALUES ('Ada')")
    empty.dispose()  # the dump has set the search path of its session
    migrate.upgrade(empty)
    with empty.connect() as db:
        assert migrate.is_current(db)
        for view in VIEWS:
            found = db.execute(sa.text(f"SELECT * FROM {view.full_name}"))  # noqa: S608
            assert list(found.keys()) == list(view.columns)


@pytest.mark.parametrize(
    "kept", sorted(DATA.glob("installation-*.json")), ids=lambda path: path.stem
)
def test_an_installation_of_a_released_version_keeps_its_tokens_its_key_and_its_pairs_on_disk(
    empty: sa.Engine, client: HighLevelClient, clock: Clock, tmp_path: Path, kept: Path
) -> None:
    """As that version's own program has written them: one user's newest pair is on disk only."""
    had = json.loads(kept.read_text())
    (tmp_path / "spool").mkdir()
    for name, text in had["spool"].items():
        (tmp_path / "spool" / name).write_text(text)
    (tmp_path / "token.key").touch(mode=0o600)
    (tmp_path / "token.key").write_text(had["token.key"])
    with empty.begin() as db:
        schema = kept.with_name(kept.name.replace("installation", "schema")).with_suffix(".sql")
        db.exec_driver_sql(schema.read_text())
        for row in had["api_keys"]:
            db.execute(sa.text("INSERT INTO public.users (id) VALUES (:user_id)"), row)
            db.execute(
                sa.text(
                    "INSERT INTO public.api_keys (id, user_id, service, location_id, is_active, "
                    "connection_state, token_version, access_token, refresh_token, "
                    "token_expires_at) VALUES (:id, :user_id, 'highlevel', 'Loc', true, "
                    "'connected', :token_version, :access_token, :refresh_token, :ends)"
                ),
                row | {"ends": clock.now + timedelta(hours=1)},
            )
    empty.dispose()
    migrate.upgrade(empty)

    vault = TokenVault(key_file.read(tmp_path / "token.key"))
    spool = Spool(tmp_path / "spool", vault)
    tokens = Tokens(empty, vault, client, spool=spool, now=clock)
    first, second = (UUID(row["user_id"]) for row in had["api_keys"])
    assert tokens.get_valid_token(first) == Secret("at-of-the-spool")
    assert tokens.get_valid_token(second) == Secret("at-of-user-2")
    assert list(spool.waiting()) == []
    with empty.begin() as db:
        row = token_row.read(db, first, clock.now)
        assert row is not None
        assert row.version == had["api_keys"][0]["token_version"] + 1
        assert row.token(vault, "refresh_token") == Secret("rt-of-the-spool")
        assert [e.event for e in history.of_user(db, first)] == [TokenEvent.RESTORED]


def test_a_connection_from_before_the_audit_log_is_refreshed_in_time_and_alerted(
    empty: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock
) -> None:
    migrate.upgrade(empty, "0001")
    user_id, ends_at = UUID(int=1), clock.now + timedelta(minutes=31)
    with empty.begin() as db:
        connections.add_user(db, user_id, business_name="Ada")
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, refresh_token, access_token, "
                "location_id, is_active, connection_state, token_version, token_expires_at) "
                "VALUES (gen_random_uuid(), :id, 'highlevel', 'INVENTED', 'INVENTED', 'Loc', true, "
                "'connected', 7, :ends)"
            ),
            {"id": user_id, "ends": ends_at},
        )
        assert not migrate.is_current(db)
    migrate.upgrade(empty)
    with empty.begin() as db:
        (connection,) = connections.all_connections(db, now=clock.now)
        assert (connection.state, connection.token_version) == (ConnectionState.CONNECTED, 7)
        assert connection.refreshed_at is None
        assert connections.due_for_refresh(db, clock.now) == []
        assert len(connections.due_for_refresh(db, clock.now + timedelta(minutes=1))) == 1
    clock.now = ends_at
    with pytest.raises(PipelineError):
        Tokens(empty, vault, client, now=clock).get_valid_token(user_id)
    with empty.begin() as db:
        assert [e.event for e in history.of_user(db, user_id)] == [TokenEvent.REFRESH_FAILED]
        assert [n.moment for n in alerts.pending(db, "test")] == ["opened"]


def test_migrating_twice_changes_nothing(empty: sa.Engine) -> None:
    migrate.upgrade(empty)
    once = everything(empty)
    migrate.upgrade(empty)
    assert everything(empty) == once


def test_the_printed_sql_makes_the_same_schema(empty: sa.Engine, engine: sa.Engine) -> None:
    with empty.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        driver = db.connection.driver_connection
        assert driver is not None
        driver.execute(migrate.upgrade_sql())
    assert everything(empty) == everything(engine)
    with empty.connect() as db:
        assert migrate.is_current(db)
    migrate.upgrade(empty)
    assert everything(empty) == everything(engine)


def migrate_when_all_are_there(url: str, barrier: Barrier) -> None:
    engine = open_engine(Secret(url))
    barrier.wait(120)
    migrate.upgrade(engine)
    engine.dispose()


def test_processes_that_migrate_at_once_make_one_schema(
    empty: sa.Engine, empty_database: Secret, engine: sa.Engine
) -> None:
    barrier = processes.Barrier(4)
    members = [
        processes.Process(
            target=migrate_when_all_are_there, args=(empty_database.reveal(), barrier)
        )
        for _ in range(4)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(60)
        assert member.exitcode == 0
        member.close()
    assert everything(empty) == everything(engine)


def test_dagsters_own_version_table_is_not_touched(empty: sa.Engine) -> None:
    run(
        empty,
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('dagsters')",
    )
    migrate.upgrade(empty)
    with empty.connect() as db:
        found = db.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    assert found == ["dagsters"]


def test_a_migration_that_fails_half_way_leaves_nothing(empty: sa.Engine) -> None:
    # An index of that name is no known obstacle; PostgreSQL fails on it half way.
    run(empty, "CREATE TABLE other (a int)", "CREATE INDEX call_logs_agent_id_idx ON other (a)")
    before = everything(empty)
    with pytest.raises(sa.exc.SQLAlchemyError):
        migrate.upgrade(empty)
    assert everything(empty) == before


def test_the_search_path_decides_which_tables_are_used(empty: sa.Engine) -> None:
    run(empty, "CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.call_logs (id integer)")
    migrate.upgrade(empty)
    check: Callable[[sa.Connection], bool] = migrate.is_current
    with empty.connect() as db:
        assert check(db)

"""What the application's login may do to every table, found out by trying it."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import app_role, grants, migrate
from voiceai_pipeline.database.app_role import VERBS
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import VERSION_TABLE, metadata
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline_tests.support.analysts import connect_as, is_allowed, plain, run
from voiceai_pipeline_tests.support.privileges import allowed

RUNNER = "runner"


@pytest.fixture(scope="module", autouse=True)
def runner(postgres: EmbeddedPostgres, template: str) -> Iterator[None]:
    """The login of an application."""
    with psycopg.connect(plain(postgres.url("postgres")), autocommit=True) as db:
        db.execute(f"CREATE ROLE {RUNNER} LOGIN IN ROLE {grants.APP}".encode())
        yield
        db.execute(f"DROP ROLE {RUNNER}".encode())


def test_the_application_may_do_to_every_table_what_is_listed_and_no_more(
    database: Secret,
) -> None:
    assert VERBS.keys() == {*metadata.tables, VERSION_TABLE}
    tables = {("public", name, verb) for name, verbs in VERBS.items() for verb in verbs}
    # PostgreSQL lets who may write a table lock it.
    writable = {name for name, verbs in VERBS.items() if "UPDATE" in verbs}
    tables |= {("public", name, "LOCK") for name in writable}
    views = {(SCHEMA, view.name, "SELECT") for view in VIEWS}
    assert allowed(RUNNER, database) == tables | views


def test_the_history_cannot_be_rewritten_in_any_way(database: Secret) -> None:
    with connect_as(RUNNER, database) as db:
        assert is_allowed(
            db, sql.SQL("INSERT INTO token_events (at, event, actor) VALUES (now(), 'x', 'y')")
        )
        for statement in (
            "UPDATE token_events SET actor = 'x'",
            "DELETE FROM token_events",
            "TRUNCATE token_events",
            "ALTER TABLE token_events DISABLE TRIGGER ALL",
            "ALTER TABLE token_events DISABLE TRIGGER USER",
            "DROP TRIGGER token_events_are_only_added ON token_events",
            "ALTER TABLE token_events OWNER TO runner",
            "DROP TABLE token_events",
            "ALTER TABLE api_keys ADD COLUMN mine text",
            "CREATE TABLE public.mine (a int)",
            "CREATE TABLE voiceai.mine (a int)",
            "CREATE OR REPLACE FUNCTION token_events_are_only_added() RETURNS trigger "
            "LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER mine BEFORE INSERT ON token_events EXECUTE FUNCTION "
            "token_events_are_only_added()",
            "CREATE RULE mine AS ON INSERT TO token_events DO INSTEAD NOTHING",
            "SET session_replication_role = replica",
            "SET ROLE postgres",
            "CREATE ROLE mine",
            "UPDATE voiceai_alembic_version SET version_num = '0001'",
        ):
            assert not is_allowed(db, sql.SQL(statement)), statement


OWNED = """
SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE r.rolname IN ('runner', 'voiceai_app') AND d.deptype = 'o'
"""
POWERS = """
SELECT rolname FROM pg_roles WHERE rolname IN ('runner', 'voiceai_app')
AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
"""
BEYOND = """
SELECT grantee::regrole::text FROM pg_class c, aclexplode(c.relacl)
WHERE c.relnamespace = 'public'::regnamespace AND grantee = 'voiceai_app'::regrole
  AND (is_grantable OR privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
"""
DEFINERS = """
SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace NOT IN
('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
AND NOT (provolatile = 's' AND pronargs = 0 AND pronamespace = 'voiceai'::regnamespace)
"""


def test_the_catalog_shows_nothing_owned_no_power_and_no_way_around(database: Secret) -> None:
    with psycopg.connect(plain(database.reveal())) as db:
        assert db.execute(OWNED.encode()).fetchone() == (0,)
        for query in (POWERS, BEYOND, DEFINERS):
            assert db.execute(query.encode()).fetchall() == []


def test_migrating_again_takes_back_what_was_granted_by_hand(database: Secret) -> None:
    run(database, f"GRANT UPDATE, TRIGGER ON token_events TO {grants.APP}")
    engine = open_engine(database)
    migrate.upgrade(engine)
    engine.dispose()
    with connect_as(RUNNER, database) as db:
        assert not is_allowed(db, sql.SQL("UPDATE token_events SET actor = 'x' WHERE false"))


def test_it_is_said_what_a_login_gives_up_or_lacks(database: Secret) -> None:
    url = database.reveal()
    for login, prepare, fine, said in (
        (RUNNER, "SELECT 1", True, "runner can change neither the tables nor the history"),
        ("postgres", "SELECT 1", False, "the login postgres may do everything"),
        (RUNNER, "GRANT CREATE ON SCHEMA public TO PUBLIC", False, "may create tables beside ours"),
        (RUNNER, "REVOKE SELECT ON users FROM voiceai_app", False, "lacks rights on users"),
    ):
        run(database, prepare)
        engine = open_engine(Secret(url.replace("//postgres@", f"//{login}@")))
        with engine.begin() as db:
            is_fine, text = app_role.standing(db)
        engine.dispose()
        assert (is_fine, said in text) == (fine, True), text

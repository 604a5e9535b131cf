"""What analysts may read and what they may not, found out by connecting as them."""

import re
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import adoption, grants, migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import VERSION_TABLE, metadata
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline_tests.support.analysts import (
    CALLER,
    READS,
    ROLES,
    TOKEN,
    add_call,
    add_connection,
    connect_as,
    is_allowed,
    plain,
    read,
    run,
)
from voiceai_pipeline_tests.support.privileges import allowed, attempts, relations


def only_the_views_of(who: str) -> set[tuple[str, str, str]]:
    return {(SCHEMA, name, "SELECT") for name in READS[who]}


@pytest.mark.parametrize("who", ROLES)
def test_an_analyst_can_read_their_views_and_do_nothing_else_to_anything(
    who: str, database: Secret, logins: None
) -> None:
    found = relations(database)
    assert {r.name for r in found if r.schema == "public" and r.kind == "r"} == {
        *metadata.tables,
        VERSION_TABLE,
    }
    assert {r.name for r in found if r.schema == SCHEMA} == {view.name for view in VIEWS}
    assert allowed(who, database) == only_the_views_of(who)


COLUMNS = """
SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
  AND NOT a.attisdropped
  AND has_column_privilege(a.attrelid, a.attnum, 'SELECT,INSERT,UPDATE,REFERENCES')
"""


FUNCTIONS = """
SELECT p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace IN ('public'::regnamespace, 'voiceai'::regnamespace)
  AND has_function_privilege(p.oid, 'EXECUTE')
"""


@pytest.mark.parametrize("who", ROLES)
def test_an_analyst_can_create_nothing_call_only_what_views_call_and_become_no_other_role(
    who: str, database: Secret, logins: None
) -> None:
    with connect_as(who, database) as db:
        assert db.execute(COLUMNS.encode()).fetchone() == (0,)
        # A view calls its functions with its reader's rights; they show what the view shows.
        called = ["voiceai.syncs_of_views()", "voiceai.users_of_views()"]
        granted = [] if who == "eve" else [(name,) for name in called]
        assert sorted(db.execute(FUNCTIONS.encode()).fetchall()) == granted
        for statement in (
            "CREATE TABLE public.mine (a int)",
            "CREATE VIEW voiceai.mine AS SELECT 1",
            "CREATE SCHEMA mine",
            "SET ROLE postgres",
            "CREATE ROLE mine",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            assert not is_allowed(db, sql.SQL(statement)), statement


def test_migrating_again_revokes_manual_grants(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("GRANT SELECT ON api_keys, call_logs TO voiceai_analyst")
        db.exec_driver_sql("GRANT INSERT ON ALL TABLES IN SCHEMA voiceai TO voiceai_analyst")
        db.exec_driver_sql("REVOKE SELECT ON voiceai.calls FROM voiceai_analyst")

    migrate.upgrade(engine)

    assert allowed("ada", database) == only_the_views_of("ada")


def test_supabases_web_roles_see_nothing_of_ours(empty_database: Secret) -> None:
    """On Supabase, web pages may access everything new in public by default."""
    engine = open_engine(empty_database)
    with engine.begin() as db:
        for role in ("anon", "authenticated"):
            db.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
            for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
                db.exec_driver_sql(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {role}")
    try:
        migrate.upgrade(engine)
        for role in ("anon", "authenticated"):
            with connect_as(role, empty_database) as db:
                seen = {
                    relation.name
                    for relation in relations(empty_database)
                    if any(is_allowed(db, one) for one in attempts(relation).values())
                }
                assert db.execute(FUNCTIONS.encode()).fetchall() == []
            # The source system's tables, whose grants we leave alone.
            assert seen == {"users", "api_keys", "sync_status"}
    finally:
        with engine.begin() as db:
            for role in ("anon", "authenticated"):
                db.exec_driver_sql(f"DROP OWNED BY {role}")
                db.exec_driver_sql(f"DROP ROLE {role}")
        engine.dispose()


def test_content_needs_the_second_role_and_tokens_are_never_visible(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        add_connection(db, 1, "Ash")
        add_call(db, "call1")

    def seen_by(who: str) -> str:
        views = sorted(READS[who])
        return str([read(who, database, f"SELECT * FROM voiceai.{view}") for view in views])  # noqa: S608

    assert "call1" in seen_by("ada")
    assert CALLER not in seen_by("ada")
    (contents,) = read("bea", database, "SELECT * FROM voiceai.call_contents")
    assert {name for name, value in contents.items() if CALLER in str(value)} == contents.keys() - {
        "location_id",
        "call_id",
        "started_at",
    }
    assert TOKEN not in seen_by("bea")


@pytest.fixture
def plain_owner(postgres: EmbeddedPostgres, empty_database: Secret) -> Iterator[Secret]:
    """The URL of a database whose user owns the schema public, and may do nothing beyond it."""
    server = plain(postgres.url("postgres"))
    with psycopg.connect(server, autocommit=True) as db:
        db.execute("CREATE ROLE tenant LOGIN")
        for role in grants.ROLES:
            db.execute(f"ALTER ROLE {role} RENAME TO {role}_aside".encode())
    with psycopg.connect(plain(empty_database.reveal())) as db:
        db.execute("ALTER SCHEMA public OWNER TO tenant")
    yield Secret(empty_database.reveal().replace("//postgres@", "//tenant@"))
    with psycopg.connect(plain(empty_database.reveal())) as db:
        db.execute("DROP OWNED BY tenant CASCADE")
        for role in grants.ROLES:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    with psycopg.connect(server, autocommit=True) as db:
        for role in grants.ROLES:
            db.execute(f"ALTER ROLE {role}_aside RENAME TO {role}".encode())
        db.execute("DROP ROLE tenant")


def test_without_the_right_to_create_roles_or_schemas_the_rest_works(
    plain_owner: Secret, empty_database: Secret
) -> None:
    engine = open_engine(plain_owner)
    with pytest.raises(
        migrate.IncompatibleDatabaseError,
        match=r'run: CREATE SCHEMA voiceai AUTHORIZATION "tenant";$',
    ):
        migrate.upgrade(engine)
    with engine.begin() as db:
        assert adoption.is_empty(db)
    run(empty_database, 'CREATE SCHEMA voiceai AUTHORIZATION "tenant"')

    migrate.upgrade(engine)

    with engine.begin() as db:
        missing = grants.missing_roles(db)
        assert migrate.is_current(db)
        assert db.exec_driver_sql("SELECT count(*) FROM voiceai.calls").scalar_one() == 0
    assert missing == list(grants.ROLES)
    said = grants.missing_roles_text(missing)
    run(empty_database, said.partition("run: ")[2].partition(" Then")[0])
    migrate.upgrade(engine)
    engine.dispose()
    with psycopg.connect(plain(empty_database.reveal())) as db:
        db.execute("SET ROLE voiceai_analyst")
        assert db.execute("SELECT count(*) FROM voiceai.calls").fetchone() == (0,)
        assert not is_allowed(db, sql.SQL("SELECT FROM voiceai.call_contents"))


def test_a_reader_of_one_location_sees_it_and_nothing_else(
    engine: sa.Engine, database: Secret
) -> None:
    """As decision 36 describes it, word for word."""
    with engine.begin() as db:
        for number, location in enumerate(("Loc1", "Loc2"), 1):
            add_connection(db, number, f"Owner of {location}", location_id=location)
            add_call(db, f"call at {location}", location)
    (decision,) = (PROJECT / "docs" / "decisions").glob("*-no-row-security-of-ours.md")
    (recipe,) = re.findall(r"```sql\n(.*?)```", decision.read_text(), re.DOTALL)
    run(database, recipe.replace("LOCATION_ID", "Loc1"))
    try:
        (seen,) = read("harbor_analyst", database, "SELECT * FROM harbor.calls")
        assert seen["call_id"] == "call at Loc1"
        with connect_as("harbor_analyst", database) as db:
            for statement in (
                "SELECT FROM voiceai.calls",
                "SELECT FROM voiceai.users_of_views()",
                "SELECT FROM call_logs",
                "CREATE VIEW harbor.mine AS SELECT 1",
                "CREATE OR REPLACE VIEW harbor.calls AS SELECT 1",
            ):
                assert not is_allowed(db, sql.SQL(statement)), statement
    finally:
        run(database, "DROP OWNED BY harbor_analyst; DROP ROLE harbor_analyst")

"""What analysts read with a tool of their own, and all that they cannot: by connecting as them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors, sql

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import FailureClass, for_user
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import grants, migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import api_keys, call_logs, metadata, sync_ledger
from voiceai_pipeline.database.views import MARTS, SCHEMA, VIEWS

ROLES = {"eve": (), "ada": (grants.ANALYST,), "bea": grants.ROLES}
"""Logins of people: a stranger, an analyst, and one who may read what was said too."""

READS = {
    "eve": set[str](),
    "ada": {view.name for view in VIEWS if not view.is_content},
    "bea": {view.name for view in VIEWS},
}
VERBS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
CALLER = "Ottoline Canary, +15550190909, wants a haircut"
TOKEN = "canary-token"
STARTED = datetime(2026, 11, 18, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def logins(postgres: EmbeddedPostgres, template: str) -> Iterator[None]:
    with psycopg.connect(plain(postgres.url("postgres")), autocommit=True) as db:
        for name, granted in ROLES.items():
            db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
            for role in granted:
                db.execute(
                    sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name))
                )
        yield
        for name in ROLES:
            db.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def connect_as(who: str, database: Secret) -> psycopg.Connection[Any]:
    url = plain(database.reveal()).replace("//postgres@", f"//{who}@")
    return psycopg.connect(url, autocommit=True)


# What they cannot do -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Relation:
    """Something of pg_class outside PostgreSQL's own schemas."""

    oid: int
    schema: str
    name: str
    kind: str
    column: str | None

    @property
    def quoted(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text,
       (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum LIMIT 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


def relations(database: Secret) -> list[Relation]:
    with psycopg.connect(plain(database.reveal())) as db:
        return [Relation(*row) for row in db.execute(RELATIONS)]


def attempts(relation: Relation) -> dict[str, sql.Composable]:
    """Each verb as a statement that changes nothing where it is allowed."""
    table, column = relation.quoted, sql.Identifier(relation.column or "")
    if relation.kind == "S":
        return {
            "SELECT": sql.SQL("SELECT last_value FROM {}").format(table),
            "USAGE": sql.SQL("SELECT nextval({})").format(sql.Literal(table.as_string())),
        }
    reading = {"SELECT": sql.SQL("SELECT * FROM {} LIMIT 0").format(table)}
    if relation.kind == "v":
        return reading
    return reading | {
        "INSERT": sql.SQL(
            "INSERT INTO {0} OVERRIDING SYSTEM VALUE SELECT * FROM {0} WHERE false"
        ).format(table),
        "UPDATE": sql.SQL("UPDATE {0} SET {1} = DEFAULT WHERE false").format(table, column),
        "DELETE": sql.SQL("DELETE FROM {} WHERE false").format(table),
        "TRUNCATE": sql.SQL("TRUNCATE {}").format(table),
        "LOCK": sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table),
    }


def is_allowed(db: psycopg.Connection[Any], statement: sql.Composable) -> bool:
    try:
        with db.transaction(force_rollback=True):
            db.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    return True


@pytest.mark.parametrize("who", ROLES)
def test_an_analyst_can_read_their_views_and_do_nothing_else_to_anything(
    who: str, database: Secret, logins: None
) -> None:
    found = relations(database)
    assert {r.name for r in found if r.schema == "public" and r.kind == "r"} == {
        *metadata.tables,
        migrate.VERSION_TABLE,
    }
    assert {r.name for r in found if r.schema == SCHEMA} == {view.name for view in VIEWS}
    allowed: set[tuple[str, str, str]] = set()
    with connect_as(who, database) as db:
        for relation in found:
            for verb, statement in attempts(relation).items():
                if is_allowed(db, statement):
                    allowed.add((relation.schema, relation.name, verb))
            for verb in VERBS if relation.kind != "S" else ():
                said = db.execute(
                    "SELECT has_table_privilege(%s::oid, %s)", (relation.oid, verb)
                ).fetchone()
                if said == (True,):
                    allowed.add((relation.schema, relation.name, verb))
    assert allowed == {(SCHEMA, name, "SELECT") for name in READS[who]}


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
def test_an_analyst_can_make_nothing_call_nothing_and_become_nobody(
    who: str, database: Secret, logins: None
) -> None:
    with connect_as(who, database) as db:
        assert db.execute(COLUMNS.encode()).fetchone() == (0,)
        assert db.execute(FUNCTIONS.encode()).fetchall() == []
        for statement in (
            "CREATE TABLE public.mine (a int)",
            "CREATE VIEW voiceai.mine AS SELECT 1",
            "CREATE SCHEMA mine",
            "SET ROLE postgres",
            "CREATE ROLE mine",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            assert not is_allowed(db, sql.SQL(statement)), statement


def test_migrating_again_takes_back_what_was_granted_by_hand(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("GRANT SELECT ON api_keys, call_logs TO voiceai_analyst")
        db.exec_driver_sql("GRANT INSERT ON ALL TABLES IN SCHEMA voiceai TO voiceai_analyst")
        db.exec_driver_sql("REVOKE SELECT ON voiceai.calls FROM voiceai_analyst")

    migrate.upgrade(engine)

    test_an_analyst_can_read_their_views_and_do_nothing_else_to_anything("ada", database, logins)


def test_the_roles_of_web_pages_see_nothing_of_ours(empty_database: Secret) -> None:
    """On Supabase whatever is made in public is open to the key that web pages carry."""
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
            # The source system's own, whose rights are its affair.
            assert seen == {"users", "api_keys", "sync_status"}
    finally:
        with engine.begin() as db:
            for role in ("anon", "authenticated"):
                db.exec_driver_sql(f"DROP OWNED BY {role}")
                db.exec_driver_sql(f"DROP ROLE {role}")
        engine.dispose()


# What they read ----------------------------------------------------------------------------------


def add_call(db: sa.Connection, call_id: str, location: str = "Loc1", **more: Any) -> None:
    content = {"from_number": CALLER, "contact_id": CALLER, "message_id": CALLER}
    db.execute(
        sa.insert(call_logs).values(
            {
                "location_id": location,
                "call_id": call_id,
                "agent_id": "agent1",
                "started_at": STARTED,
                "duration_seconds": 61.5,
                "is_trial": False,
                "summary": CALLER,
                "transcript": CALLER,
                "extracted_data": {"name": CALLER},
                "translation": {"text": CALLER},
                "executed_call_actions": [
                    {"actionType": "SMS", "actionName": CALLER},
                    {"actionType": "CALL_TRANSFER"},
                ],
                "raw": {"all": CALLER},
                "content_hash": b"h",
                "first_seen_at": STARTED,
                "last_changed_at": STARTED,
                **content,
                **more,
            }
        )
    )


def add_connection(db: sa.Connection, number: int, name: str, **values: Any) -> UUID:
    user_id = UUID(int=number)
    connections.add_user(db, user_id, business_name=name)
    given = {"connection_state": "connected", "location_id": "Loc1", "is_active": True, **values}
    db.execute(
        sa.insert(api_keys).values(
            id=UUID(int=number + 100),
            user_id=user_id,
            service="highlevel",
            access_token=TOKEN,
            refresh_token=TOKEN,
            **given,
        )
    )
    return user_id


def read(who: str, database: Secret, query: str) -> list[dict[str, Any]]:
    with connect_as(who, database) as db:
        rows = db.cursor(row_factory=psycopg.rows.dict_row)
        return rows.execute(query.encode()).fetchall()


def test_users_who_share_a_location_both_see_its_calls_and_only_those(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        add_connection(db, 1, "Ash")
        add_connection(db, 2, "Birch")
        add_connection(db, 3, "Cedar", location_id="Loc2", location_timezone="Europe/Berlin")
        add_call(db, "call1")
        add_call(db, "call2", "Loc2")
        add_call(db, "trial", is_trial=True)
        add_call(db, "unknown", is_trial=None)
        add_call(db, "gone", missing_since=STARTED)
        db.exec_driver_sql(
            "INSERT INTO locations (location_id, name, timezone, first_seen_at, last_seen_at) "
            "VALUES ('Loc1', 'Main Street', 'America/New_York', now(), now())"
        )
        db.exec_driver_sql(
            "INSERT INTO agents (location_id, agent_id, name, raw, first_seen_at, last_seen_at) "
            "VALUES ('Loc1', 'agent1', 'Robin', '{}', now(), now())"
        )

    counted = read("ada", database, "SELECT * FROM voiceai.calls ORDER BY user_name, call_id")
    everything = read("ada", database, "SELECT * FROM voiceai.all_calls")

    assert [(row["user_name"], row["call_id"]) for row in counted] == [
        ("Ash", "call1"),
        ("Ash", "unknown"),
        ("Birch", "call1"),
        ("Birch", "unknown"),
        ("Cedar", "call2"),
    ]
    assert counted[0] | {"user_id": None} == {
        "user_id": None,
        "user_name": "Ash",
        "location_id": "Loc1",
        "location_name": "Main Street",
        "location_timezone": "America/New_York",
        "call_id": "call1",
        "agent_id": "agent1",
        "agent_name": "Robin",
        "started_at": STARTED,
        "duration_seconds": 61.5,
        "is_agent_deleted": None,
        "action_types": ["SMS", "CALL_TRANSFER"],
        "first_seen_at": STARTED,
        "last_changed_at": STARTED,
    }
    assert (counted[-1]["location_name"], counted[-1]["location_timezone"]) == (
        "Loc2",
        "Europe/Berlin",
    )
    assert len(everything) == 2 * 4 + 1
    assert {row["call_id"] for row in everything if row["is_trial"]} == {"trial"}
    assert {row["call_id"] for row in everything if row["missing_since"]} == {"gone"}


def test_what_was_said_and_by_whom_takes_the_second_role_and_tokens_nobody_sees(
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


STATES: list[Mapping[str, Any]] = [
    {"connection_state": None},
    {"connection_state": None, "is_active": False},
    {"connection_state": "disconnected", "is_active": False},
    {"connection_state": "in_doubt"},
    {"connection_state": "paused", "connection_reason": "location_paused"},
    {"connection_state": "needs_reconnect"},
    {"connection_state": "needs_reconnect", "connection_reason": "scope_missing"},
    {"location_id": None},
    {"location_id": ""},
    {"last_failure": "provider_error", "failed_attempts": 2},
    {},
]


def test_connections_are_told_as_the_pipeline_sees_them(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        for number, values in enumerate(STATES):
            add_connection(db, number, f"User {number}", **values)
        connections.add_user(db, UUID(int=99), business_name="Never")
        people = {person.user.id: person for person in connections.all_connections(db)}

    rows = {row["user_id"]: row for row in read("ada", database, "TABLE voiceai.connections")}

    assert rows.keys() == people.keys()
    for user_id, row in rows.items():
        person = people[user_id]
        failure = person.obstacle or person.last_failure
        assert row["state"] == person.state
        assert row["can_sync"] == person.can_sync
        assert FailureClass.stored(row["failure_class"]) == failure
        said = failure.explanation if failure else None
        assert row["message"] == (said and said.message)
        assert row["fix"] == (said and for_user(said.fix, user_id))
    assert rows[UUID(int=99)]["state"] == ConnectionState.NEVER_CONNECTED


def test_a_day_says_what_is_wrong_and_separately_what_to_do(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        user = add_connection(db, 1, "Ash")
        for ago, message in enumerate(("", "Not well. Fix: Run: voiceai-pipeline connect USER")):
            db.execute(
                sa.insert(sync_ledger).values(
                    user_id=user,
                    location_id="Loc1",
                    day=date(2026, 11, 18) - timedelta(days=ago),
                    state="waiting" if message else "complete",
                    message=message,
                )
            )

    days = read("ada", database, "SELECT * FROM voiceai.sync_days ORDER BY day")

    assert [(row["user_name"], row["state"], row["message"], row["fix"]) for row in days] == [
        ("Ash", "waiting", "Not well", f"Run: voiceai-pipeline connect {user}"),
        ("Ash", "complete", "", None),
    ]


def test_the_page_on_sql_names_every_view_and_its_queries_work(
    database: Secret, logins: None
) -> None:
    page = (PROJECT / "docs" / "sql.md").read_text()

    assert [view.name for view in VIEWS if f"`{view.name}`" not in page] == [
        mart.name for mart in MARTS
    ]
    queries = re.findall(r"```sql\n(SELECT.*?)```", page, re.DOTALL)
    assert len(queries) == 2
    for query in queries:
        assert read("ada", database, query) == []


# Comments ----------------------------------------------------------------------------------------

UNEXPLAINED = """
SELECT c.oid::regclass::text || coalesce('.' || a.attname, '')
FROM pg_class c
LEFT JOIN LATERAL (
    SELECT NULL::name AS attname, 0 AS attnum
    UNION ALL SELECT attname, attnum FROM pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
) AS a ON true
WHERE c.relnamespace IN ('public'::regnamespace, 'voiceai'::regnamespace)
  AND c.relkind IN ('r', 'p', 'v', 'm')
  AND coalesce(btrim(CASE WHEN a.attnum = 0 THEN obj_description(c.oid, 'pg_class')
                          ELSE col_description(c.oid, a.attnum) END), '') = ''
"""


def test_every_table_view_and_column_has_a_comment(database: Secret) -> None:
    with psycopg.connect(plain(database.reveal())) as db:
        assert db.execute(UNEXPLAINED.encode()).fetchall() == []


def test_what_the_source_system_says_of_its_tables_stays(empty_database: Secret) -> None:
    engine = open_engine(empty_database)
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY, first_name text)")
        db.exec_driver_sql("COMMENT ON TABLE users IS '@graphql({\"totalCount\": true})'")
        db.exec_driver_sql("COMMENT ON COLUMN users.first_name IS 'theirs'")

    migrate.upgrade(engine)

    with engine.begin() as db:
        said = db.exec_driver_sql(
            "SELECT obj_description('users'::regclass, 'pg_class'), "
            "col_description('users'::regclass, 2), col_description('users'::regclass, 1)"
        ).one()
    engine.dispose()
    assert tuple(said) == ('@graphql({"totalCount": true})', "theirs", "Never changes; names may.")


# Who may not make roles --------------------------------------------------------------------------


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


def test_who_may_not_make_roles_or_schemas_is_told_and_the_rest_works(
    plain_owner: Secret, empty_database: Secret
) -> None:
    engine = open_engine(plain_owner)
    with pytest.raises(
        migrate.IncompatibleDatabaseError,
        match=r'run: CREATE SCHEMA voiceai AUTHORIZATION "tenant";$',
    ):
        migrate.upgrade(engine)
    with engine.begin() as db:
        assert migrate.is_empty(db)
    run(empty_database, 'CREATE SCHEMA voiceai AUTHORIZATION "tenant"')

    migrate.upgrade(engine)

    with engine.begin() as db:
        missing = grants.missing_roles(db)
        assert migrate.is_current(db)
        assert db.exec_driver_sql("SELECT count(*) FROM voiceai.calls").scalar_one() == 0
    assert missing == list(grants.ROLES)
    said = grants.how_to_make(missing)
    run(empty_database, said.partition("run: ")[2].partition(" Then")[0])
    migrate.upgrade(engine)
    engine.dispose()
    with psycopg.connect(plain(empty_database.reveal())) as db:
        db.execute("SET ROLE voiceai_analyst")
        assert db.execute("SELECT count(*) FROM voiceai.calls").fetchone() == (0,)
        assert not is_allowed(db, sql.SQL("SELECT FROM voiceai.call_contents"))


def run(database: Secret, statement: str) -> None:
    with psycopg.connect(plain(database.reveal())) as db:
        db.execute(statement.encode())

"""From nothing, from the source system's tables, and not at all where that cannot be."""

import multiprocessing
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.tables import metadata
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import DEMO, REDIRECT_URI, Clock, Connector

DAY = date(2026, 11, 18)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["voiceai_pipeline_tests.connections.test_token_races", __name__])

# source-system.md, "Database Schema Reference", as SQL.
DOCUMENTED = """
CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  user_id uuid REFERENCES users(id),
  service text,
  access_token text,
  refresh_token text,
  token_expires_at timestamptz,
  location_id text,
  location_name text,
  company_id text,
  is_active boolean,
  created_at timestamptz,
  updated_at timestamptz
);
CREATE TABLE sync_status (
  id uuid PRIMARY KEY,
  service text,
  user_id uuid REFERENCES users(id),
  last_sync_at timestamptz,
  last_sync_status text,
  last_sync_message text,
  records_synced integer,
  created_at timestamptz,
  updated_at timestamptz
);
"""

# CONTRACT 7: what the source system's own migrations made of it.
AS_FOUND = """
CREATE TABLE users (
  id uuid PRIMARY KEY, role text CHECK (role IN ('client', 'admin')), first_name text,
  last_name text, business_name text, phone_number text, is_active boolean DEFAULT true,
  last_login timestamptz, notification_preferences jsonb,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE api_keys (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL,
  service text CHECK (service = 'highlevel'), encrypted_key text, access_token text,
  refresh_token text, token_expires_at timestamptz, expired_at timestamptz, location_id text,
  location_name text, location_timezone text DEFAULT 'America/New_York', company_id text,
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, is_active boolean DEFAULT true,
  last_used_at timestamptz, created_by uuid,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE calls (id uuid PRIMARY KEY, highlevel_call_id text UNIQUE);
CREATE TABLE sync_status (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), service text,
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, last_sync_at timestamptz,
  last_sync_status text CHECK (last_sync_status IN ('success', 'failure')),
  last_sync_message text, records_synced integer,
  sync_type text CHECK (sync_type IN ('auto', 'manual')),
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
  UNIQUE (service, user_id)
);
"""


@pytest.fixture
def empty(empty_database: Secret) -> Iterator[sa.Engine]:
    engine = open_engine(empty_database)
    yield engine
    engine.dispose()


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as db:
        for statement in statements:
            db.exec_driver_sql(statement)


def everything(engine: sa.Engine) -> list[tuple[Any, ...]]:
    """What the database is made of: tables with columns, constraints and indexes; views; comments;
    who may do what."""
    queries = (
        "SELECT oid::regclass::text, relkind::text, relacl::text, obj_description(oid, 'pg_class') "
        "FROM pg_class WHERE relnamespace = {0}",
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, "
        "pg_get_expr(adbin, adrelid), col_description(attrelid, attnum) "
        "FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE c.relnamespace = {0} AND attnum > 0 AND NOT attisdropped",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = {0}",
        "SELECT tablename, indexname, indexdef FROM pg_indexes "
        "WHERE schemaname::regnamespace = {0}",
        "SELECT viewname, definition FROM pg_views WHERE schemaname::regnamespace = {0}",
        "SELECT nspname, nspacl::text, obj_description(oid, 'pg_namespace') FROM pg_namespace "
        "WHERE oid = {0}",
    )
    ours = "ANY(ARRAY(SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'voiceai')))"
    found: list[tuple[Any, ...]] = []
    with engine.connect() as db:
        for query in queries:
            found += [tuple(row) for row in db.exec_driver_sql(query.format(ours))]
    return sorted(found, key=repr)


def rows(engine: sa.Engine, table: str, columns: str = "*") -> list[dict[str, Any]]:
    with engine.connect() as db:
        found = db.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY id")  # noqa: S608
        return [dict(row) for row in found.mappings()]


# Creating --------------------------------------------------------------------------------------


def test_an_empty_database_gets_the_tables_that_the_code_sees(empty: sa.Engine) -> None:
    with empty.connect() as db:
        assert migrate.is_empty(db)
        assert not migrate.is_current(db)
    migrate.upgrade(empty)
    with empty.connect() as db:
        assert migrate.is_current(db)
        assert not migrate.is_empty(db)
        context = MigrationContext.configure(
            db,
            opts={
                "version_table": migrate.VERSION_TABLE,
                "compare_type": True,
                "include_object": lambda _, name, *__: name != migrate.VERSION_TABLE,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_a_connection_made_before_the_history_existed_is_renewed_in_time_and_told_of(
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
        (person,) = connections.all_connections(db, now=clock.now)
        assert (person.state, person.token_version) == (ConnectionState.CONNECTED, 7)
        assert person.refreshed_at is None
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
    barrier.wait(30)
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


def test_dagsters_own_version_table_is_left_alone(empty: sa.Engine) -> None:
    run(
        empty,
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('dagsters')",
    )
    migrate.upgrade(empty)
    with empty.connect() as db:
        found = db.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    assert found == ["dagsters"]


# Adopting -----------------------------------------------------------------------------------------


def plain_tokens(sandbox: RunningSandbox, name: str) -> tuple[str, str]:
    """A pair that the existing application would have stored, as it is."""
    user = DEMO[name]
    code = sandbox.world.authorize(
        user.installs_on, user, ["voice-ai-dashboard.readonly", "locations.readonly"], REDIRECT_URI
    )
    pair = sandbox.world.exchange(code, REDIRECT_URI)
    return pair.access_token, pair.refresh_token


def populate(
    engine: sa.Engine, sandbox: RunningSandbox, clock: Clock, *, has_name: bool
) -> dict[str, UUID]:
    """Users as the existing application left them: fine, disconnected, twice connected, new."""
    ids = {name: UUID(DEMO[name].id) for name in ("Harbor Dental", "Pine Realty", "Quiet Law")}
    insert_user = sa.text("INSERT INTO users (id) VALUES (:id)")
    names = "name, " if has_name else ""
    insert_key = sa.text(
        f"INSERT INTO api_keys (id, {names}user_id, service, access_token, refresh_token, "  # noqa: S608
        "token_expires_at, location_id, is_active, created_at, updated_at) "
        f"VALUES (:id, {':name, ' if has_name else ''}:user_id, 'highlevel', :access, :refresh, "
        ":expires, :location, :active, :at, :at)"
    )
    with engine.begin() as db:
        for user_id in (*ids.values(), uuid4()):
            db.execute(insert_user, {"id": user_id})

        def key(name: str, *, days_ago: int, active: bool = True, place: str | None = "") -> None:
            access, refresh = plain_tokens(sandbox, name)
            values = {
                "id": uuid4(),
                "user_id": ids[name],
                "access": access,
                "refresh": refresh,
                "expires": clock.now + timedelta(days=1 - days_ago),
                "location": DEMO[name].location_id if place == "" else place,
                "active": active,
                "at": clock.now - timedelta(days=days_ago),
            }
            db.execute(insert_key, values | ({"name": "HighLevel OAuth"} if has_name else {}))

        key("Harbor Dental", days_ago=9, place="LocLongGone")
        key("Harbor Dental", days_ago=0)
        key("Harbor Dental", days_ago=4, active=False)
        key("Pine Realty", days_ago=3, active=False)
        key("Quiet Law", days_ago=5)
        db.execute(
            sa.text(
                "INSERT INTO sync_status (id, service, user_id, last_sync_status, records_synced) "
                "VALUES (:id, 'highlevel', :user, 'failure', 7)"
            ),
            {"id": uuid4(), "user": ids["Harbor Dental"]},
        )
    return ids


@pytest.mark.parametrize("schema", [DOCUMENTED, AS_FOUND], ids=["documented", "as found"])
def test_a_database_of_the_source_system_is_adopted_and_works(
    schema: str,
    empty: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    run(empty, schema)
    ids = populate(empty, sandbox, clock, has_name=schema is AS_FOUND)
    harbor, pine, quiet = ids.values()
    tables = ("users", "api_keys", "sync_status")
    before = {table: rows(empty, table) for table in tables}
    migrate.upgrade(empty)
    for table in tables:
        names = ", ".join(before[table][0])
        assert rows(empty, table, names) == before[table]

    tokens = Tokens(empty, vault, client, now=clock)
    sync = Sync(empty, tokens, client, ZoneInfo("UTC"), now=clock)
    with empty.connect() as db:
        people = {c.user.id: c for c in connections.all_connections(db)}
    assert len(people) == 4
    assert [people[i].state for i in (harbor, pine, quiet)] == [
        ConnectionState.CONNECTED,
        ConnectionState.DISCONNECTED,
        ConnectionState.CONNECTED,
    ]
    assert people[harbor].location_id == DEMO["Harbor Dental"].location_id

    results = {r.user.id: r for r in sync.sync_days([DAY])}
    assert {results[i].state for i in (harbor, quiet)} == {DayState.COMPLETE}
    assert results[pine].state is DayState.WAITING
    stored = results[harbor].stored
    assert stored == len(
        sandbox.world.calls.between(
            DEMO["Harbor Dental"].location_id or "",
            clock.now.replace(day=18, hour=0),
            clock.now.replace(day=19, hour=0),
        )
    )
    status = [r for r in rows(empty, "sync_status") if r["user_id"] == harbor]
    assert [(r["last_sync_status"], r["records_synced"]) for r in status] == [("success", stored)]

    # Used as they are until the next rotation, which encrypts them; nobody else's row is touched.
    used = {r["id"]: r for r in rows(empty, "api_keys")}
    untouched = [r for r in before["api_keys"] if r["user_id"] in (harbor, pine)]
    for row in untouched:
        assert used[row["id"]]["access_token"] == row["access_token"]
    clock.now += timedelta(days=2)
    tokens.get_valid_token(harbor)
    after = {r["id"]: r for r in rows(empty, "api_keys")}
    renewed = [r for r in after.values() if r["access_token"].startswith("enc:v1:")]
    assert {r["user_id"] for r in renewed} == {harbor, quiet}
    assert all(r["refresh_token"].startswith("enc:v1:") for r in renewed)
    for row in untouched:
        if row["id"] not in {r["id"] for r in renewed}:
            assert {name: after[row["id"]][name] for name in row} == row


@pytest.mark.parametrize("schema", [DOCUMENTED, AS_FOUND], ids=["documented", "as found"])
def test_a_user_of_an_adopted_database_can_connect_anew(
    schema: str, empty: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock
) -> None:
    run(empty, schema)
    migrate.upgrade(empty)
    connector = Connector(empty, client, Consent(empty, vault, client, now=clock))
    connected = connector("Harbor Dental")
    connector.browser.close()
    assert connected.state is ConnectionState.CONNECTED
    assert connected.user.name == "Harbor Dental"


# Refusing -----------------------------------------------------------------------------------------

OBSTACLES: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    (
        "wrong types",
        (
            DOCUMENTED,
            "ALTER TABLE api_keys ALTER COLUMN token_expires_at TYPE timestamp",
            "ALTER TABLE sync_status ALTER COLUMN records_synced TYPE text",
        ),
        ("api_keys.token_expires_at is timestamp without", "sync_status.records_synced is text"),
    ),
    (
        "missing column",
        (DOCUMENTED, "ALTER TABLE api_keys DROP COLUMN refresh_token"),
        ("api_keys lacks column refresh_token",),
    ),
    (
        "foreign tables",
        (
            "CREATE TABLE call_logs (id integer)",
            "CREATE TABLE agents (id uuid)",
            "CREATE TABLE users (id integer)",
        ),
        ("Table call_logs exists", "Table agents exists", "users.id is integer"),
    ),
    (
        "our own column of another type",
        (DOCUMENTED, "ALTER TABLE api_keys ADD COLUMN scope text[], ADD COLUMN lease_id text"),
        ("api_keys.scope is text[]", "api_keys.lease_id is text"),
    ),
    (
        "a required column that we do not know",
        (DOCUMENTED, "ALTER TABLE api_keys ADD COLUMN tenant text NOT NULL"),
        ("api_keys.tenant",),
    ),
]


@pytest.mark.parametrize(
    ("statements", "named"), [o[1:] for o in OBSTACLES], ids=[o[0] for o in OBSTACLES]
)
def test_an_incompatible_database_gets_one_error_with_every_obstacle_and_no_change(
    statements: tuple[str, ...], named: tuple[str, ...], empty: sa.Engine
) -> None:
    run(empty, *statements)
    before = everything(empty)
    with pytest.raises(migrate.IncompatibleDatabaseError, match="nothing was changed") as refused:
        migrate.upgrade(empty)
    for obstacle in named:
        assert obstacle in str(refused.value)
    assert everything(empty) == before


def test_a_migration_that_fails_half_way_leaves_nothing(empty: sa.Engine) -> None:
    # An index of that name is not looked for beforehand; PostgreSQL finds it in the middle.
    run(empty, "CREATE TABLE other (a int)", "CREATE INDEX call_logs_agent_id_idx ON other (a)")
    before = everything(empty)
    with pytest.raises(sa.exc.SQLAlchemyError):
        migrate.upgrade(empty)
    assert everything(empty) == before


def test_the_search_path_decides_whose_tables_are_meant(empty: sa.Engine) -> None:
    run(empty, "CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.call_logs (id integer)")
    migrate.upgrade(empty)
    check: Callable[[sa.Connection], bool] = migrate.is_current
    with empty.connect() as db:
        assert check(db)

"""A database of the source system is adopted, and one that cannot be is left as it is."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.database import migrate
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import REDIRECT_URI
from voiceai_pipeline_tests.support.schemas import AS_FOUND, DOCUMENTED, everything, run

DAY = date(2026, 11, 18)


def rows(engine: sa.Engine, table: str, columns: str = "*") -> list[dict[str, Any]]:
    with engine.connect() as db:
        found = db.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY id")  # noqa: S608
        return [dict(row) for row in found.mappings()]


def plain_tokens(sandbox: RunningSandbox, name: str) -> tuple[str, str]:
    """A token pair in plain text, as the existing application stores it."""
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

        def key(
            name: str, *, days_ago: int, active: bool = True, location: str | None = ""
        ) -> None:
            access, refresh = plain_tokens(sandbox, name)
            values = {
                "id": uuid4(),
                "user_id": ids[name],
                "access": access,
                "refresh": refresh,
                "expires": clock.now + timedelta(days=1 - days_ago),
                "location": DEMO[name].location_id if location == "" else location,
                "active": active,
                "at": clock.now - timedelta(days=days_ago),
            }
            db.execute(insert_key, values | ({"name": "HighLevel OAuth"} if has_name else {}))

        key("Harbor Dental", days_ago=9, location="LocLongGone")
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
    tables = ["users", "api_keys", "sync_status"]
    tables += ["agents", "calls"] if schema is AS_FOUND else []
    before = {table: rows(empty, table) for table in tables}
    migrate.upgrade(empty)
    for table in tables:
        names = ", ".join(before[table][0])
        assert rows(empty, table, names) == before[table]

    tokens = Tokens(empty, vault, client, now=clock)
    sync = Sync(empty, tokens, client, ZoneInfo("UTC"), now=clock)
    with empty.connect() as db:
        users = {c.user.id: c for c in connections.all_connections(db)}
    assert len(users) == 4
    assert [users[i].state for i in (harbor, pine, quiet)] == [
        ConnectionState.CONNECTED,
        ConnectionState.DISCONNECTED,
        ConnectionState.CONNECTED,
    ]
    assert users[harbor].location_id == DEMO["Harbor Dental"].location_id

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

    # Plain tokens are used until the next rotation, which encrypts them; no other row is touched.
    used = {r["id"]: r for r in rows(empty, "api_keys")}
    untouched = [r for r in before["api_keys"] if r["user_id"] in (harbor, pine)]
    for row in untouched:
        assert used[row["id"]]["access_token"] == row["access_token"]
    clock.now += timedelta(days=2)
    tokens.get_valid_token(harbor)
    after = {r["id"]: r for r in rows(empty, "api_keys")}
    refreshed = [r for r in after.values() if r["access_token"].startswith("enc:v2:")]
    assert {r["user_id"] for r in refreshed} == {harbor, quiet}
    assert all(r["refresh_token"].startswith("enc:v2:") for r in refreshed)
    for row in untouched:
        if row["id"] not in {r["id"] for r in refreshed}:
            assert {name: after[row["id"]][name] for name in row} == row


@pytest.mark.parametrize("schema", [DOCUMENTED, AS_FOUND], ids=["documented", "as found"])
def test_a_user_of_an_adopted_database_can_reconnect(
    schema: str, empty: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock
) -> None:
    run(empty, schema)
    migrate.upgrade(empty)
    connector = Connector(empty, client, Consent(empty, vault, client, now=clock))
    connected = connector("Harbor Dental")
    connector.browser.close()
    assert connected.state is ConnectionState.CONNECTED
    assert connected.user.name == "Harbor Dental"


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
            "CREATE TABLE voiceai_agents (id uuid)",
            "CREATE TABLE users (id integer)",
            "CREATE TABLE webhook_messages (id integer)",
        ),
        (
            "Table call_logs already exists",
            "Table voiceai_agents already",
            "Table webhook_messages already exists",
            "users.id is integer",
        ),
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
    (
        "columns too short for what we write",
        (
            DOCUMENTED,
            "ALTER TABLE api_keys ALTER COLUMN access_token TYPE varchar(255)",
            "ALTER TABLE sync_status ALTER COLUMN last_sync_message TYPE varchar(100)",
            "ALTER TABLE api_keys ALTER COLUMN location_id TYPE varchar(255)",
        ),
        (
            "ALTER TABLE api_keys ALTER COLUMN access_token TYPE text;",
            "ALTER TABLE sync_status ALTER COLUMN last_sync_message TYPE text;",
        ),
    ),
    (
        "a view called users",
        ("CREATE TABLE people (id uuid)", "CREATE VIEW users AS SELECT id FROM people"),
        ("users is a view, not a table", "ALTER VIEW users RENAME TO users_old;"),
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


def test_a_table_of_others_in_the_way_of_an_upgrade_is_named_and_nothing_changes(
    empty: sa.Engine,
) -> None:
    migrate.upgrade(empty, "0010")
    run(empty, "CREATE TABLE call_hints (id integer)")
    before = everything(empty)
    with pytest.raises(migrate.IncompatibleDatabaseError, match="nothing was changed") as refused:
        migrate.upgrade(empty)
    assert "Table call_hints already exists and is not ours: rename it" in str(refused.value)
    assert everything(empty) == before

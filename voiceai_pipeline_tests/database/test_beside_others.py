"""Beside the source system's tables: nothing of ours pins them, each is restored without the other,
and names come from what they have.
"""

from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.database import migrate
from voiceai_pipeline_tests.support.schemas import AS_FOUND, everything, run

ADA = UUID("00000000-0000-4000-8000-000000000001")


@pytest.fixture
def adopted(empty: sa.Engine) -> sa.Engine:
    run(empty, AS_FOUND)
    run(empty, f"INSERT INTO users (id, business_name) VALUES ('{ADA}', 'Harbor Dental')")  # noqa: S608
    migrate.upgrade(empty)
    return empty


def names(engine: sa.Engine) -> list[str]:
    with engine.connect() as db:
        return [one.user.name for one in connections.all_connections(db)]


def test_the_source_system_can_alter_and_drop_each_of_its_columns(adopted: sa.Engine) -> None:
    with adopted.connect() as db:
        found = db.exec_driver_sql(
            "SELECT attrelid::regclass::text AS name, attname, format_type(atttypid, -1) AS type "
            "FROM pg_attribute WHERE attrelid IN ('users'::regclass, 'api_keys'::regclass, "
            "'sync_status'::regclass) AND attnum > 0 AND NOT attisdropped AND attname <> 'id'"
        ).all()
    assert len(found) > 50
    with adopted.connect() as db:
        for table, column, kind in found:
            wider = {"text": "varchar(9999)", "integer": "bigint"}.get(kind, kind)
            db.exec_driver_sql(f'ALTER TABLE {table} ALTER COLUMN "{column}" TYPE {wider}')
            if column not in ("user_id", "service"):
                db.exec_driver_sql(f'ALTER TABLE {table} DROP COLUMN "{column}"')
        db.rollback()


def test_a_column_that_became_another_type_leaves_the_views_as_they_are(adopted: sa.Engine) -> None:
    run(
        adopted,
        "ALTER TABLE api_keys ALTER COLUMN location_name TYPE varchar(300)",
        "ALTER TABLE sync_status ALTER COLUMN records_synced TYPE bigint",
    )
    with adopted.connect() as db:
        row = db.exec_driver_sql("SELECT user_name, state FROM voiceai.connections").one()
    assert tuple(row) == ("Harbor Dental", "never_connected")
    migrate.upgrade(adopted)


def test_what_was_dropped_of_the_views_schema_comes_back(adopted: sa.Engine) -> None:
    before = everything(adopted)
    run(adopted, "DROP SCHEMA voiceai CASCADE")
    migrate.upgrade(adopted)
    assert everything(adopted) == before
    with adopted.connect() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM voiceai.connections").scalar() == 1


def test_the_source_system_can_delete_a_user_whose_days_were_synced(adopted: sa.Engine) -> None:
    run(
        adopted,
        "INSERT INTO sync_ledger (user_id, location_id, day, state) "
        "SELECT id, 'Loc', '2026-11-18', 'complete' FROM users",
        "DELETE FROM users",
    )
    assert names(adopted) == []


@pytest.mark.parametrize(
    ("columns", "values", "name"),
    [
        ("business_name, full_name", "'The Business', 'Ada Harper'", "The Business"),
        ("first_name, full_name", "'Ada', 'Ada Harper'", "Ada"),
        ("full_name, name", "'Ada Harper', 'ada'", "Ada Harper"),
        ("name, email", "'ada', 'ada@example.test'", "ada"),
        ("business_name, email", "'', 'ada@example.test'", "ada@example.test"),
        ("email", "''", str(ADA)),
    ],
)
def test_a_users_name_comes_from_what_the_table_has(
    columns: str, values: str, name: str, empty: sa.Engine
) -> None:
    given = ", ".join(f"{column} text" for column in columns.split(", "))
    run(
        empty,
        f"CREATE TABLE users (id uuid PRIMARY KEY, {given})",
        f"INSERT INTO users (id, {columns}) VALUES ('{ADA}', {values})",  # noqa: S608
    )
    migrate.upgrade(empty)
    assert names(empty) == [name]
    with empty.connect() as db:
        assert db.exec_driver_sql("SELECT user_name FROM voiceai.connections").scalar() == name


def test_agents_of_an_older_version_of_ours_get_their_new_name(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0012")
    run(
        empty,
        "ALTER TABLE voiceai_agents RENAME TO agents",
        "INSERT INTO agents VALUES ('Loc', 'agent', 'Robin', NULL, '{}', now(), now())",
    )
    migrate.upgrade(empty)
    with empty.connect() as db:
        assert db.exec_driver_sql("SELECT name FROM voiceai_agents").scalar() == "Robin"
        assert db.exec_driver_sql("SELECT to_regclass('agents')").scalar() is None

"""Neither the shell nor defaults of a role or database change what is stored (REQUIREMENTS S15)."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import pq

from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine, server_version
from voiceai_pipeline_tests.support.mart_calls import Book
from voiceai_pipeline_tests.support.mart_desk import Desk

DEFAULTS = {
    "TimeZone": "America/New_York",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "nowhere",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "row_security": "off",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
}


@pytest.fixture
def environment() -> Iterator[None]:
    """Every variable of libpq set to something else; what the product removes is put back."""
    before = dict(os.environ)
    listed = [one.envvar.decode() for one in pq.Conninfo.get_defaults() if one.envvar]
    for name in [*listed, "PGTZ", "PGDATESTYLE", "PGGEQO", "PGSYSCONFDIR", "PGSERVICEFILE"]:
        os.environ[name] = "elsewhere"
    os.environ |= {
        "PGTZ": "America/New_York",
        "PGDATESTYLE": "German",
        "PGCLIENTENCODING": "LATIN1",
        "PGOPTIONS": "-c search_path=nowhere -c statement_timeout=1",
        "PGSSLMODE": "verify-full",
        "PGPORT": "1",
        "PGHOSTADDR": "203.0.113.1",
        "PGCONNECT_TIMEOUT": "0",
    }
    yield
    os.environ.clear()
    os.environ.update(before)


def _is_as_stored(engine: sa.Engine) -> None:
    """What is written with odd defaults equals what is written without."""
    book, desk = Book(engine), Desk(engine)
    book.location("LocHere", "Europe/Berlin")
    book.read("LocHere", date(2026, 11, 9), date(2026, 11, 11))
    at = datetime(2026, 11, 10, 12, 30, 15, 123456, tzinfo=UTC)
    book.call("LocHere", at, transcript="human: Zürich 🙂\nhuman:\\S'", duration_seconds=0.1 + 0.2)
    desk.build(date(2026, 11, 10))
    with engine.begin() as db:
        row = db.execute(sa.text("SELECT * FROM call_logs")).mappings().one()
        assert row["started_at"] == at
        assert row["transcript"] == "human: Zürich 🙂\nhuman:\\S'"
        assert row["duration_seconds"] == 0.1 + 0.2
        assert row["content_hash"] == b""
        array = db.execute(sa.text("SELECT CAST(:it AS text[])"), {"it": [None, "x"]})
        assert array.scalar_one() == [None, "x"]
        assert db.execute(sa.text("SHOW transaction_isolation")).scalar_one() == "read committed"
        assert db.execute(sa.text("SELECT '2026-01-02'::date + 1")).scalar_one().day == 3
    row = desk.row(date(2026, 11, 10))
    assert (row["calls"], row["talk_seconds"]) == (1, Decimal("0.300"))


def test_no_variable_of_libpq_changes_where_and_how_we_connect(
    database: Secret, environment: None
) -> None:
    engine = open_engine(database)
    _is_as_stored(engine)
    engine.dispose()
    assert "PGSERVICE" not in os.environ
    assert os.environ["PGPASSWORD"] == "elsewhere"


@pytest.mark.parametrize("whose", ["DATABASE {database}", "ROLE {role} IN DATABASE {database}"])
def test_no_default_of_a_database_or_role_changes_what_is_stored(
    database: Secret, whose: str
) -> None:
    name = sa.make_url(database.reveal()).database
    engine = open_engine(database)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        role = db.execute(sa.text("SELECT current_user")).scalar_one()
        whom = whose.format(database=name, role=role)
        for setting, value in DEFAULTS.items():
            db.exec_driver_sql(f"ALTER {whom} SET {setting} = '{value}'")
    engine.dispose()
    fresh = open_engine(database)
    _is_as_stored(fresh)
    fresh.dispose()


def test_a_pooler_that_forwards_no_options_is_connected_to_without_and_set_afterwards(
    database: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = psycopg.connect

    def refusing(*given: object, **params: object) -> psycopg.Connection:
        if params["options"]:
            raise psycopg.OperationalError("FATAL: unsupported startup parameter: options")
        os.environ["PGTZ"] = "America/New_York"
        connection: psycopg.Connection = connect(*given, **params)  # type: ignore[arg-type]
        del os.environ["PGTZ"]
        return connection

    engine = open_engine(database)
    monkeypatch.setattr(engine.dialect, "connect", refusing)
    _is_as_stored(engine)
    engine.dispose()


def test_a_database_of_another_encoding_is_refused_by_name(postgres: EmbeddedPostgres) -> None:
    url = Secret(postgres.url("template1"))
    engine = open_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.exec_driver_sql(
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' "
            "TEMPLATE template0"
        )
    engine.dispose()
    with pytest.raises(PipelineError) as caught:
        open_engine(Secret(postgres.url("latin"))).connect()
    assert "encoding LATIN1: create one with ENCODING 'UTF8'" in caught.value.message
    postgres.drop_database("latin")


def test_the_version_of_dagsters_server_is_read_with_its_driver(
    postgres: EmbeddedPostgres, environment: None
) -> None:
    assert server_version(Secret(postgres.url("postgres", driver="psycopg2"))).startswith("1")

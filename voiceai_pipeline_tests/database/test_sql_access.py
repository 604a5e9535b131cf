"""SQL tools over TCP: one login with an analyst's rights, and nobody else."""

import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate, sql_access
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline_tests.support.ports import free_port


@dataclass(frozen=True)
class Installation:
    home: Path
    port: int
    url: str

    def url_of(self, user: str, database: str = "voiceai") -> str:
        return self.url.replace("voiceai_sql@", f"{user}@").replace("/voiceai?", f"/{database}?")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home, port = tmp_path_factory.mktemp("home"), free_port()
    with EmbeddedPostgres.hold(home, durable=False, sql_port=port) as server:
        server.create_database("voiceai")
        server.create_database("dagster")
        engine = open_engine(Secret(server.url("voiceai")))
        migrate.upgrade(engine)
        with engine.begin() as db:
            assert sql_access.obstacle(db, port) is None
            assert "VOICEAI_SQL_PORT" in (sql_access.obstacle(db, port + 1) or "")
            sql_access.allow(db, home, port)
        engine.dispose()
        yield Installation(home, port, sql_access.url(home, port))


def test_the_address_alone_opens_the_views_and_nothing_else(installed: Installation) -> None:
    with closing(psycopg.connect(installed.url)) as db:
        assert db.execute("SELECT count(*) FROM calls").fetchone() == (0,)
        for refused in (
            "SELECT FROM call_contents",
            "SELECT FROM public.api_keys",
            "SELECT FROM public.call_logs",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
                db.execute(refused)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.transaction():
            db.execute("CREATE TEMP TABLE mine ()")


def test_no_other_login_and_no_other_password_get_in(installed: Installation) -> None:
    for url in (
        installed.url_of("postgres"),
        installed.url_of("voiceai_app"),
        installed.url.partition("?")[0] + "?password=guessed",
    ):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)


def test_dagsters_tables_stay_closed(installed: Installation) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(installed.url_of("voiceai_sql", "dagster"))


def test_the_password_is_in_a_private_file_and_stays(installed: Installation) -> None:
    file = sql_access.password_file(installed.home)
    before = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with EmbeddedPostgres.hold(installed.home, sql_port=installed.port) as server:
        engine = open_engine(Secret(server.url("voiceai")))
        with engine.begin() as db:
            sql_access.allow(db, installed.home, installed.port)
        engine.dispose()
    assert file.read_text() == before
    password = before.strip().rpartition(":")[2]
    assert password not in (installed.home / "postgres/server.log").read_text()
    psycopg.connect(installed.url).close()

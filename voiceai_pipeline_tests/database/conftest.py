"""Homes for the embedded server, stopped after each test; an empty database; analysts' logins."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline_tests.support.analysts import ROLES, plain
from voiceai_pipeline_tests.support.embedded_homes import end, hold


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet."""
    home = tmp_path / "home"
    yield home
    end(home)
    shutil.rmtree(home, ignore_errors=True)  # 40 MB


@pytest.fixture(scope="module")
def old_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("old") / "home"
    hold(home).release()
    end(home)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(old_home: Path) -> Iterator[Path]:
    """A home whose data several tests share; its server is stopped before each."""
    yield old_home
    end(old_home)


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that any user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        end(Path(folder) / "home")


@pytest.fixture
def empty(empty_database: Secret) -> Iterator[sa.Engine]:
    engine = open_engine(empty_database)
    yield engine
    engine.dispose()


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

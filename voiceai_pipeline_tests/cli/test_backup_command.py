"""``voiceai-pipeline backup`` and ``restore``, with PostgreSQL's own programs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.command_line import Program
from voiceai_pipeline_tests.support.token_endpoint import refreshes

USERS = ("Harbor Dental", "Maple Plumbing")


def refresh(program: Program, *names: str) -> None:
    for name in names:
        assert program("check", name).code == 0


@pytest.fixture
def dagsters(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for Dagster's own tables."""
    postgres.create_database("backup_dagster")
    yield postgres.url("backup_dagster", driver="psycopg2")
    postgres.drop_database("backup_dagster")


@pytest.fixture
def installation(program: Program, dagsters: str, world: World) -> Program:
    program.env["DAGSTER_POSTGRES_URL"] = dagsters
    world.grace_seconds = 0
    return program


def test_a_backup_restored_a_day_later_costs_no_connection(
    installation: Program, tmp_path: Path
) -> None:
    users = installation.connect(*USERS)
    folder = tmp_path / "backups" / "monday"
    with open_pipeline(Settings.load(installation.env)) as pipeline:
        for user in users:
            pipeline.tokens.refresh(user)
        made = installation("backup", str(folder))
        assert made.code == 0, made.err
        assert "back up VOICEAI_TOKEN_KEYS separately" in made.out
        for user in users:
            pipeline.tokens.refresh(user)
        busy = installation("restore", str(folder), "--yes")
        assert busy.code == 1
        assert "in use by" in busy.err
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in folder.rglob("*") if f.is_file()} == {0o600}
    again = installation("backup", str(folder))
    assert "exists already" in again.err

    installation.engine.dispose()
    installation.execute("DELETE FROM api_keys")
    installation.engine.dispose()
    done = installation("restore", str(folder), "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["newer_connections"], done.json["lost_user_ids"]) == (2, [])
    installation.highlevel.world.clear_requests()
    with open_pipeline(Settings.load(installation.env)) as pipeline:
        for user in users:
            pipeline.tokens.refresh(user)
    assert refreshes(installation.highlevel) == [200, 200]


def test_a_restore_that_cannot_be_whole_changes_nothing(
    installation: Program, tmp_path: Path, dagsters: str
) -> None:
    installation.connect("Harbor Dental")
    folder = tmp_path / "backup"
    assert installation("backup", str(folder), "--json").json["has_keys"] is False
    installation.engine.dispose()
    about = json.loads((folder / "backup.json").read_text())
    (folder / "backup.json").write_text(json.dumps({**about, "revision": "0001"}))
    older = installation("restore", str(folder), "--yes")
    assert older.code == 1
    assert "the backup at 0001" in older.err
    (folder / "backup.json").write_text(json.dumps(about))
    (folder / "voiceai.dump").write_bytes(b"half a dump")
    broken = installation("restore", str(folder), "--yes")
    assert broken.code == 1
    assert "Nothing was changed" in broken.err
    assert installation.ask("SELECT count(*) FROM api_keys WHERE is_active") == [(1,)]
    (folder / "dagster.dump").unlink()
    missing = installation("restore", str(folder), "--yes")
    assert "dagster.dump is missing" in missing.err
    assert installation("restore", str(folder), typed="n\n").code == 130
    shutil.rmtree(folder)
    assert installation("restore", str(folder), "--yes").code == 2


def test_the_owner_backs_up_what_the_login_of_the_product_may_not_read(
    installation: Program, tmp_path: Path
) -> None:
    owners = installation.env["VOICEAI_DATABASE_URL"]
    runtime = owners.replace("//postgres@", "//backup_runtime@")
    installation.execute("CREATE ROLE backup_runtime LOGIN IN ROLE voiceai_app")
    folder = tmp_path / "backup"
    try:
        alone = installation("backup", str(folder), VOICEAI_DATABASE_URL=runtime)
        assert (alone.code, folder.exists()) == (1, False)
        both = {"VOICEAI_DATABASE_URL": runtime, "VOICEAI_OWNER_DATABASE_URL": owners}
        whole = installation("backup", str(folder), **both)
        assert whole.code == 0, whole.err
        installation.engine.dispose()
        again = installation("restore", str(folder), "--yes", **both)
        assert again.code == 0, again.err
    finally:
        installation.execute("DROP ROLE backup_runtime")

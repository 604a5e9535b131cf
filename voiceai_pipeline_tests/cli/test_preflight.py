"""``up`` refuses to start: one sentence that says what to do, and nothing is left running."""

from pathlib import Path

import psycopg
import pytest

from voiceai_pipeline.cli import preflight, up
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.up import (
    Up,
    own_servers,
    port_in_use,
    taken,
)


@pytest.mark.parametrize(
    ("name", "otherwise"),
    [
        ("port", "make up PORT={}"),
        ("page_port", "VOICEAI_PAGE_PORT={} make up"),
    ],
)
def test_a_port_in_use_is_one_sentence(tmp_path: Path, name: str, otherwise: str) -> None:
    installation = Up(tmp_path / "home")
    port: int = getattr(installation, name)
    with taken(port):
        stopped = installation.try_to_start()

    assert stopped.returncode == 1
    assert stopped.stderr == port_in_use(port, otherwise.format(port + 1))
    assert installation.everything_has_ended()


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    installation = Up(tmp_path / "home")
    installation.home.write_text("not a folder")

    stopped = installation.try_to_start()

    assert stopped.returncode == 1
    assert stopped.stderr == (
        f"Error: {installation.home} cannot be used: File exists. Set VOICEAI_HOME to a "
        "folder that this user can write to.\n"
    )


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "up.lock").mkdir(parents=True)  # root may write anything, but not open a folder

    with pytest.raises(
        preflight.UpError, match=r"home cannot be used: Is a directory\. Set VOICEAI_HOME"
    ):
        up.run(Settings.load({"VOICEAI_HOME": str(home)}), free_port(), print)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MIN_FREE_BYTES", 2**60)

    with pytest.raises(preflight.UpError, match=r"Only \d+ MB are free.* Free some space"):
        up.run(Settings.load({"VOICEAI_HOME": str(tmp_path)}), free_port(), print)


def test_an_invalid_port_is_refused(tmp_path: Path) -> None:
    installation = Up(tmp_path / "home", port=99999)

    stopped = installation.try_to_start()

    assert stopped.returncode == 2
    assert "99999 is not in the range 1<=x<=65535" in stopped.stderr


def test_an_external_database_with_tables_is_not_changed(
    tmp_path: Path, empty_database: Secret
) -> None:
    url = empty_database.reveal().replace("+psycopg", "")
    with psycopg.connect(url) as db:
        db.execute("CREATE TABLE users (id uuid PRIMARY KEY)")
    installation = Up(tmp_path / "home", env=own_servers(url, url, "http://127.0.0.1:9"))

    stopped = installation.try_to_start()

    assert stopped.returncode == 1
    assert stopped.stderr == (
        "Error: The database needs a migration. Because it is not empty, nothing was changed. "
        "Review the SQL with `voiceai-pipeline migrate --sql`, then run `voiceai-pipeline "
        "migrate`.\n"
    )
    with psycopg.connect(url) as db:
        tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == [("users",)]
    assert installation.everything_has_ended()

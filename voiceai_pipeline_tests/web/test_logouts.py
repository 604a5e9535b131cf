"""A session that was logged out stays logged out, whatever happens to the process."""

from pathlib import Path

import pytest

from voiceai_pipeline.web import logouts
from voiceai_pipeline.web.cookies import SESSION_LIFE
from voiceai_pipeline.web.logouts import Logouts


def test_a_logout_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "logouts"
    before = Logouts(path)
    before.add("mine")
    before.add("another")

    restarted = Logouts(path)
    assert "mine" in restarted
    assert "another" in restarted
    assert "a third" not in restarted
    assert [file.name for file in path.parent.iterdir()] == ["logouts"]


def test_every_process_notices_a_logout_of_another(tmp_path: Path) -> None:
    path = tmp_path / "logouts"
    first, second = Logouts(path), Logouts(path)
    first.add("mine")
    assert "mine" in second
    second.add("another")
    assert {"mine", "another"} <= {one for one in ("mine", "another") if one in first}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_file_keeps_no_session_whose_cookie_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logouts, "_TIDY_AT", 10)
    now = 1_000_000.0
    found = Logouts(tmp_path / "logouts", lambda: now)
    found.add("old")
    now += SESSION_LIFE
    found.add("new")

    assert (tmp_path / "logouts").read_text().split() == [f"{now:.0f}", "new"]
    assert "new" in Logouts(tmp_path / "logouts", lambda: now)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"no time\n\n12\n", b""])
def test_a_damaged_file_stops_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "logouts"
    path.write_bytes(content)
    damaged = Logouts(path)
    damaged.add("mine")

    assert "mine" in damaged


def test_a_file_that_cannot_be_written_is_logged_and_the_logout_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    unwritable = Logouts(tmp_path / "file" / "logouts")
    unwritable.add("mine")

    assert "mine" in unwritable
    assert "logouts cannot be written" in caplog.text

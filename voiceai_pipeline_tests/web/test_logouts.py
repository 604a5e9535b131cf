"""A session that was logged out stays logged out, whatever happens to the process."""

from pathlib import Path

import pytest

from voiceai_pipeline.web.cookies import SESSION_LIFE
from voiceai_pipeline.web.logouts import Logouts


def test_a_logout_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "logouts"
    logouts = Logouts(path)
    logouts.add("mine")
    logouts.add("another")

    restarted = Logouts(path)
    assert "mine" in restarted
    assert "another" in restarted
    assert "a third" not in restarted
    assert [file.name for file in path.parent.iterdir()] == ["logouts"]


def test_the_file_keeps_no_session_whose_cookie_has_expired(tmp_path: Path) -> None:
    now = 1_000_000.0
    logouts = Logouts(tmp_path / "logouts", lambda: now)
    logouts.add("old")
    now += SESSION_LIFE
    logouts.add("new")

    assert (tmp_path / "logouts").read_text().split() == [f"{now:.0f}", "new"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"no time\n\n12\n", b""])
def test_a_damaged_file_stops_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "logouts"
    path.write_bytes(content)
    logouts = Logouts(path)
    logouts.add("mine")

    assert "mine" in Logouts(path)


def test_a_file_that_cannot_be_written_is_logged_and_the_logout_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    logouts = Logouts(tmp_path / "file" / "logouts")
    logouts.add("mine")

    assert "mine" in logouts
    assert "logouts cannot be written" in caplog.text

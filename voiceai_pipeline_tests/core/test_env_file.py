"""The file with settings: read as UTF-8, or a sentence."""

import os
from pathlib import Path

import pytest

from voiceai_pipeline.core import env_file
from voiceai_pipeline.core.settings_parsing import SettingsError


def test_a_file_that_is_not_utf_8_is_a_sentence_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes("VOICEAI_PAGE_SECRET=Zürich\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"\.env is not in UTF-8") as caught:
        env_file.load(path)
    assert "rich" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    path = tmp_path / ".env"
    path.write_bytes("VOICEAI_TIMEZONE=Europe/Zurich\n".encode("utf-8-sig"))
    env_file.load(path)
    assert os.environ == {"VOICEAI_TIMEZONE": "Europe/Zurich"}

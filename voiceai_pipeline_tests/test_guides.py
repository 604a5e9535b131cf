"""The guides say what the code does: scopes, callback, settings, and every message with its fix."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from voiceai_pipeline.cli.main import cli
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections.consent_errors import NO_APP_VERSION
from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.settings import CALLBACK_PATH, VARIABLES, Settings

APP = (PROJECT / "docs" / "highlevel-app.md").read_text()
TROUBLE = (PROJECT / "docs" / "troubleshooting.md").read_text()
SOURCE = (PROJECT / "docs" / "source-system.md").read_text()


def test_the_guide_to_the_app_has_the_scopes_and_the_callback_of_the_code() -> None:
    (table,) = re.findall(r"<!-- scopes -->(.+?)<!-- end -->", APP, re.DOTALL)
    assert tuple(re.findall(r"^\| `([\w./-]+)` \|", table, re.MULTILINE)) == REQUESTED_SCOPES
    assert f"`{CALLBACK_PATH}`" in APP
    assert f"`{Settings.load({}).highlevel.redirect_uri}`" in APP


def test_the_guides_name_settings_and_commands_that_there_are() -> None:
    for page in (APP, TROUBLE):
        assert set(re.findall(r"\b((?:VOICEAI|HIGHLEVEL)_[A-Z_]+)\b", page)) <= VARIABLES.keys()
        assert set(re.findall(r"`voiceai-pipeline (\w+)", page)) <= cli.commands.keys()
    for page in (APP, NO_APP_VERSION):
        assert "noAppVersionIdFound" in page
        assert "HIGHLEVEL_APP_VERSION_ID" in page


def test_every_failure_is_found_by_its_message_with_its_fix() -> None:
    (table,) = re.findall(r"<!-- messages -->(.+?)<!-- end -->", TROUBLE, re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", table, re.MULTILINE)
    said = [(code, message, fix.replace("`", "")) for code, message, fix in rows]
    assert said == [
        (one.value, one.explanation.message, one.explanation.fix.replace("`", ""))
        for one in FailureClass
    ]


def test_the_source_systems_messages_and_causes_are_found() -> None:
    messages = re.findall(r'^### "(.+)"$', SOURCE, re.MULTILINE)
    assert len(messages) == 4
    for message in messages:
        assert f"| {message} |" in TROUBLE
    yesterday = TROUBLE.partition("## It worked yesterday")[2].partition("\n## ")[0].lower()
    causes = re.findall(
        r"^\d\. \*\*(.+)\*\*$",
        SOURCE.partition("### Why Sync Worked")[2].partition("\n## ")[0],
        re.MULTILINE,
    )
    assert len(causes) == 4
    for cause in (*causes, "client id or secret", "redirect uri mismatch", "token url or auth url"):
        assert cause.lower() in yesterday, cause


def unit_of_the_guide() -> str:
    guide = (PROJECT / "docs" / "production.md").read_text()
    (unit,) = re.findall(r"```ini\n(.+?)```", guide, re.DOTALL)
    return str(unit)


@pytest.mark.parametrize("name", ["docs/production.md", "deploy/celery/voiceai-worker.service"])
def test_systemd_understands_every_unit(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    given = unit_of_the_guide() if name.endswith(".md") else (PROJECT / name).read_text()
    # The program is not on this machine.
    unit = tmp_path / "voiceai.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", given))
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    # An unknown key is a warning.
    assert (verified.returncode, verified.stderr) == (0, "")

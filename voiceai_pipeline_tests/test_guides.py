"""The guides say what the code does: scopes, callback, settings, and every message with its fix."""

import re

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

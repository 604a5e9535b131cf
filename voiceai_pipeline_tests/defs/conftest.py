"""The receivers of alerts, for the tests in which alerts are delivered."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from voiceai_pipeline_tests.support.receivers import (
    MAIL_PASSWORD,
    Hook,
    Mailbox,
    running_hook,
    running_mailbox,
)


@dataclass
class Receivers:
    """A webhook and a mailbox, as the product is configured to use."""

    hook: Hook
    mailbox: Mailbox

    @property
    def headlines(self) -> list[str]:
        return [text.splitlines()[0] for text in self.hook.texts]

    @property
    def subjects(self) -> list[str]:
        return [mail["Subject"].strip() for mail in self.mailbox.mails]


@pytest.fixture
def receivers(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receivers]:
    folder = tmp_path_factory.mktemp("mail")
    with running_hook() as hook, running_mailbox(folder) as mailbox:
        login = f"robot:{quote(MAIL_PASSWORD, safe='')}@"
        monkeypatch.setenv("VOICEAI_ALERT_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("VOICEAI_ALERT_EMAIL_TO", "ops@agency.test")
        monkeypatch.setenv("VOICEAI_ALERT_EMAIL_FROM", "alerts@agency.test")
        monkeypatch.setenv("VOICEAI_SMTP_URL", mailbox.url.replace("//", f"//{login}"))
        monkeypatch.setenv("VOICEAI_PAGE_URL", "https://voice.test")
        yield Receivers(hook, mailbox)

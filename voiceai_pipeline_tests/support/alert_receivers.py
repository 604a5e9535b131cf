"""A webhook, a mailbox and a notice for tests of alerts; the fixtures are a pytest plugin."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest

from voiceai_pipeline.connections.alert_channels import Email
from voiceai_pipeline.connections.alerts import Moment, Notice
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline_tests.support.receivers import (
    MAIL_PASSWORD,
    Hook,
    Mailbox,
    running_hook,
    running_mailbox,
)

PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")


AT = datetime(2026, 11, 20, 8, 12, tzinfo=UTC)


SPA = User(UUID("00000000-0000-4000-8000-000000000001"), "Willow Spa")


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as hook:
        yield hook


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    with running_mailbox(tmp_path) as mailbox:
        yield mailbox


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


def email_to(mailbox: Mailbox, login: str = "", host: str = "127.0.0.1") -> Email:
    url = mailbox.url.replace("127.0.0.1", f"{login}{host}")
    return Email(Secret(url), "Voice AI <alerts@agency.test>", ("ops@agency.test",))


def notice(
    reason: FailureClass, user: User | None = SPA, moment: Moment = "opened", number: int = 7
) -> Notice:
    return Notice(number, moment, user, reason, AT)

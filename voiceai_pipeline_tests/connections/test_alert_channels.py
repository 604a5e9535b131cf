"""Webhook and e-mail: what they send, and what they say when it is refused."""

import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from voiceai_pipeline.connections import alert_channels, alert_messages
from voiceai_pipeline.connections.alert_channels import Channel, DeliveryError, Webhook
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import AlertSettings
from voiceai_pipeline_tests.support.alert_receivers import AT, PAGE, SPA, email_to, notice
from voiceai_pipeline_tests.support.receivers import (
    HANGS_UP,
    HOOK_SECRET,
    MAIL_PASSWORD,
    Hook,
    Mailbox,
    Security,
    running_mailbox,
)


def test_only_configured_channels_are_used() -> None:
    everything = AlertSettings(
        Secret("https://hook.test/x"), ("a@b.test",), "c@b.test", Secret("smtp://mail.test")
    )
    assert [c.name for c in alert_channels.channels(everything)] == ["webhook", "email"]
    assert alert_channels.channels(AlertSettings(smtp_url=Secret("smtp://mail.test"))) == []


def sent(channel: Channel, name: str = "Willow Spa") -> None:
    about = notice(FailureClass.REFRESH_REJECTED, User(SPA.id, name))
    channel.send(alert_messages.message_of(about, PAGE))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (302, "a redirect (302), which is not followed. Fix: set VOICEAI_ALERT_WEBHOOK_URL"),
        (404, "refused the message (404). Fix: check that the webhook"),
        (429, "answered 429. Fix: none needed"),
        (500, "answered 500. Fix: none needed"),
    ],
)
def test_a_webhooks_refusal_is_reported_with_its_fix_and_without_its_address(
    hook: Hook, status: int, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers = [status]
    with pytest.raises(DeliveryError) as caught:
        sent(Webhook(Secret(hook.url)))
    assert sentence in str(caught.value)
    assert hook.asked == 1
    assert HOOK_SECRET not in f"{caught.getrepr()}{caplog.text}"


def test_an_unreachable_webhook_is_reported_without_its_address() -> None:
    with pytest.raises(DeliveryError) as caught:
        sent(Webhook(Secret(f"http://127.0.0.1:9/services/{HOOK_SECRET}")))
    assert "could not be reached (ConnectionRefusedError)" in str(caught.value)
    assert HOOK_SECRET not in str(caught.getrepr())


def test_a_name_cannot_mention_all_members_in_slack(hook: Hook) -> None:
    sent(Webhook(Secret(hook.url)), "A&B <!channel>\nspa")
    assert hook.texts[0].splitlines()[0].startswith("A&amp;B &lt;!channel&gt; spa needs action")
    assert hook.agents == {"application/json"}


def test_a_mail_has_all_required_headers(mailbox: Mailbox) -> None:
    sent(email_to(mailbox), "Café\r\nBcc: everybody@agency.test")
    (mail,) = mailbox.mails
    assert mail["Subject"].replace("\N{WORD JOINER}", "") == (
        "[voiceai_pipeline] Café Bcc: everybody@agency.test needs action: Failed to refresh token"
    )
    assert mail["From"] == "Voice AI <alerts@agency.test>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == f"<7.opened.{AT.timestamp():.0f}@agency.test>"
    assert mail["Bcc"] is None
    assert mailbox.recipients == [["ops@agency.test"]]
    assert f"https://voice.test/users/{SPA.id}" in mail.get_content()


@pytest.mark.parametrize("security", ["plain", "starttls", "implicit"])
def test_user_and_password_are_sent_encrypted_wherever_the_server_can(
    tmp_path: Path, security: Security
) -> None:
    with running_mailbox(tmp_path, security) as mailbox:
        sent(email_to(mailbox, f"robot:{quote(MAIL_PASSWORD, safe='')}@"))
    assert mailbox.logins == [("robot", MAIL_PASSWORD, security != "plain")]
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize(
    ("security", "sentence"),
    [
        ("plain", "offers no encryption. Fix: use one that offers STARTTLS"),
        ("starttls", "could not be used (SSLCertVerificationError)"),
        ("implicit", "could not be used (SSLCertVerificationError)"),
    ],
)
def test_a_remote_mail_server_gets_nothing_without_encryption_and_a_valid_certificate(
    tmp_path: Path, security: Security, sentence: str
) -> None:
    with running_mailbox(tmp_path, security) as mailbox:
        # This machine by a name that does not look like it.
        elsewhere = email_to(mailbox, f"robot:{quote(MAIL_PASSWORD, safe='')}@", "127.1")
        with pytest.raises(DeliveryError) as caught:
            sent(elsewhere)
    assert sentence in str(caught.value)
    assert mailbox.logins == []
    assert mailbox.mails == []
    assert MAIL_PASSWORD not in str(caught.getrepr())


@pytest.mark.parametrize(
    ("verb", "reply", "sentence"),
    [
        (
            "AUTH",
            "535 no",
            "refused user and password (535). Fix: correct them in VOICEAI_SMTP_URL",
        ),
        ("RCPT", "550 nobody ops@agency.test", "refused every recipient (550)"),
        ("MAIL", "553 no", "refused the message (553). Fix: check VOICEAI_ALERT_EMAIL_FROM"),
        ("DATA", "451 later", "refused the message (451)"),
    ],
)
def test_a_mail_servers_refusal_is_reported_with_its_fix_and_without_addresses(
    mailbox: Mailbox, verb: str, reply: str, sentence: str
) -> None:
    mailbox.refusals = {verb: reply}
    with pytest.raises(DeliveryError) as caught:
        sent(email_to(mailbox, "robot:pass@"))
    assert sentence in str(caught.value)
    assert "agency.test" not in str(caught.value)
    assert mailbox.mails == []


def test_an_accepted_mail_counts_even_if_quit_fails(mailbox: Mailbox) -> None:
    mailbox.refusals = {"QUIT": HANGS_UP}
    sent(email_to(mailbox))
    assert len(mailbox.mails) == 1

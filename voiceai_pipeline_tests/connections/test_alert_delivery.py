"""Telling people: over real HTTP and SMTP, what the real token lifecycle has written down."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import alert_channels, alert_delivery, alert_messages, alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_channels import Channel, DeliveryError, Email, Webhook
from voiceai_pipeline.connections.alert_delivery import Delivery
from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.connections.alerts import Moment, Notice
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.failures import OUR_FAILURES, PROVIDER_FAILURES, FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import AlertSettings, PageSettings
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import Clock
from voiceai_pipeline_tests.support.receivers import (
    HANGS_UP,
    HOOK_SECRET,
    MAIL_PASSWORD,
    Hook,
    Mailbox,
    Security,
    running_hook,
    running_mailbox,
)

PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")
AT = datetime(2026, 11, 20, 8, 12, tzinfo=UTC)
SPA = User(UUID("00000000-0000-4000-8000-000000000001"), "Willow Spa")
TEN_MINUTES = timedelta(minutes=10)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as hook:
        yield hook


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    with running_mailbox(tmp_path) as mailbox:
        yield mailbox


def email_to(mailbox: Mailbox, login: str = "", host: str = "127.0.0.1") -> Email:
    url = mailbox.url.replace("127.0.0.1", f"{login}{host}")
    return Email(Secret(url), "Voice AI <alerts@agency.test>", ("ops@agency.test",))


@dataclass
class Told:
    """A webhook and a mailbox, told of everything."""

    engine: sa.Engine
    hook: Hook
    mailbox: Mailbox
    channels: list[Channel] = field(default_factory=list)

    def __call__(self) -> list[Delivery]:
        return [alert_delivery.deliver(self.engine, channel, PAGE) for channel in self.channels]

    @property
    def headlines(self) -> list[str]:
        return [text.splitlines()[0] for text in self.hook.texts]

    @property
    def subjects(self) -> list[str]:
        subjects = [mail["Subject"].strip() for mail in self.mailbox.mails]
        return [subject.removeprefix("[voiceai_pipeline] ") for subject in subjects]


@pytest.fixture
def told(engine: sa.Engine, hook: Hook, mailbox: Mailbox) -> Told:
    return Told(engine, hook, mailbox, [Webhook(Secret(hook.url)), email_to(mailbox)])


Connect = Callable[[str], Connection]


def problems(engine: sa.Engine, number: int) -> list[UUID]:
    """That many users who have to reconnect."""
    user_ids = [UUID(int=n) for n in range(1, number + 1)]
    with engine.begin() as db:
        for n, user_id in enumerate(user_ids, start=1):
            connections.add_user(db, user_id, business_name=f"Shop {n}")
            alerts.open_(db, user_id, FailureClass.REFRESH_REJECTED, AT)
    return user_ids


# From a change to one message --------------------------------------------------------------------


def test_a_hundred_failing_renewals_tell_each_channel_once_and_a_reconnection_once_more(
    told: Told, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    larch = connect("Larch Auto Care")
    sandbox.world.revoke(str(larch.location_id))
    clock.now += timedelta(days=2)
    for _ in range(100):
        clock.now += TEN_MINUTES
        assert tokens.refresh_due([larch.user.id])[larch.user.id] is not None
        told()
    began = ["Larch Auto Care needs a person: Failed to refresh token"]
    assert told.headlines == told.subjects == began

    connect("Larch Auto Care")
    for _ in range(3):
        told()
    assert told.headlines == told.subjects == [*began, "Larch Auto Care works again"]


def test_a_paused_location_is_nobodys_news(
    told: Told, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    willow = connect("Willow Spa")
    sandbox.world.pause(str(willow.location_id))
    for _ in range(5):
        clock.now += timedelta(days=2)
        tokens.refresh_due([willow.user.id])
        told()
    with told.engine.begin() as db:
        person = connections.one(db, willow.user.id, clock.now)
    assert person is not None
    assert person.state is ConnectionState.PAUSED
    assert told.headlines == told.subjects == []


def test_a_disconnection_by_hand_is_nobodys_news(
    told: Told,
    connect: Connect,
    tokens: Tokens,
    consent: Consent,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    larch = connect("Larch Auto Care")
    sandbox.world.revoke(str(larch.location_id))
    clock.now += timedelta(days=2)
    tokens.refresh_due([larch.user.id])
    told()
    consent.disconnect(larch.user.id)
    told()
    assert len(told.headlines) == len(told.subjects) == 1


def test_an_outage_of_hours_is_told_once_for_everybody_and_so_is_its_end(
    told: Told, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    user_ids = [connect(name).user.id for name in ("Harbor Dental", "Pine Realty")]
    sandbox.world.add_fault(Fault("server_error", path=TOKEN_PATH))
    clock.now += timedelta(days=2)
    for _ in range(30):
        clock.now += TEN_MINUTES
        tokens.refresh_due(user_ids)
        told()
    began = ["Renewals of all users are suspended: HighLevel answered with a server error"]
    assert told.headlines == told.subjects == began

    sandbox.world.clear_faults()
    for _ in range(3):
        clock.now += TEN_MINUTES
        tokens.refresh_due(user_ids)
        told()
    assert told.headlines == told.subjects == [*began, "Tokens of all users are renewed again"]


# Delivering --------------------------------------------------------------------------------------


def test_what_a_webhook_refuses_is_kept_and_told_exactly_once_later(told: Told) -> None:
    problems(told.engine, 1)
    told.hook.answers = [500]
    webhook, email = told()
    assert (webhook.told, webhook.kept) == (0, 1)
    assert webhook.reasons == ("The webhook answered 500. Fix: wait; it is tried again by itself.",)
    assert email == Delivery("email", told=1)
    for _ in range(3):
        told()
    assert len(told.headlines) == len(told.subjects) == 1
    assert told.hook.asked == 2


def test_a_mail_server_that_is_gone_keeps_nothing_from_the_webhook(told: Told) -> None:
    problems(told.engine, 2)
    told.channels[1] = Email(Secret("smtp://127.0.0.1:9"), "alerts@agency.test", ("a@agency.test",))
    webhook, email = told()
    assert webhook == Delivery("webhook", told=2)
    assert email.kept == 2
    (reason,) = email.reasons
    assert reason.startswith("The mail server could not be used (ConnectionRefusedError). Fix: ")


def test_a_notice_that_fails_stops_no_other(told: Told) -> None:
    problems(told.engine, 3)
    told.hook.answers = [200, 503, 200]
    assert told()[0].told == 2
    told()
    assert sorted(told.headlines) == [
        f"Shop {n} needs a person: Failed to refresh token" for n in (1, 2, 3)
    ]


def test_a_bug_in_a_channel_is_logged_without_what_it_was_given(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    problems(engine, 1)

    @dataclass
    class Broken:
        name: str = "broken"

        def send(self, message: Message) -> None:
            raise KeyError(HOOK_SECRET)

    delivery = alert_delivery.deliver(engine, Broken(), PAGE)
    assert (delivery.told, delivery.kept) == (0, 1)
    (reason,) = delivery.reasons
    assert reason.startswith("Unexpected error (KeyError). Fix: Report this as a bug")
    assert "in deliver" in caplog.text
    assert HOOK_SECRET not in caplog.text


@pytest.mark.parametrize("number", [3, 25], ids=["one by one", "digest"])
def test_two_deliveries_at_once_tell_once(number: int, engine: sa.Engine) -> None:
    problems(engine, number)
    sent: list[str] = []

    @dataclass
    class Slow:
        name: str = "slow"

        def send(self, message: Message) -> None:
            time.sleep(0.05)
            sent.append(message.headline)

    with ThreadPoolExecutor(4) as pool:
        both = list(pool.map(lambda _: alert_delivery.deliver(engine, Slow(), PAGE), range(4)))
    assert sum(delivery.told for delivery in both) == number
    assert len(sent) == len(set(sent)) == (number if number == 3 else 1)


def test_twenty_notices_at_once_are_still_twenty_messages(told: Told) -> None:
    problems(told.engine, 20)
    told()
    assert len(told.headlines) == len(told.subjects) == 20


def test_what_strikes_five_hundred_users_is_one_message_and_then_everybody_is_known(
    told: Told,
) -> None:
    user_ids = problems(told.engine, 500)
    assert [done.told for done in told()] == [500, 500]
    told()
    assert told.headlines == told.subjects == ["500 problems began, 0 problems ended"]
    text = told.hook.texts[0]
    assert "- Shop 1 needs a person: Failed to refresh token, since 2026-11-20 08:12 UTC" in text
    assert text.count("- Shop") == 50
    assert "and 450 more" in text
    assert "https://voice.test/" in text
    with told.engine.begin() as db:
        for user_id in user_ids:
            alerts.close(db, user_id, AT + timedelta(hours=1))
    told()
    assert told.headlines[1:] == told.subjects[1:] == ["0 problems began, 500 problems ended"]


def test_one_more_makes_a_digest_which_is_told_again_as_a_whole_if_it_was_not_taken(
    told: Told,
) -> None:
    problems(told.engine, 21)
    told.hook.answers = [502]
    assert told()[0] == Delivery(
        "webhook", 0, 21, ("The webhook answered 502. Fix: wait; it is tried again by itself.",)
    )
    told()
    assert told.headlines == ["21 problems began, 0 problems ended"]


def test_only_what_is_configured_is_told() -> None:
    everything = AlertSettings(
        Secret("https://hook.test/x"), ("a@b.test",), "c@b.test", Secret("smtp://mail.test")
    )
    assert [c.name for c in alert_channels.channels(everything)] == ["webhook", "email"]
    assert alert_channels.channels(AlertSettings(smtp_url=Secret("smtp://mail.test"))) == []


# Words -------------------------------------------------------------------------------------------


def notice(
    reason: FailureClass, user: User | None = SPA, moment: Moment = "opened", number: int = 7
) -> Notice:
    return Notice(number, moment, user, reason, AT)


def test_a_message_says_who_what_since_when_what_to_do_and_where() -> None:
    message = alert_messages.message_of(notice(FailureClass.REFRESH_REJECTED), PAGE)
    assert message.text == (
        "Willow Spa needs a person: Failed to refresh token\n"
        "Since 2026-11-20 08:12 UTC. Until it is done no calls of this user arrive; then they "
        "are filled in by themselves.\n"
        "What to do: Re-authorize the OAuth connection: voiceai-pipeline connect "
        f"{SPA.id}.\n"
        f"Connection: https://voice.test/users/{SPA.id}\n"
        f"Dagster: https://dagster.test/assets/user_tokens?view=partitions&partition={SPA.id}"
    )


@pytest.mark.parametrize(
    ("told", "headline", "sentence"),
    [
        (
            notice(FailureClass.LOCATION_PAUSED),
            "Willow Spa has been paused for so long that the connection will be lost",
            "In less than 30 days",
        ),
        (
            notice(FailureClass.PROVIDER_ERROR),
            "Willow Spa: renewing the token keeps failing: HighLevel answered with a server error",
            "It is tried again by itself",
        ),
        (
            notice(FailureClass.CLIENT_REFUSED, None),
            "Renewals of all users are suspended: HighLevel refused this app's client id or client "
            "secret",
            "No user has to reconnect",
        ),
        (
            notice(FailureClass.CLIENT_REFUSED, None, "closed"),
            "Tokens of all users are renewed again",
            "nothing is left to do",
        ),
        (
            notice(FailureClass.REFRESH_REJECTED, SPA, "closed"),
            "Willow Spa works again",
            "Days that waited are filled in by themselves.",
        ),
    ],
)
def test_each_kind_of_problem_has_its_words(told: Notice, headline: str, sentence: str) -> None:
    message = alert_messages.message_of(told, PAGE)
    assert message.headline == headline
    assert sentence in message.text
    assert ("What to do" in message.text) == (told.moment == "opened")


@pytest.mark.parametrize(
    ("reason", "user"),
    [(reason, SPA) for reason in FailureClass]
    + [(reason, None) for reason in sorted(OUR_FAILURES | PROVIDER_FAILURES)],
)
def test_every_reason_has_a_message_without_a_placeholder(
    reason: FailureClass, user: User | None
) -> None:
    text = alert_messages.message_of(notice(reason, user), PAGE).text
    assert " USER" not in text
    assert ".." not in text


def test_a_digest_begins_with_what_concerns_everybody() -> None:
    many = [notice(FailureClass.REFRESH_REJECTED, number=n) for n in range(60)]
    everybody = notice(FailureClass.CLIENT_REFUSED, None, number=99)
    message = alert_messages.digest([*many, everybody], PAGE)
    assert message.headline == "61 problems began, 0 problems ended"
    assert message.body[0].startswith("- Renewals of all users are suspended")


# Webhook -----------------------------------------------------------------------------------------


def sent(channel: Channel, name: str = "Willow Spa") -> None:
    about = notice(FailureClass.REFRESH_REJECTED, User(SPA.id, name))
    channel.send(alert_messages.message_of(about, PAGE))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (302, "a redirect (302), which is not followed. Fix: set VOICEAI_ALERT_WEBHOOK_URL"),
        (404, "refused the message (404). Fix: see whether it still exists"),
        (429, "answered 429. Fix: wait"),
        (500, "answered 500. Fix: wait"),
    ],
)
def test_a_webhooks_refusal_is_named_with_what_to_do_and_without_its_address(
    hook: Hook, status: int, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers = [status]
    with pytest.raises(DeliveryError) as caught:
        sent(Webhook(Secret(hook.url)))
    assert sentence in str(caught.value)
    assert hook.asked == 1
    assert HOOK_SECRET not in f"{caught.getrepr()}{caplog.text}"


def test_a_webhook_that_is_gone_is_named_without_its_address() -> None:
    with pytest.raises(DeliveryError) as caught:
        sent(Webhook(Secret(f"http://127.0.0.1:9/services/{HOOK_SECRET}")))
    assert "could not be reached (ConnectionRefusedError)" in str(caught.value)
    assert HOOK_SECRET not in str(caught.getrepr())


def test_a_name_cannot_call_everybody_in_slack(hook: Hook) -> None:
    sent(Webhook(Secret(hook.url)), "A&B <!channel>\nspa")
    assert hook.texts[0].splitlines()[0].startswith("A&amp;B &lt;!channel&gt; spa needs a person")
    assert hook.agents == {"application/json"}


# E-mail ------------------------------------------------------------------------------------------


def test_a_mail_has_what_a_mail_program_needs(mailbox: Mailbox) -> None:
    sent(email_to(mailbox), "Café\r\nBcc: everybody@agency.test")
    (mail,) = mailbox.mails
    assert mail["Subject"] == (
        "[voiceai_pipeline] Café Bcc: everybody@agency.test needs a person: Failed to refresh token"
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
def test_a_server_elsewhere_gets_nothing_unless_it_is_encrypted_and_who_it_says(
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
def test_a_mail_servers_refusal_is_named_with_what_to_do_and_without_people(
    mailbox: Mailbox, verb: str, reply: str, sentence: str
) -> None:
    mailbox.refusals = {verb: reply}
    with pytest.raises(DeliveryError) as caught:
        sent(email_to(mailbox, "robot:pass@"))
    assert sentence in str(caught.value)
    assert "agency.test" not in str(caught.value)
    assert mailbox.mails == []


def test_a_mail_that_was_taken_counts_however_the_goodbye_goes(mailbox: Mailbox) -> None:
    mailbox.refusals = {"QUIT": HANGS_UP}
    sent(email_to(mailbox))
    assert len(mailbox.mails) == 1

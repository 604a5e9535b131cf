"""Alerts are delivered to each channel exactly once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import alert_delivery, alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_channels import Channel, Email, Webhook
from voiceai_pipeline.connections.alert_delivery import Delivery
from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.alert_receivers import AT, PAGE, email_to
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.receivers import (
    HOOK_SECRET,
    Hook,
    Mailbox,
)

TEN_MINUTES = timedelta(minutes=10)


@dataclass
class Deliveries:
    """Delivers all pending notices to a webhook and a mailbox."""

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
def deliveries(engine: sa.Engine, hook: Hook, mailbox: Mailbox) -> Deliveries:
    return Deliveries(engine, hook, mailbox, [Webhook(Secret(hook.url)), email_to(mailbox)])


Connect = Callable[[str], Connection]


def problems(engine: sa.Engine, number: int) -> list[UUID]:
    """Add users who have to reconnect."""
    user_ids = [UUID(int=n) for n in range(1, number + 1)]
    with engine.begin() as db:
        for n, user_id in enumerate(user_ids, start=1):
            connections.add_user(db, user_id, business_name=f"Shop {n}")
            alerts.open_(db, user_id, FailureClass.REFRESH_REJECTED, AT)
    return user_ids


def test_a_hundred_failed_refreshes_notify_each_channel_once_and_a_reconnection_once(
    deliveries: Deliveries, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    larch = connect("Larch Auto Care")
    sandbox.world.revoke(str(larch.location_id))
    clock.now += timedelta(days=2)
    for _ in range(100):
        clock.now += TEN_MINUTES
        assert tokens.refresh_due([larch.user.id])[larch.user.id] is not None
        deliveries()
    opened = ["Larch Auto Care needs action: Failed to refresh token"]
    assert deliveries.headlines == deliveries.subjects == opened

    connect("Larch Auto Care")
    for _ in range(3):
        deliveries()
    assert deliveries.headlines == deliveries.subjects == [*opened, "Larch Auto Care works again"]


def test_a_paused_location_raises_no_alert(
    deliveries: Deliveries, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    willow = connect("Willow Spa")
    sandbox.world.pause(str(willow.location_id))
    for _ in range(5):
        clock.now += timedelta(days=2)
        tokens.refresh_due([willow.user.id])
        deliveries()
    with deliveries.engine.begin() as db:
        connection = connections.one(db, willow.user.id, clock.now)
    assert connection is not None
    assert connection.state is ConnectionState.PAUSED
    assert deliveries.headlines == deliveries.subjects == []


def test_a_manual_disconnection_raises_no_alert(
    deliveries: Deliveries,
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
    deliveries()
    consent.disconnect(larch.user.id)
    deliveries()
    assert len(deliveries.headlines) == len(deliveries.subjects) == 1


def test_an_outage_of_hours_is_one_alert_for_all_users_when_it_opens_and_closes(
    deliveries: Deliveries, connect: Connect, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    user_ids = [connect(name).user.id for name in ("Harbor Dental", "Pine Realty")]
    sandbox.world.add_fault(Fault("server_error", path=TOKEN_PATH))
    clock.now += timedelta(days=2)
    for _ in range(30):
        clock.now += TEN_MINUTES
        tokens.refresh_due(user_ids)
        deliveries()
    opened = ["Token refresh is suspended for all users: HighLevel answered with a server error"]
    assert deliveries.headlines == deliveries.subjects == opened

    sandbox.world.clear_faults()
    for _ in range(3):
        clock.now += TEN_MINUTES
        tokens.refresh_due(user_ids)
        deliveries()
    assert (
        deliveries.headlines
        == deliveries.subjects
        == [*opened, "Token refresh works again for all users"]
    )


def test_a_notice_that_the_webhook_refuses_is_delivered_exactly_once_later(
    deliveries: Deliveries,
) -> None:
    problems(deliveries.engine, 1)
    deliveries.hook.answers = [500]
    webhook, email = deliveries()
    assert (webhook.delivered, webhook.kept) == (0, 1)
    assert webhook.reasons == (
        "The webhook answered 500. Fix: none needed; it is retried automatically.",
    )
    assert email == Delivery("email", delivered=1)
    for _ in range(3):
        deliveries()
    assert len(deliveries.headlines) == len(deliveries.subjects) == 1
    assert deliveries.hook.asked == 2


def test_a_mail_server_that_is_down_does_not_stop_the_webhook(deliveries: Deliveries) -> None:
    problems(deliveries.engine, 2)
    deliveries.channels[1] = Email(
        Secret("smtp://127.0.0.1:9"), "alerts@agency.test", ("a@agency.test",)
    )
    webhook, email = deliveries()
    assert webhook == Delivery("webhook", delivered=2)
    assert email.kept == 2
    (reason,) = email.reasons
    assert reason.startswith("The mail server could not be used (ConnectionRefusedError). Fix: ")


def test_a_failed_notice_does_not_stop_the_others(deliveries: Deliveries) -> None:
    problems(deliveries.engine, 3)
    deliveries.hook.answers = [200, 503, 200]
    assert deliveries()[0].delivered == 2
    deliveries()
    assert sorted(deliveries.headlines) == [
        f"Shop {n} needs action: Failed to refresh token" for n in (1, 2, 3)
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
    assert (delivery.delivered, delivery.kept) == (0, 1)
    (reason,) = delivery.reasons
    assert reason.startswith("Unexpected error (KeyError). Fix: Report this as a bug")
    assert "in deliver" in caplog.text
    assert HOOK_SECRET not in caplog.text


@pytest.mark.parametrize("number", [3, 25], ids=["one by one", "digest"])
def test_two_concurrent_deliveries_send_each_notice_once(number: int, engine: sa.Engine) -> None:
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
    assert sum(delivery.delivered for delivery in both) == number
    assert len(sent) == len(set(sent)) == (number if number == 3 else 1)


def test_twenty_notices_at_once_are_still_twenty_messages(deliveries: Deliveries) -> None:
    problems(deliveries.engine, 20)
    deliveries()
    assert len(deliveries.headlines) == len(deliveries.subjects) == 20


def test_a_problem_of_five_hundred_users_is_one_message(
    deliveries: Deliveries,
) -> None:
    user_ids = problems(deliveries.engine, 500)
    assert [done.delivered for done in deliveries()] == [500, 500]
    deliveries()
    assert deliveries.headlines == deliveries.subjects == ["500 new problems, 0 resolved"]
    text = deliveries.hook.texts[0]
    assert "- Shop 1 needs action: Failed to refresh token, since 2026-11-20 08:12 UTC" in text
    assert text.count("- Shop") == 50
    assert "and 450 more" in text
    assert "https://voice.test/" in text
    with deliveries.engine.begin() as db:
        for user_id in user_ids:
            alerts.close(db, user_id, AT + timedelta(hours=1))
    deliveries()
    assert deliveries.headlines[1:] == deliveries.subjects[1:] == ["0 new problems, 500 resolved"]


def test_twenty_one_notices_are_one_digest_that_is_retried_as_a_whole(
    deliveries: Deliveries,
) -> None:
    problems(deliveries.engine, 21)
    deliveries.hook.answers = [502]
    assert deliveries()[0] == Delivery(
        "webhook",
        0,
        21,
        ("The webhook answered 502. Fix: none needed; it is retried automatically.",),
    )
    deliveries()
    assert deliveries.headlines == ["21 new problems, 0 resolved"]

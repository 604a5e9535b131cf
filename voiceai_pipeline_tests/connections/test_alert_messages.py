"""The text of alerts."""

import re
from dataclasses import replace

import pytest

from voiceai_pipeline.connections import alert_messages
from voiceai_pipeline.connections.alerts import Notice
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import OUR_FAILURES, PROVIDER_FAILURES, FailureClass
from voiceai_pipeline.core.foreign_text import JOINER
from voiceai_pipeline_tests.support.alert_receivers import PAGE, SPA, notice


def test_a_message_names_user_problem_start_fix_and_links() -> None:
    message = alert_messages.message_of(notice(FailureClass.REFRESH_REJECTED), PAGE)
    assert message.text == (
        "Willow Spa needs action: Failed to refresh token\n"
        "Since 2026-11-20 08:12 UTC. Until then no calls of this user are synced; the gap is "
        "filled automatically afterwards.\n"
        "What to do: Re-authorize the OAuth connection: voiceai-pipeline connect "
        f"{SPA.id}.\n"
        f"Connection: https://voice.test/users/{SPA.id}\n"
        f"Dagster: https://dagster.test/assets/user_tokens?view=partitions&partition={SPA.id}"
    )


@pytest.mark.parametrize(
    ("one", "headline", "sentence"),
    [
        (
            notice(FailureClass.LOCATION_PAUSED),
            "Willow Spa has been paused for so long that the connection will be lost",
            "In less than 30 days",
        ),
        (
            notice(FailureClass.PROVIDER_ERROR),
            "Willow Spa: token refresh keeps failing: HighLevel answered with a server error",
            "It is retried automatically",
        ),
        (
            notice(FailureClass.CLIENT_REFUSED, None),
            "Token refresh is suspended for all users: HighLevel refused this app's client id or "
            "client secret",
            "No user has to reconnect",
        ),
        (
            notice(FailureClass.CLIENT_REFUSED, None, "closed"),
            "Token refresh works again for all users",
            "No action needed",
        ),
        (
            notice(FailureClass.LOGINS_FAILING, None),
            "Ten logins to the pages failed within ten minutes",
            "Logins: https://voice.test/logins",
        ),
        (
            notice(FailureClass.REFRESH_REJECTED, SPA, "closed"),
            "Willow Spa works again",
            "Days that were waiting are filled automatically.",
        ),
    ],
)
def test_each_kind_of_problem_has_its_own_text(one: Notice, headline: str, sentence: str) -> None:
    message = alert_messages.message_of(one, PAGE)
    assert message.headline == headline
    assert sentence in message.text
    assert ("What to do" in message.text) == (one.moment == "opened")


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


def test_a_digest_starts_with_problems_of_all_users() -> None:
    many = [notice(FailureClass.REFRESH_REJECTED, number=n) for n in range(60)]
    for_all = notice(FailureClass.CLIENT_REFUSED, None, number=99)
    message = alert_messages.digest([*many, for_all], PAGE)
    assert message.headline == "61 new problems, 0 resolved"
    assert message.body[0].startswith("- Token refresh is suspended for all users")


def test_a_name_is_no_link_in_a_mail_or_a_chat() -> None:
    typed = "At https://evil.test/x, HTTP://a.test, www.evil.test or bill.me@evil.test"
    named = replace(SPA, name=typed)
    message = alert_messages.message_of(notice(FailureClass.REFRESH_REJECTED, named), PAGE)
    for text in (message.headline, message.text.partition("\n")[0]):
        assert text.replace(JOINER, "").startswith(typed[:60])
        assert not re.search(r"(?i)https?://|www\.|\w@|\w\.[a-z]{2}", text)

"""Messages: kept once, and the reads that they plan."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import hints
from voiceai_pipeline.core.webhook import MessageType, Refusal, WebhookMessage
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.hinted_calls import due, ended, pass_time, rows, tell
from voiceai_pipeline_tests.support.synced_calls import HARBOR


@pytest.fixture(autouse=True)
def harbor(connect: Connector) -> None:
    connect("Harbor Dental")


def test_a_repeated_message_plans_nothing_new(engine: sa.Engine) -> None:
    message = ended("6740aa000000000000000001", message_id="one")

    assert tell(engine, message)
    assert not tell(engine, message, message)
    assert rows(engine, "SELECT count(*) FROM call_hints") == [(1,)]


def test_a_message_is_recognized_for_thirty_days(engine: sa.Engine) -> None:
    message = ended("6740aa000000000000000001", message_id="one")
    tell(engine, message)
    for passed, is_news in ((29, False), (2, True)):
        pass_time(engine, timedelta(days=passed))
        with engine.begin() as db:
            hints.purge(db)
        assert tell(engine, message) is is_news


def test_a_location_without_a_connected_user_is_counted_and_not_read(engine: sa.Engine) -> None:
    assert not tell(engine, ended("6740aa000000000000000001", "LocOfAnotherApp00000"))

    assert due(engine) == []
    assert rows(engine, "SELECT type, is_ours FROM webhook_messages") == [("call_ended", False)]


def test_hints_of_a_busy_location_wait_two_seconds_for_each_other(engine: sa.Engine) -> None:
    tell(engine, ended("6740aa000000000000000001"))
    ((at,),) = rows(engine, "SELECT clock_timestamp()")
    with engine.begin() as db:
        hints.start(db, HARBOR, at)

    assert due(engine) == []
    pass_time(engine, hints.SPACING)
    assert [one.location_id for one in due(engine)] == [HARBOR]


def test_a_hint_that_arrives_during_a_read_is_still_due_after_it(engine: sa.Engine) -> None:
    tell(engine, ended("6740aa000000000000000001"))
    ((began,),) = rows(engine, "SELECT clock_timestamp()")
    tell(engine, ended("6740aa000000000000000002"))
    with engine.begin() as db:
        hints.finish(db, HARBOR, began, began, [])

    assert len(due(engine)) == 1
    found = rows(engine, "SELECT call_id, reads FROM call_hints ORDER BY 1")
    assert [reads for _, reads in found] == [1, 0]


def test_the_last_read_of_a_hint_is_not_spent_by_an_earlier_read_of_its_location(
    engine: sa.Engine,
) -> None:
    tell(engine, ended("6740aa000000000000000001"))
    with engine.begin() as db:
        db.execute(sa.text("UPDATE call_hints SET reads = 3, due_at = now() + interval '1 hour'"))
        ((at,),) = db.execute(sa.text("SELECT clock_timestamp()"))
        hints.finish(db, HARBOR, at, at, [])

    assert rows(engine, "SELECT reads FROM call_hints") == [(3,)]


def test_only_removals_of_connected_locations_are_to_be_checked(engine: sa.Engine) -> None:
    for message_id, location in (("ours", HARBOR), ("theirs", "LocOfAnotherApp00000")):
        tell(engine, WebhookMessage(message_id, MessageType.UNINSTALLED, location))
    with engine.begin() as db:
        assert hints.uninstalled(db) == [("ours", HARBOR, None)]
        hints.handled(db, "ours")
        assert hints.uninstalled(db) == []


def test_refusals_are_counted_by_day_and_reason(engine: sa.Engine) -> None:
    with engine.begin() as db:
        hints.count_refusals(db, {Refusal.UNSIGNED: 3, Refusal.OTHER_APP: 1})
        hints.count_refusals(db, {Refusal.UNSIGNED: 2})

    query = "SELECT reason, messages FROM webhook_refusals ORDER BY 1"
    assert rows(engine, query) == [("other_app", 1), ("unsigned", 5)]

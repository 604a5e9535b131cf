"""What is known about how calls arrive."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import freshness, hints
from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.core.webhook import MessageType, Refusal, WebhookMessage
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.hinted_calls import ended, now, pass_time, rows, tell
from voiceai_pipeline_tests.support.synced_calls import HARBOR, QUIET


@pytest.fixture(autouse=True)
def connected(connect: Connector) -> None:
    connect("Harbor Dental")
    connect("Quiet Law")


def add_call(engine: sa.Engine, location_id: str, ago: timedelta) -> None:
    with engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO call_logs (location_id, call_id, started_at, executed_call_actions, "
                "raw, content_hash, first_seen_at, last_changed_at) "
                "VALUES (:location, 'c', :at, '[]', '{}', '', now(), now())"
            ),
            {"location": location_id, "at": now() - ago},
        )


def of(engine: sa.Engine, location_id: str) -> Freshness:
    with engine.begin() as db:
        return freshness.of_locations(db, [location_id])[location_id]


def test_a_location_that_cannot_be_synced_is_not_judged(engine: sa.Engine) -> None:
    with engine.begin() as db:
        pause = "UPDATE api_keys SET connection_state = 'paused' WHERE location_id = :location"
        db.execute(sa.text(pause), {"location": QUIET})
        assert [name for name, _ in freshness.of_connected(db)] == ["Harbor Dental"]


def test_without_any_message_nothing_is_unusual(engine: sa.Engine) -> None:
    add_call(engine, HARBOR, timedelta(hours=3))

    assert of(engine, HARBOR) == Freshness(None, None, is_polled=False)


def test_calls_from_before_the_first_message_say_nothing_about_delivery(engine: sa.Engine) -> None:
    add_call(engine, QUIET, timedelta(hours=3))
    tell(engine, ended("6740aa000000000000000001", HARBOR))

    assert not of(engine, QUIET).is_polled


def test_calls_that_only_syncs_find_while_others_are_announced_are_noticed(
    engine: sa.Engine,
) -> None:
    tell(engine, ended("6740aa000000000000000001", HARBOR))
    pass_time(engine, timedelta(hours=4))
    add_call(engine, QUIET, timedelta(hours=3))

    assert of(engine, QUIET).is_polled
    assert not of(engine, HARBOR).is_polled
    with engine.begin() as db:
        assert freshness.delivery(db).polled == ("Quiet Law",)


@pytest.mark.parametrize(("minutes", "is_polled"), [(5, False), (60, True), (25 * 60, False)])
def test_a_location_whose_messages_have_stopped_is_noticed_by_its_newer_calls(
    engine: sa.Engine, minutes: int, is_polled: bool
) -> None:
    tell(engine, ended("6740aa000000000000000001", HARBOR))
    pass_time(engine, timedelta(hours=30))
    add_call(engine, HARBOR, timedelta(minutes=minutes))

    assert of(engine, HARBOR).is_polled is is_polled


def test_calls_are_seen_until_the_last_read_of_either_kind(engine: sa.Engine) -> None:
    at = now()
    with engine.begin() as db:
        hints.start(db, HARBOR, at)
        hints.finish(db, HARBOR, at, at, [])

    assert of(engine, HARBOR).seen_until == at


def test_delivery_counts_what_arrived_and_what_was_refused_in_the_last_day(
    engine: sa.Engine,
) -> None:
    tell(engine, WebhookMessage("old", MessageType.OTHER))
    pass_time(engine, timedelta(hours=25))
    tell(engine, WebhookMessage("new", MessageType.OTHER))
    with engine.begin() as db:
        hints.count_refusals(db, {Refusal.UNSIGNED: 4})
        found = freshness.delivery(db)

    ((last,),) = rows(engine, "SELECT max(received_at) FROM webhook_messages")
    assert (found.messages, found.refused) == (1, {"unsigned": 4})
    assert found.last_message_at == last

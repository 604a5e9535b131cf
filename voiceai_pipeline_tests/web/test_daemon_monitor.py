"""Somebody outside Dagster tells people that it is dead, once, and that it lives again, once."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections.alert_channels import Channel, Webhook
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.web.daemon_monitor import SILENCE, Watch
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline_tests.conftest import NOON, Clock
from voiceai_pipeline_tests.support.receivers import Hook, running_hook

PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")
BEGAN = (
    "Nothing is scheduled any more: Dagster's daemon and sensors have given no sign of life for "
    "half an hour"
)


@dataclass
class Lab:
    """A Dagster that beats until it is stopped, and somebody who watches."""

    engine: sa.Engine
    clock: Clock
    hook: Hook
    last: datetime | None = None
    is_alive: bool = True
    answers: bool = True

    def sign(self) -> datetime | None:
        if not self.answers:
            raise DagsterError("It does not answer.")
        if self.is_alive:
            self.last = self.clock.now
        return self.last

    def watch(self) -> Watch:
        channels: list[Channel] = [Webhook(Secret(self.hook.url))]
        return Watch(self.engine, self.sign, channels, PAGE, now=self.clock)

    def look(self, watch: Watch, minutes: int) -> list[str]:
        """Look every minute; the headlines that were told meanwhile."""
        before = len(self.hook.texts)
        for _ in range(minutes):
            self.clock.sleep(60)
            watch.look()
        return [text.splitlines()[0] for text in self.hook.texts[before:]]


@pytest.fixture
def lab(engine: sa.Engine, clock: Clock) -> Iterator[Lab]:
    with running_hook() as hook:
        yield Lab(engine, clock, hook)


def test_half_an_hour_of_silence_is_told_once_and_its_end_once(lab: Lab) -> None:
    watch = lab.watch()
    watch.look()
    assert lab.look(watch, 120) == []
    lab.is_alive = False
    assert timedelta(minutes=30) == SILENCE
    assert lab.look(watch, 29) == []
    assert lab.look(watch, 1) == [BEGAN]
    text = lab.hook.texts[0]
    assert "No day is read and no token is renewed until it runs again" in text
    assert "What to do: See under Deployment in Dagster's UI what stands still" in text
    assert "https://dagster.test/deployment/daemons" in text
    assert lab.look(watch, 200) == []

    lab.is_alive = True
    assert lab.look(watch, 1) == ["Dagster works again"]
    assert lab.look(watch, 60) == []


def test_a_webserver_that_does_not_answer_is_no_sign_of_life(lab: Lab) -> None:
    watch = lab.watch()
    watch.look()
    lab.answers = False
    assert lab.look(watch, 29) == []
    lab.answers = True  # a restart of the webserver tells nobody
    assert lab.look(watch, 5) == []
    lab.answers = False
    assert lab.look(watch, 40) == [BEGAN]


def test_what_was_silent_before_anybody_looked_has_half_an_hour_to_begin(lab: Lab) -> None:
    lab.is_alive, lab.last = False, NOON - timedelta(days=3)
    watch = lab.watch()
    watch.look()
    assert lab.look(watch, 29) == []
    assert lab.look(watch, 1) == [BEGAN]


def test_who_watches_may_be_started_again_and_a_channel_may_be_down(lab: Lab) -> None:
    lab.is_alive = False
    lab.hook.answers = [500, 500]
    watch = lab.watch()
    watch.look()
    assert lab.look(watch, 31) == []  # refused twice
    assert lab.look(watch, 1) == [BEGAN]
    again = lab.watch()
    again.look()
    lab.is_alive = True
    assert lab.look(again, 3) == ["Dagster works again"]


def test_a_circuit_that_closes_meanwhile_does_not_end_the_silence(lab: Lab) -> None:
    lab.is_alive = False
    watch = lab.watch()
    watch.look()
    lab.look(watch, 30)
    with lab.engine.begin() as db:
        alerts.open_(db, None, FailureClass.CLIENT_REFUSED, lab.clock.now)
        alerts.close(db, None, lab.clock.now)
    assert lab.look(watch, 3) == []

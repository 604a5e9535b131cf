"""One alert when Dagster stops, one when it runs again."""

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
from voiceai_pipeline.web.daemon_monitor import SILENCE, DaemonMonitor
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.receivers import Hook, running_hook

PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")
STOPPED = (
    "Scheduling has stopped: Dagster's daemon and sensors have given no sign of life for half an "
    "hour"
)


@dataclass
class Lab:
    """A Dagster with a heartbeat until it is stopped, and a monitor with a webhook."""

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

    def monitor(self) -> DaemonMonitor:
        channels: list[Channel] = [Webhook(Secret(self.hook.url))]
        return DaemonMonitor(self.engine, self.sign, channels, PAGE, now=self.clock)

    def check(self, monitor: DaemonMonitor, minutes: int) -> list[str]:
        """Check every minute; the headlines of the alerts sent meanwhile."""
        before = len(self.hook.texts)
        for _ in range(minutes):
            self.clock.sleep(60)
            monitor.check()
        return [text.splitlines()[0] for text in self.hook.texts[before:]]


@pytest.fixture
def lab(engine: sa.Engine, clock: Clock) -> Iterator[Lab]:
    with running_hook() as hook:
        yield Lab(engine, clock, hook)


def test_half_an_hour_of_silence_is_one_alert_and_its_end_another(lab: Lab) -> None:
    monitor = lab.monitor()
    monitor.check()
    assert lab.check(monitor, 120) == []
    lab.is_alive = False
    assert timedelta(minutes=30) == SILENCE
    assert lab.check(monitor, 29) == []
    assert lab.check(monitor, 1) == [STOPPED]
    text = lab.hook.texts[0]
    assert "No day is synced and no token refreshed until it runs again" in text
    assert "What to do: Find out under Deployment in Dagster's UI what has stopped" in text
    assert "https://dagster.test/deployment/daemons" in text
    assert lab.check(monitor, 200) == []

    lab.is_alive = True
    assert lab.check(monitor, 1) == ["Dagster works again"]
    assert lab.check(monitor, 60) == []


def test_an_unavailable_webserver_gives_no_sign_of_life(lab: Lab) -> None:
    monitor = lab.monitor()
    monitor.check()
    lab.answers = False
    assert lab.check(monitor, 29) == []
    lab.answers = True  # a restart of the webserver is no alert
    assert lab.check(monitor, 5) == []
    lab.answers = False
    assert lab.check(monitor, 40) == [STOPPED]


def test_silence_counts_from_the_first_check(lab: Lab) -> None:
    lab.is_alive, lab.last = False, NOON - timedelta(days=3)
    monitor = lab.monitor()
    monitor.check()
    assert lab.check(monitor, 29) == []
    assert lab.check(monitor, 1) == [STOPPED]


def test_the_monitor_may_restart_and_a_channel_may_be_down(lab: Lab) -> None:
    lab.is_alive = False
    lab.hook.answers = [500, 500]
    monitor = lab.monitor()
    monitor.check()
    assert lab.check(monitor, 31) == []  # refused twice
    assert lab.check(monitor, 1) == [STOPPED]
    again = lab.monitor()
    again.check()
    lab.is_alive = True
    assert lab.check(again, 3) == ["Dagster works again"]


def test_a_circuit_breaker_that_closes_meanwhile_does_not_close_this_alert(lab: Lab) -> None:
    lab.is_alive = False
    monitor = lab.monitor()
    monitor.check()
    lab.check(monitor, 30)
    with lab.engine.begin() as db:
        alerts.open_(db, None, FailureClass.CLIENT_REFUSED, lab.clock.now)
        alerts.close(db, None, lab.clock.now)
    assert lab.check(monitor, 3) == []

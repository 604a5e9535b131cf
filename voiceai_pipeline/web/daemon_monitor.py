"""Sends an alert when Dagster's daemon or sensors have stopped, and one when they run again.

Dagster sends all other alerts, but cannot report its own death; the web process runs without the
daemon. Texts and channels are in ``connections``, which also sends each alert only once.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.connections import alert_delivery, alerts
from voiceai_pipeline.connections.alert_channels import Channel
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.database.engine import read_clock
from voiceai_pipeline.web.dagster_client import DagsterError

log = logging.getLogger(__name__)

SILENCE: Final = timedelta(minutes=30)
"""Without a sign of life for this long Dagster counts as stopped, as in its own UI."""

INTERVAL: Final = timedelta(minutes=3)
"""Interval between two checks."""


class DaemonMonitor:
    """Remembers the last sign of life; open alerts are in the database.

    Args:
        last_sign: returns when Dagster's daemon and sensors were last active (UTC), None: never.
            May raise ``DagsterError``.
        now: replaces the database's clock in simulations; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        last_sign: Callable[[], datetime | None],
        channels: Sequence[Channel],
        page: PageSettings,
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._last_sign = last_sign
        self._channels = channels
        self._page = page
        self._now = now
        self._alive_at: datetime | None = None

    def check(self) -> None:
        """Check once; send an alert if Dagster has stopped, or runs again.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
        """
        try:
            sign = self._last_sign()
        except DagsterError:
            sign = None
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            # The web process starts before the daemon, so silence counts from the first check. A
            # check without a sign of life does not close an open alert.
            known = self._alive_at or now
            self._alive_at = known if sign is None else max(sign, known)
            is_news = False
            if now - self._alive_at >= SILENCE:
                alerts.open_(db, None, FailureClass.DAGSTER_SILENT, now, subject=alerts.DAEMON)
                is_news = True
            elif sign is not None and now - sign < SILENCE:
                is_news = alerts.close(db, None, now, subject=alerts.DAEMON)
        # At every check while Dagster is silent: a channel that was down is retried only here.
        for channel in self._channels if is_news else ():
            for reason in alert_delivery.deliver(self._engine, channel, self._page).reasons:
                log.warning("%s: %s", channel.name, reason)


@contextlib.contextmanager
def monitoring(monitor: DaemonMonitor) -> Iterator[None]:
    """Check at intervals, in a background thread, until the ``with`` block ends."""
    stop = threading.Event()

    def keep_checking() -> None:
        while True:
            try:
                monitor.check()
            except sa.exc.SQLAlchemyError as error:
                log.warning("the database is unavailable: %s", type(error).__name__)
            if stop.wait(INTERVAL.total_seconds()):
                return

    thread = threading.Thread(target=keep_checking, name="daemon monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)

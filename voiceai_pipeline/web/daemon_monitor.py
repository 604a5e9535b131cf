"""Tells people that nothing is scheduled any more: Dagster has given no sign of life for a while.

Everything else that tells people runs in Dagster, which cannot tell of its own end. So the process
of the Connections page looks every few minutes; it lives without the daemon. The words and the
channels are ``alert_delivery``'s, and that it is told once is ``connections.alerts``'.
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
"""Without a sign of life for so long Dagster is taken for dead; so does Dagster itself."""

EVERY: Final = timedelta(minutes=3)
"""How often it is looked at."""


class Watch:
    """Remembers the last sign of life, and what people were told lies in the database.

    Args:
        last_sign: asks Dagster when its daemon and sensors last showed themselves (UTC); None:
            never. May raise ``DagsterError``.
        now: replaces the database's clock where time is simulated; aware UTC.
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

    def look(self) -> None:
        """Look once; tell people if the silence has become too long, or has ended.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        try:
            sign = self._last_sign()
        except DagsterError:
            sign = None
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            # What was silent before anybody looked has a while to show itself: at a start the page
            # comes before the daemon. Nor has it ended because somebody else begins to look.
            known = self._alive_at or now
            self._alive_at = known if sign is None else max(sign, known)
            is_news = False
            if now - self._alive_at >= SILENCE:
                alerts.open_(db, None, FailureClass.DAGSTER_SILENT, now, subject=alerts.DAEMON)
                is_news = True
            elif sign is not None and now - sign < SILENCE:
                is_news = alerts.close(db, None, now, subject=alerts.DAEMON)
        # As long as it is silent: a channel that was down is tried again, and nobody else does it.
        for channel in self._channels if is_news else ():
            for reason in alert_delivery.deliver(self._engine, channel, self._page).reasons:
                log.warning("%s: %s", channel.name, reason)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Look again and again, in a thread of its own, while the ``with`` lasts."""
    stop = threading.Event()

    def keep_looking() -> None:
        while True:
            try:
                watch.look()
            except sa.exc.SQLAlchemyError as error:
                log.warning("the database does not answer: %s", type(error).__name__)
            if stop.wait(EVERY.total_seconds()):
                return

    thread = threading.Thread(target=keep_looking, name="deadman", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)

"""Does what HighLevel's messages ask for, in the background of the web process: reads the locations
whose calls have ended, and checks connections whose app was removed.

Not a Dagster run: starting one takes longer than the whole read, and 10,000 calls a day would
leave more Dagster events than calls (decision 27). Several web processes may run: a location's
lease lets only one of them read it at a time.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls import hints
from voiceai_pipeline.calls.hinted_sync import HintedSync
from voiceai_pipeline.calls.hints import HintedLocation
from voiceai_pipeline.connections.app_removal import AppRemoval
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import autocommit
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.web.webhooks import Inbox

log = logging.getLogger(__name__)

READERS: Final = 6
"""Locations read concurrently."""

_POLL: Final = 1.0
"""Seconds between polls for what is due; a message to this process is handled at once."""

_RETRY: Final = 60.0
"""Seconds until the removal of an app is checked again if HighLevel did not answer."""

_HOUR: Final = 3600.0


class HintReader:
    """Polls for what is due, and does it; one per process."""

    def __init__(
        self,
        engine: sa.Engine,
        sync: HintedSync,
        removal: AppRemoval,
        inbox: Inbox,
    ) -> None:
        self._engine = engine
        self._sync = sync
        self._removal = removal
        self._inbox = inbox
        self._reading: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}
        self._purged_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Poll and do what is due until ``stop`` is set."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="hinted read") as pool:
            while not stop.is_set():
                try:
                    self._look(pool)
                except sa.exc.SQLAlchemyError as error:
                    log.warning("the database is unavailable: %s", type(error).__name__)
                    stop.wait(_POLL * 5)
                except Exception as error:
                    unexpected(error)
                    stop.wait(_POLL * 5)
                self._inbox.arrived.wait(_POLL)
                self._inbox.arrived.clear()

    def _look(self, pool: ThreadPoolExecutor) -> None:
        self._reading = {key: one for key, one in self._reading.items() if not one.done()}
        with autocommit(self._engine) as db:
            due = hints.due(db, READERS * 4)
            removals = hints.uninstalled(db)
        for hinted in due:
            if hinted.location_id not in self._reading:
                self._reading[hinted.location_id] = pool.submit(self._read, hinted)
        now = time.monotonic()
        for message_id, location_id, company_id in removals:
            if message_id not in self._reading and self._not_before.get(message_id, 0) <= now:
                self._reading[message_id] = pool.submit(
                    self._check, message_id, location_id, company_id
                )
        self._keep_counts()

    def _read(self, hinted: HintedLocation) -> None:
        try:
            self._sync.read(hinted)
        except sa.exc.SQLAlchemyError as error:
            # The hint stays due.
            log.warning("location %s: %s", hinted.location_id, type(error).__name__)

    def _check(self, message_id: str, location_id: str | None, company_id: str | None) -> None:
        try:
            marked = self._removal.check(location_id, company_id)
            with self._engine.begin() as db:
                hints.handled(db, message_id)
            self._not_before.pop(message_id, None)
        except Exception as error:
            if not isinstance(error, (PipelineError, sa.exc.SQLAlchemyError)):
                unexpected(error)
            log.warning("an announced removal of the app could not be checked: %s",
                        type(error).__name__)  # fmt: skip
            self._not_before[message_id] = time.monotonic() + _RETRY
            return
        for connection in marked:
            log.info("user %s: the app was removed in HighLevel", connection.user.id)

    def _keep_counts(self) -> None:
        refusals = self._inbox.take_refusals()
        is_time = time.monotonic() - self._purged_at > _HOUR
        if not refusals and not is_time:
            return
        with self._engine.begin() as db:
            hints.count_refusals(db, refusals)
            if is_time:
                hints.purge(db)
        if is_time:
            self._purged_at = time.monotonic()


@contextlib.contextmanager
def reading(pipeline: Pipeline, inbox: Inbox) -> Iterator[None]:
    """Do what messages ask for, in a background thread, until the ``with`` block ends."""
    engine, client, tokens = pipeline.engine, pipeline.client, pipeline.tokens
    reader = HintReader(
        engine,
        HintedSync(engine, tokens, client, pipeline.zone),
        AppRemoval(engine, tokens.vault, client, Actor("webhook")),
        inbox,
    )
    stop = threading.Event()
    thread = threading.Thread(target=reader.run, args=(stop,), name="hint reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        client.reads.stop()
        inbox.arrived.set()
        thread.join(10)

"""Keeps the full-text index of calls, in the background of the web process.

Not a part of a sync, which must not wait for it, and not a Dagster run, because most polls find
nothing to do. Several web processes may run; one of them indexes at a time (``call_words``).
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.core.unexpected import unexpected

log = logging.getLogger(__name__)

_POLL: Final = 10.0
"""Seconds between polls for calls that are new or have changed."""

_AFTER_ERROR: Final = 60.0


def keep(engine: sa.Engine, stop: threading.Event) -> None:
    """Index calls until ``stop`` is set."""
    pause = 0.0
    while not stop.wait(pause):
        try:
            with engine.begin() as db:
                # With many calls, as after an upgrade, the next batch follows at once.
                pause = 0.0 if call_words.keep(db) == call_words.AT_ONCE else _POLL
        except sa.exc.SQLAlchemyError as error:
            log.warning("the words of calls were not indexed: %s", type(error).__name__)
            pause = _AFTER_ERROR
        except Exception as error:
            unexpected(error)
            pause = _AFTER_ERROR


@contextlib.contextmanager
def keeping_words(engine: sa.Engine) -> Iterator[None]:
    """Index calls in a background thread, until the ``with`` block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=keep, args=(engine, stop), name="word keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)

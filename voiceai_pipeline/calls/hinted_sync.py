"""Reads a location as soon as a webhook message says that a call has ended, before the next sync.

A hinted read is as strict as a sync: same client, limits, lease, redaction and intake, and its
window is verified before it is stored. It does not touch the ledger: a window of hours makes no day
complete (REQUIREMENTS W6), and its failure is not the failure of a day. If a message is lost, the
next sync finds the call.
"""

import contextlib
import logging
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import uuid4
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_store, hints, leases
from voiceai_pipeline.calls.hints import HintedLocation
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.lease import Lease, LeaseLostError
from voiceai_pipeline.calls.window_reader import Reading, read_with
from voiceai_pipeline.connections import queries as connection_queries
from voiceai_pipeline.connections.shared_location import read_with_any
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.days import Window, day_range
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, database_now, is_unreachable
from voiceai_pipeline.highlevel.calls import call_of
from voiceai_pipeline.highlevel.client import HighLevelClient

log = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=1)
"""A hinted read takes seconds; one that outlasts its lease stops, and is retried."""

MARGIN: Final = timedelta(minutes=1)
"""How long before the call's ``createdAt`` a read starts: whether that is the start or the end of
the call is unknown (CONTRACT 12)."""


class HintedSync:
    """Reads hinted locations; used by many threads at once.

    Args:
        zone: the time zone of the days.
    """

    def __init__(
        self,
        engine: sa.Engine,
        tokens: Tokens,
        client: HighLevelClient,
        zone: ZoneInfo,
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        # A failed read is retried in a minute; waiting here would hold up other locations.
        self._client = client.without_retries()
        self._zone = zone

    def read(self, hinted: HintedLocation) -> bool:
        """Read a location, unless a sync holds its lease.

        A failure postpones the location's hints; it is logged, without contents.

        Returns:
            Whether the read was complete and is stored.

        Raises:
            sqlalchemy.exc.OperationalError: the database is unreachable.
        """
        location_id, holder = hinted.location_id, uuid4()
        with self._engine.begin() as db:
            got = leases.acquire(db, [location_id], holder, None, LEASE)
        if not got:
            return False
        lease = Lease(time.monotonic() + LEASE.total_seconds() * 0.8, time.monotonic)
        try:
            return self._read(hinted, lease)
        except LeaseLostError:
            self._postpone(location_id, "the read took too long")
        except PipelineError as error:
            self._postpone(location_id, error.message)
        except sa.exc.SQLAlchemyError as error:
            if is_unreachable(error):
                raise
            self._postpone(location_id, database_error(error).message)
        except Exception as error:
            self._postpone(location_id, unexpected(error).message)
        finally:
            # If the database is unreachable, the lease expires.
            with contextlib.suppress(sa.exc.OperationalError), self._engine.begin() as db:
                leases.release(db, [location_id], holder)
        return False

    def _read(self, hinted: HintedLocation, lease: Lease) -> bool:
        with self._engine.begin() as db:
            read_at = database_now(db)
            everyone = connection_queries.of_location(db, hinted.location_id)
            users = [one for one in everyone if one.can_sync]
            if not users:
                # A short pause must not lose the calls that were announced during it.
                is_paused = any(one.obstacle is None for one in everyone)
                (hints.postpone if is_paused else hints.drop)(db, hinted.location_id)
                return False
            hints.start(db, hinted.location_id, read_at)
        window = Window(hinted.since - MARGIN, read_at)
        new_calls = partial(
            Intake,
            self._engine,
            hinted.location_id,
            self._starts(window),
            call_of,
            self._tokens.vault.call_fingerprint,
            read_at,
        )
        with contextlib.closing(Reading(new_calls)) as reading:
            read_with_any(
                users,
                lambda one: read_with(
                    self._tokens, self._client, one.user.id, hinted.location_id, window, reading,
                    lease,
                ),
            )  # fmt: skip
            lease.check()
            self._store(reading.calls)
        return True

    def _starts(self, window: Window) -> list[datetime]:
        """The window's start, then the start of each later day in it (UTC)."""
        days = day_range(*(at.astimezone(self._zone).date() for at in (window.start, window.end)))
        return [window.start, *(Window.of_day(day, self._zone).start for day in days[1:])]

    def _store(self, calls: Intake) -> None:
        """Store the calls and update their hints in one transaction."""
        with self._engine.begin() as db:
            call_store.lock_locations(db, [calls.location_id])
            written = call_store.store(db, [calls], database_now(db))[0]
            counts = zip(written.new, written.changed, written.missing, strict=True)
            changed_days = [
                start.astimezone(self._zone).date()
                for start, changes in zip(calls.starts, counts, strict=True)
                if any(changes)
            ]
            hints.finish(db, calls.location_id, calls.read_at, calls.window_end, changed_days)

    def _postpone(self, location_id: str, reason: str) -> None:
        log.warning("location %s: hinted read failed: %s", location_id, reason)
        with self._engine.begin() as db:
            hints.postpone(db, location_id)

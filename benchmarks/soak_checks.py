"""Compares the pipeline's tables with the sandbox's calls: each day when it turns green, and
everything at the end. It changes neither.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from benchmarks.soak_report import Red, Tally
from benchmarks.soak_time import ZONE, Clock
from benchmarks.stormy_world import StormyWorld
from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.whole_call import WHOLE
from voiceai_pipeline.highlevel.allow_list import redact_call


def unfinished(db: sa.Connection) -> dict[tuple[UUID, date], FailureClass | None]:
    """Every day that is not complete, by user, and why."""
    query = sa.text(
        "SELECT user_id, day, failure_class FROM sync_ledger WHERE state <> 'complete' "
        "ORDER BY day, user_id"
    )
    return {
        (row.user_id, row.day): row.failure_class and FailureClass(row.failure_class)
        for row in db.execute(query)
    }


@dataclass
class Checks:
    """Comparisons of the tables with the world. What they find goes into ``tally``."""

    world: StormyWorld
    clock: Clock
    engine: sa.Engine
    tally: Tally

    def note_red_days(self) -> None:
        """Record which days are red and since when."""
        with self.engine.begin() as db:
            red_now = unfinished(db)
        now = self.clock()
        for key in [key for key in self.tally.red if key not in red_now]:
            red = self.tally.red.pop(key)
            needed_action = red.failure is not None and red.failure.needs_action
            (self.tally.fixed if needed_action else self.tally.recovered).append(now - red.since)
        for key, failure in red_now.items():
            if key not in self.tally.red:
                self.tally.red[key] = Red(now, failure)
                self.tally.seen[failure] += 1
            elif failure is not None and failure.needs_action:
                self.tally.red[key].failure = failure

    def check_green_days(self, results: Iterable[DayResult]) -> None:
        """Check that each complete day holds what HighLevel had between the start and the end of
        the read."""
        for result in results:
            if result.state is not DayState.COMPLETE or not (
                result.read_until and result.started_at and result.finished_at
            ):
                continue
            self.tally.greens += 1
            location = result.location_id
            window = Window(Window.of_day(result.day, ZONE).start, result.read_until)
            first = self._calls_at(location, window, result.started_at)
            last = self._calls_at(location, window, result.finished_at)
            rows = self._rows(location, window)
            current = {i for i, row in rows.items() if row["missing_since"] is None}
            must = set(last) - self.world.added[location]
            may = set(last) | self.world.removed[location]
            if not must <= current <= may:
                self.tally.wrong.append(
                    f"{result.user.name}, {result.day}: green with {len(must - current)} calls too "
                    f"few and {len(current - may)} too many"
                )
            stale = [i for i in current & must if rows[i]["raw"] not in (first.get(i), last.get(i))]
            if stale:
                self.tally.wrong.append(
                    f"{result.user.name}, {result.day}: green with {len(stale)} stale calls"
                )

    def check_everything(self, reports: Iterable[DayReport], channel: str) -> int:
        """Check at the end: all days green, all calls stored as last read, all users connected.

        Args:
            reports: of all days.
            channel: the name under which alerts were delivered.

        Returns:
            How many calls are stored.
        """
        total = 0
        for report in reports:
            if not report.is_green or report.waiting:
                unhappy = [*report.failed, *report.waiting]
                self.tally.wrong += [
                    f"{r.user.name}, {r.day}: {r.state}, {r.message}" for r in unhappy
                ]
                self.tally.wrong += [f"{user.name}, {report.day}: unread" for user in report.unread]
            for result in self._last_reads(report.complete).values():
                total += self._check_stored_calls(result)
        self._check_connections(channel)
        return total

    def _last_reads(self, complete: Sequence[DayResult]) -> dict[str, DayResult]:
        """The latest read of each location."""
        reads: dict[str, DayResult] = {}
        for result in complete:
            known = reads.get(result.location_id)
            if known is None or (result.started_at or self.clock()) > (
                known.started_at or self.clock()
            ):
                reads[result.location_id] = result
        return reads

    def _check_stored_calls(self, read: DayResult) -> int:
        if read.read_until is None or read.started_at is None:
            return 0
        location = read.location_id
        window = Window(Window.of_day(read.day, ZONE).start, read.read_until)
        expected = self._calls_at(location, window, read.started_at)
        rows = self._rows(location, window)
        held = {i: r["raw"] for i, r in rows.items() if r["missing_since"] is None}
        if held != expected:
            few, many = len(expected.keys() - held.keys()), len(held.keys() - expected.keys())
            stale = sum(held[i] != expected[i] for i in held.keys() & expected.keys())
            self.tally.wrong.append(
                f"{location}, {read.day}: {few} calls too few, {many} too many, {stale} stale, "
                f"read at {read.started_at:%d. %H:%M}"
            )
        gone = self.world.gone
        strange = {i for i, r in rows.items() if r["missing_since"] and (location, i) not in gone}
        if strange:
            self.tally.wrong.append(f"{location}, {read.day}: {len(strange)} calls wrongly missing")
        return len(held)

    def _check_connections(self, channel: str) -> None:
        wrong = self.tally.wrong
        with self.engine.begin() as db:
            for one in connections.all_connections(db):
                if one.state is not ConnectionState.CONNECTED:
                    wrong.append(f"{one.user.name} is {one.state} at the end")
            undelivered = alerts.pending(db, channel)
            twice = db.execute(
                sa.text(
                    "SELECT count(*) FROM (SELECT FROM token_events WHERE event = 'replay_began' "
                    "GROUP BY user_id, version_before HAVING count(*) > 1) AS x"
                )
            ).scalar_one()
        if undelivered:
            wrong.append(f"{len(undelivered)} alerts were never delivered")
        if twice:
            wrong.append(f"{twice} refresh tokens were replayed more than once")

    @contextmanager
    def _as_of(self, moment: datetime) -> Iterator[None]:
        """The world as it was at a moment; only while nothing else reads it."""
        now, self.clock.now = self.clock.now, moment
        try:
            yield
        finally:
            self.clock.now = now

    def _calls_at(self, location_id: str, window: Window, moment: datetime) -> dict[str, Any]:
        with self._as_of(moment):
            items = self.world.calls.between(location_id, window.start, window.end)
        return {item["id"]: redact_call(item) for item in items}

    def _rows(self, location_id: str, window: Window) -> dict[str, sa.RowMapping]:
        query = sa.text(
            f"SELECT call_id, {WHOLE} AS raw, missing_since FROM call_logs "  # noqa: S608 - our own names
            "WHERE location_id = :location "
            "AND started_at >= :start AND started_at < :end"
        )
        values = {"location": location_id, "start": window.start, "end": window.end}
        with self.engine.begin() as db:
            return {row["call_id"]: row for row in db.execute(query, values).mappings()}

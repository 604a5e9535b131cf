"""A window of a location that was read: its counts by day, and the results of its days.

Bookkeeping only: ``window_sync`` reads and stores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID

from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.calls.window_reader import Reading
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.highlevel.window import WindowRead

_OUTAGE: Final = PROVIDER_FAILURES - {FailureClass.RATE_LIMITED}
"""Failures of HighLevel that are retried. If one outlasts all retries, each further day is
requested only once, to see whether the outage is over."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a window of a location.

    Attributes:
        before: results of the location's days that this run has synced so far.
    """

    location_id: str
    connections: list[Connection]
    days: list[date]
    started_at: datetime
    before: tuple[DayResult, ...]

    @property
    def in_outage(self) -> bool:
        """Whether the previous day failed because HighLevel was down."""
        return bool(self.before) and self.before[-1].failure in _OUTAGE

    def failures(
        self, refused: dict[UUID, PipelineError], finished_at: datetime
    ) -> list[DayResult]:
        return [
            DayResult(
                user=one.user,
                location_id=self.location_id,
                day=day,
                state=DayState.WAITING if error.failure.needs_action else DayState.FAILED,
                failure=error.failure,
                message=f"{error.message}. Fix: {error.failure.explanation.fix}",
                started_at=self.started_at,
                finished_at=finished_at,
            )
            for one in self.connections
            if (error := refused.get(one.user.id)) is not None
            for day in self.days
        ]


class DayIntake(Reading):
    """A reading of some days, with counts by day.

    Attributes:
        ends: when each day ends (UTC).
        unknown_actions: how many call actions have undocumented types, by day.
        odd_durations: ids of calls whose duration is impossible, by day.
    """

    def __init__(self, new_calls: Callable[[], Intake], days: Sequence[Window]) -> None:
        super().__init__(new_calls)
        self.ends = [day.end for day in days]
        self._reset()

    def _reset(self) -> None:
        self.unknown_actions = [0] * len(self.ends)
        self.odd_durations: list[list[str]] = [[] for _ in self.ends]

    def start(self) -> Callable[[Sequence[ListedCall]], None]:
        super().start()
        self._reset()
        return self._take

    def _take(self, listed: Sequence[ListedCall]) -> None:
        for call in listed:
            if call.unknown_actions:
                self.unknown_actions[self.calls.part_of(call.started_at)] += call.unknown_actions
            if call.is_duration_odd:
                self.odd_durations[self.calls.part_of(call.started_at)].append(call.call_id)
        self.calls.take(listed)

    @property
    def set_aside(self) -> list[int]:
        """How many items were set aside, by day; items without a time in these days count for the
        first."""
        counts = [0] * len(self.ends)
        for call in self.calls.set_aside:
            at = call.started_at
            is_inside = at is not None and self.calls.starts[0] <= at < self.ends[-1]
            counts[self.calls.part_of(at) if is_inside and at else 0] += 1
        return counts


@dataclass(frozen=True)
class VerifiedWindow:
    """A window that was read completely and has to be stored.

    Attributes:
        refused: users whose credentials could not read it.
    """

    attempt: Attempt
    window: Window
    read: WindowRead
    intake: DayIntake
    refused: dict[UUID, PipelineError]

    def close(self) -> None:
        self.intake.close()

    def outcomes(self, written: Written, finished_at: datetime) -> list[DayResult]:
        """The results of the window's days.

        Raises:
            PipelineError: INCOMPLETE, if the table does not hold what was read.
        """
        attempt, intake = self.attempt, self.intake
        listed = intake.calls.listed
        for day, count, stored in zip(attempt.days, listed, written.stored, strict=True):
            if stored != count:
                raise PipelineError(
                    FailureClass.INCOMPLETE, f"{day}: {count} calls read, {stored} stored"
                )
        aside = intake.set_aside
        said = self._totals([n + a for n, a in zip(listed, aside, strict=True)])
        complete = [
            DayResult(
                user=one.user,
                location_id=attempt.location_id,
                day=day,
                state=DayState.COMPLETE,
                read_until=min(end, self.window.end),
                message=self._remark(n, aside[n]),
                api_total=said[n],
                stored=written.stored[n],
                new=written.new[n],
                changed=written.changed[n],
                missing=written.missing[n],
                set_aside=aside[n],
                unknown_actions=intake.unknown_actions[n],
                pages=self.read.pages,
                started_at=attempt.started_at,
                finished_at=finished_at,
            )
            for one in attempt.connections
            if one.user.id not in self.refused
            for n, (day, end) in enumerate(zip(attempt.days, intake.ends, strict=True))
        ]
        return complete + attempt.failures(self.refused, finished_at)

    def _totals(self, listed: Sequence[int]) -> list[int | None]:
        """HighLevel's total of each day; None where it is unknown.

        HighLevel's total is for the window plus a second on each side. For a single day, the day's
        total follows from it even if it is wrong; for several days, only if it is right.
        """
        read = self.read
        if read.total is None:
            return [None] * len(listed)
        if len(listed) == 1:
            return [read.total - read.count + listed[0]]
        return [*listed] if read.total == read.count else [None] * len(listed)

    def _remark(self, day: int, aside: int) -> str:
        """What is odd about a complete day; empty if nothing is."""
        read, odd = self.read, self.intake.odd_durations[day]
        span = "" if len(self.attempt.days) == 1 else f" in these {len(self.attempt.days)} days"
        remarks = []
        if read.total is None:
            remarks.append("HighLevel gave no total; its list was read to the end")
        elif not read.adds_up:
            remarks.append(
                f"HighLevel gave a total of {read.total}, but lists {read.count} calls{span}; "
                "all listed calls are stored"
            )
        if read.repeats:
            remarks.append(f"{_are(read.repeats, 'call')} listed more than once{span}")
        if read.strays:
            remarks.append(f"{_are(read.strays, 'call')} listed that belong to other days")
        if aside:
            remarks.append(f"{_are(aside, 'item')} set aside, see set_aside_calls")
        if odd:
            durations = "1 duration" if len(odd) == 1 else f"{len(odd)} durations"
            which = f"call {cleaned(odd[0], NAME_LENGTH)}"
            remarks.append(f"{durations} cannot be right (stored as unknown), e.g. of {which}")
        return "; ".join(remarks)


def _are(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"

"""Whether a day has a usual number of calls for its weekday: within a band around the median.

Pure functions of the counts of complete days. The band is never narrower than the noise (the square
root of the median). Where weeks differ more, the median absolute deviation sets its width, so a
single odd week does not widen it.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import Final

WEEKS: Final = 8
"""How many weeks back the same weekday is compared."""

MIN_WEEKS: Final = 4
"""With fewer weeks of counts there is no verdict."""

WIDTH: Final = 3.5
"""Half the band, in standard deviations: about one of 2,000 usual days lies outside by chance."""

_MAD_TO_DEVIATION: Final = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""


@dataclass(frozen=True)
class Band:
    """The usual number of calls: ``low`` to ``high``, inclusive, from counts of ``weeks`` weeks."""

    low: int
    high: int
    weeks: int

    def __contains__(self, calls: int) -> bool:
        return self.low <= calls <= self.high


@dataclass(frozen=True)
class Judgement:
    """A day's calls and the usual band. ``location_id`` is None for all locations together."""

    day: date
    location_id: str | None
    calls: int
    band: Band

    @property
    def is_usual(self) -> bool:
        return self.calls in self.band


def usual_band(history: Collection[int]) -> Band | None:
    """The usual band by ``history`` (calls of the same weekday, one number per week); None if it is
    shorter than ``MIN_WEEKS``."""
    if len(history) < MIN_WEEKS:
        return None
    middle = median(history)
    spread = _MAD_TO_DEVIATION * median(abs(calls - middle) for calls in history)
    reach = WIDTH * max(spread, math.sqrt(max(middle, 1.0)))
    return Band(max(0, math.ceil(middle - reach)), math.floor(middle + reach), len(history))


def days_needed(days: Collection[date]) -> set[date]:
    """The days whose counts ``judge`` needs: ``days`` and the days they are compared with."""
    return {day - timedelta(weeks=ago) for day in days for ago in range(WEEKS + 1)}


def judge(counts: Mapping[tuple[str, date], int], days: Collection[date]) -> list[Judgement]:
    """Compare ``days`` with the same weekday of earlier weeks.

    Args:
        counts: calls by location and day, complete days only. An absent day is unknown; it does
            not count as a day without calls.

    Returns:
        In order of days; of each day, all locations together first. Days and locations with too
        little history are absent.
    """
    found = []
    for day in sorted(days):
        weeks = [day - timedelta(weeks=ago) for ago in range(1, WEEKS + 1)]
        history = {
            location: [counts[location, week] for week in weeks if (location, week) in counts]
            for location in sorted(location for location, when in counts if when == day)
        }
        # Only locations with enough history: a new location is not a rise.
        known = [location for location, past in history.items() if len(past) >= MIN_WEEKS]
        together = [
            sum(counts[location, week] for location in known)
            for week in weeks
            if known and all((location, week) in counts for location in known)
        ]
        all_calls = sum(counts[location, day] for location in known)
        judged: list[tuple[str | None, int, list[int]]] = [(None, all_calls, together)]
        judged += [(location, counts[location, day], past) for location, past in history.items()]
        found += [
            Judgement(day, location, calls, band)
            for location, calls, past in judged
            if (band := usual_band(past)) is not None
        ]
    return found

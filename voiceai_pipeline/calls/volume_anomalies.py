"""Whether a day has as many calls as is usual for its weekday: a band around the median.

Pure: from counts of complete days. Calls are counted things, so the band is never narrower than
their own chance (the square root of the median); where weeks differ more than that, the median of
their deviations says by how much, and one odd week widens nothing.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import Final

WEEKS: Final = 8
"""How many weeks back the same weekday is looked at."""

MIN_WEEKS: Final = 4
"""With fewer of them complete, nothing is said."""

WIDTH: Final = 3.5
"""Half the band, in deviations: of 2,000 usual days about one lies outside by chance."""

_MAD_TO_DEVIATION: Final = 1.4826
"""The standard deviation of a normal distribution, in medians of absolute deviations."""


@dataclass(frozen=True)
class Band:
    """From ``low`` to ``high`` calls, both included, are usual; seen in ``weeks`` weeks."""

    low: int
    high: int
    weeks: int

    def __contains__(self, calls: int) -> bool:
        return self.low <= calls <= self.high


@dataclass(frozen=True)
class Judgement:
    """A day's calls beside what is usual. ``location_id`` is None for all together."""

    day: date
    location_id: str | None
    calls: int
    band: Band

    @property
    def is_usual(self) -> bool:
        return self.calls in self.band


def usual_band(history: Collection[int]) -> Band | None:
    """The band that ``history`` (calls of the same weekday, a number a week) makes usual; None if
    it is too short to say."""
    if len(history) < MIN_WEEKS:
        return None
    middle = median(history)
    spread = _MAD_TO_DEVIATION * median(abs(calls - middle) for calls in history)
    reach = WIDTH * max(spread, math.sqrt(max(middle, 1.0)))
    return Band(max(0, math.ceil(middle - reach)), math.floor(middle + reach), len(history))


def days_needed(days: Collection[date]) -> set[date]:
    """The days whose counts it takes to judge ``days``: themselves and those they compare with."""
    return {day - timedelta(weeks=ago) for day in days for ago in range(WEEKS + 1)}


def judge(counts: Mapping[tuple[str, date], int], days: Collection[date]) -> list[Judgement]:
    """Compare ``days`` with the same weekday of the weeks before; in order of days, all together
    before each location. What has too little history is absent.

    Args:
        counts: calls of a location on a day, complete days only: a day that is absent is unknown,
            never a day without calls.
    """
    found = []
    for day in sorted(days):
        weeks = [day - timedelta(weeks=ago) for ago in range(1, WEEKS + 1)]
        history = {
            place: [counts[place, week] for week in weeks if (place, week) in counts]
            for place in sorted(place for place, when in counts if when == day)
        }
        # Only who was there all the time: a new location is no rise.
        known = [place for place, past in history.items() if len(past) >= MIN_WEEKS]
        together = [
            sum(counts[place, week] for place in known)
            for week in weeks
            if known and all((place, week) in counts for place in known)
        ]
        all_calls = sum(counts[place, day] for place in known)
        judged: list[tuple[str | None, int, list[int]]] = [(None, all_calls, together)]
        judged += [(place, counts[place, day], past) for place, past in history.items()]
        found += [
            Judgement(day, place, calls, band)
            for place, calls, past in judged
            if (band := usual_band(past)) is not None
        ]
    return found

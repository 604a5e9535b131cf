"""How the demo's businesses change over time: growth, busy weekdays, and agents that get better or
worse. A pure function of the day, so that `calls` stays one.

Without a story, as in tests, all weeks are alike.
"""

import datetime as dt
import math
from dataclasses import dataclass
from typing import Final

WEEKS: Final = 8
"""How many weeks a story lasts; afterwards nothing changes."""

_OFFICE: Final = (1.2, 1.05, 1.0, 0.95, 0.9, 0.35, 0.2)
_WEEKEND: Final = (0.7, 0.75, 0.85, 1.0, 1.3, 1.5, 0.9)


@dataclass(frozen=True)
class Craft:
    """An agent's performance: the share of its calls that are hung up at once, the share that book
    a visit, and a factor on their duration."""

    hung_up: float = 0.04
    booking: float = 0.22
    duration: float = 1.0


@dataclass(frozen=True)
class Story:
    """A location's development from `first_day` on.

    Attributes:
        growth: of the number of calls, per week; 0.05 is 5 %. At the end the location has
            `calls_per_day`.
        weekdays: a factor on `calls_per_day` for each weekday, Monday first.
        desk: the first agent's performance at the start and at the end.
        after_hours: the second agent's performance, likewise.
    """

    first_day: dt.date
    growth: float = 0.0
    weekdays: tuple[float, ...] = _OFFICE
    desk: tuple[Craft, Craft] = (Craft(), Craft())
    after_hours: tuple[Craft, Craft] = (Craft(), Craft())

    def volume(self, day: dt.date) -> float:
        """The day's number of calls, as a factor on `calls_per_day`."""
        weeks = WEEKS * (self._progress(day) - 1)
        return self.weekdays[day.weekday()] * math.pow(1 + self.growth, weeks)

    def craft(self, *, is_desk: bool, day: dt.date) -> Craft:
        """An agent's performance on a day."""
        begun, become = self.desk if is_desk else self.after_hours
        share = self._progress(day)

        def between(first: float, last: float) -> float:
            return first + (last - first) * share

        return Craft(
            between(begun.hung_up, become.hung_up),
            between(begun.booking, become.booking),
            between(begun.duration, become.duration),
        )

    def _progress(self, day: dt.date) -> float:
        return min(1.0, max(0.0, (day - self.first_day).days / (7 * WEEKS)))


_IMPROVES: Final = (Craft(0.10, 0.12, 0.7), Craft(0.02, 0.42, 1.1))
_DECLINES: Final = (Craft(0.03, 0.36, 1.0), Craft(0.16, 0.14, 0.6))


def story_of(kind: str, first_day: dt.date) -> Story:
    """The story of this kind of business, from `first_day` on."""
    match kind:
        case "dental":
            return Story(first_day, growth=0.05, desk=_IMPROVES)
        case "clinic":
            return Story(first_day, desk=_DECLINES)
        case "plumbing":
            return Story(first_day, growth=0.02)
        case "motors":
            return Story(first_day, growth=-0.03)
        case "catering" | "realty" | "spa":
            return Story(first_day, growth=0.03, weekdays=_WEEKEND, after_hours=_IMPROVES)
        case "fitness":
            return Story(first_day, weekdays=_WEEKEND)
        case _:
            return Story(first_day)

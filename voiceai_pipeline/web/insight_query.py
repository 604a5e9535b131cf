"""Reads the address of the insights: days, location and agent, and the days to compare with."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from voiceai_pipeline.marts.insights import Days, Scope

PATH: Final = "/insights"
VALUES_PATH: Final = "/insights/values"
CALLS_PATH: Final = "/calls"

PRESETS: Final[Mapping[str, str]] = {
    "7d": "Last 7 days",
    "week": "This week",
    "lastweek": "Last week",
    "28d": "Last 28 days",
}
"""Labels by the value in the address. Days end with yesterday; weeks begin on Monday."""

DEFAULT: Final = "7d"

LONGEST: Final = 92
"""Maximum number of days."""

RANKS: Final[Mapping[str, str]] = {
    "booked": "goal_calls",
    "calls": "calls",
    "minutes": "talk_seconds",
    "engaged": "engaged_calls",
    "transferred": "transferred_calls",
    "contained": "contained_calls",
    "captured": "captured_calls",
}
"""What agents can be ranked by."""

_DAY: Final = timedelta(days=1)
_YEARS: Final = range(2000, 2101)
_ID: Final = re.compile(r"[^\x00-\x1f]{1,500}")


@dataclass(frozen=True)
class InsightQuery:
    """The insights as their address names them.

    Attributes:
        days: a preset; "" if ``first`` and ``last`` name the days.
        location, agent: ids; "": all.
        rank: what agents are ranked by.
        complaints: sentences about what was not understood.
    """

    days: str = DEFAULT
    first: date | None = None
    last: date | None = None
    location: str = ""
    agent: str = ""
    rank: str = "booked"
    complaints: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, given: QueryParams) -> "InsightQuery":
        complaints: list[str] = []
        first, last = (_day(given, name, complaints) for name in ("from", "to"))
        if first and last and last < first:
            complaints.append("The first day is after the last: they were swapped.")
            first, last = last, first
        if first and last and (last - first).days >= LONGEST:
            complaints.append(f"At most {LONGEST} days can be shown: these are the last of them.")
            first = last - (LONGEST - 1) * _DAY
        preset = given.get("days", "") or DEFAULT
        if preset not in PRESETS:
            complaints.append("“days” was not understood and is left out.")
            preset = DEFAULT
        rank = given.get("rank", "booked")
        location = _id(given, "location", complaints)
        return cls(
            days="" if first or last else preset,
            first=first or last,
            last=last or first,
            location=location,
            agent=_id(given, "agent", complaints) if location else "",
            rank=rank if rank in RANKS else "booked",
            complaints=tuple(complaints),
        )

    def address(self, path: str = PATH, **changed: Any) -> str:
        """The address of this page, or of ``path``, with some attributes of the query changed."""
        other = replace(self, **changed)
        values = {
            "days": "" if other.days == DEFAULT else other.days,
            "from": other.first,
            "to": other.last,
            "location": other.location,
            "agent": other.agent,
            "rank": "" if other.rank == "booked" else other.rank,
        }
        query = urlencode({name: value for name, value in values.items() if value})
        return f"{path}?{query}" if query else path

    def scope(self, today: date) -> Scope:
        """These days, and as many days before with the same weekdays to compare with.

        A day that is not over is left out. If it is the only day, it is compared with nothing.

        Args:
            today: the first day that is not over at every location.
        """
        days = self._days(today)
        if days.first < today:
            days = Days(days.first, min(days.last, today - _DAY))
            shift = 7 * math.ceil(days.count / 7) * _DAY
            before = Days(days.first - shift, days.last - shift)
        else:
            before = Days(days.first, days.first - _DAY)
        return Scope(days, before, self.location or None, self.agent or None)

    def asks_for(self, day: date) -> bool:
        """Whether ``day`` is one of the days of the address.

        Args:
            day: the first day that is not over at every location.
        """
        return day in self._days(day)

    def _days(self, today: date) -> Days:
        if self.first and self.last:
            return Days(self.first, self.last)
        monday = today - today.weekday() * _DAY
        if self.days == "week":
            return Days(monday, today)
        if self.days == "lastweek":
            return Days(monday - 7 * _DAY, monday - _DAY)
        return Days(today - (28 if self.days == "28d" else 7) * _DAY, today - _DAY)


def _id(given: QueryParams, name: str, complaints: list[str]) -> str:
    found = given.get(name, "")
    if found and not _ID.fullmatch(found):
        complaints.append(f"“{name}” was not understood and is left out.")
        return ""
    return found


def calls_address(
    scope: Scope, days: Days | None = None, more: Mapping[str, Any] | None = None
) -> str:
    """The address of the calls behind a number.

    Args:
        days: None: those of the scope.
        more: further filters of the list, by their names in the address.
    """
    chosen = days or scope.days
    values = {
        "from": chosen.first,
        "to": chosen.last,
        "location": scope.location_id,
        "agent": scope.agent_id,
        **(more or {}),
    }
    query = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{CALLS_PATH}?{urlencode(query)}"


def _day(given: QueryParams, name: str, complaints: list[str]) -> date | None:
    text = given.get(name, "")
    try:
        found = date.fromisoformat(text) if text else None
        if found is not None and found.year not in _YEARS:
            raise ValueError
        return found
    except ValueError:
        complaints.append(f"“{name}” was not understood and is left out.")
        return None

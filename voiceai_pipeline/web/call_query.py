"""Reads the address of a list of calls, and writes the address of a changed list.

Every filter is in the query string, so that a list can be bookmarked, sent to a colleague and
opened from other pages. A value that cannot be understood is left out, and the page says so.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from starlette.datastructures import QueryParams

from voiceai_pipeline.calls.call_filter import MAX_SEARCH, Derived, Position, Show, Sort
from voiceai_pipeline.core.foreign_text import cleaned

PATH: Final = "/calls"

PRESETS: Final[Mapping[str, str]] = {
    "today": "Today",
    "yesterday": "Yesterday",
    "week": "This week",
    "lastweek": "Last week",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "month": "This month",
    "lastmonth": "Last month",
    "all": "All days",
}
"""Labels by the value in the address. Weeks begin on Monday; the last N days end with today."""

DEFAULT: Final = "30d"

_WEEKDAYS: Final = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
_HAS: Final[Mapping[Derived, str]] = {
    Derived.ENGAGED: "engaged calls",
    Derived.TRANSFERRED: "transferred calls",
    Derived.CONTAINED: "engaged calls that were not transferred",
    Derived.CAPTURED: "calls with captured data",
}

ZONE_OF_LOCATION: Final = ""
_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_ID: Final = re.compile("[^\x00-\x1f\ud800-\udfff]{1,500}")
_MOST: Final = 50
"""Maximum number of values of one filter."""

_LONGEST: Final = 6_000
"""Maximum characters of a position: two ids of 500 characters, escaped, and a value."""

_YEARS: Final = range(2000, 2101)


@dataclass(frozen=True)
class CallQuery:
    """A list of calls as its address names it.

    Attributes:
        days: a preset; "" if ``first`` and ``last`` name the days.
        first, last: days of each location's own zone, inclusive.
        locations: ids, or parts of names.
        user: a user's id; "": all.
        has: derived properties that a call must have, besides its outcome.
        weekday, hour: in each location's own time; 1 is Monday.
        shortest, longest: seconds, inclusive.
        changed: the content changed on this day of the pipeline's zone or later.
        zone: the IANA name of the zone that times are shown in; "": each location's own.
        complaints: sentences about what was not understood.
    """

    days: str = DEFAULT
    first: date | None = None
    last: date | None = None
    locations: tuple[str, ...] = ()
    user: str = ""
    agents: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    has: tuple[Derived, ...] = ()
    weekday: int | None = None
    hour: int | None = None
    shortest: int | None = None
    longest: int | None = None
    changed: date | None = None
    show: Show = Show.LIVE
    sort: Sort = Sort.TIME
    is_ascending: bool = False
    zone: str = ZONE_OF_LOCATION
    q: str = ""
    after: Position | None = None
    before: Position | None = None
    complaints: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, given: QueryParams) -> "CallQuery":
        reader = _Reader(given)
        first, last = reader.day("from"), reader.day("to")
        if first and last and last < first:
            reader.complaints.append("The first day is after the last: they were swapped.")
            first, last = last, first
        sort = reader.one_of("sort", Sort, Sort.TIME)
        return cls(
            days="" if first or last else reader.preset(),
            first=first,
            last=last,
            locations=reader.several("location"),
            user=given.get("user", "")[:100],
            agents=reader.several("agent"),
            outcomes=reader.several("outcome"),
            actions=reader.several("action"),
            has=tuple(one for one in Derived if one.value in given.getlist("has")),
            weekday=reader.number("weekday", 1, 7),
            hour=reader.number("hour", 0, 23),
            shortest=reader.seconds("min"),
            longest=reader.seconds("max"),
            changed=reader.day("changed"),
            show=reader.one_of("show", Show, Show.LIVE),
            sort=sort,
            is_ascending=given.get("order") == "asc",
            zone=reader.zone(),
            q=cleaned(given.get("q", ""), MAX_SEARCH),
            after=reader.position("after", sort),
            before=reader.position("before", sort),
            complaints=tuple(reader.complaints),
        )

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The query string's names and values, without default values."""
        values: list[tuple[str, Any]] = [
            ("days", "" if self.days == DEFAULT else self.days),
            ("from", self.first),
            ("to", self.last),
            *(("location", one) for one in self.locations),
            ("user", self.user),
            *(("agent", one) for one in self.agents),
            *(("outcome", one) for one in self.outcomes),
            *(("action", one) for one in self.actions),
            *(("has", one.value) for one in self.has),
            ("weekday", self.weekday),
            ("hour", self.hour),
            ("min", self.shortest),
            ("max", self.longest),
            ("changed", self.changed),
            ("show", "" if self.show is Show.LIVE else self.show.value),
            ("sort", "" if self.sort is Sort.TIME else self.sort.value),
            ("order", "asc" if self.is_ascending else ""),
            ("zone", self.zone),
            ("q", self.q),
            ("after", self.after and written(self.after)),
            ("before", self.before and written(self.before)),
        ]
        return [(name, str(value)) for name, value in values if value not in (None, "")]

    def address(self, path: str = PATH, **changed: Any) -> str:
        """The address of the first page of this list, with some attributes changed."""
        other = replace(self, **{"after": None, "before": None, **changed})
        query = urlencode(other.parameters)
        return f"{path}?{query}" if query else path

    def hidden(self, *shown: str) -> list[tuple[str, str]]:
        """The hidden fields of a form: the parts of the address that it does not change."""
        first = replace(self, after=None, before=None)
        return [(name, value) for name, value in first.parameters if name not in shown]

    @property
    def is_narrowed(self) -> bool:
        """Whether anything but days, kind of call, order and zone narrows the list."""
        return self._without_view() != CallQuery()

    @property
    def is_searching(self) -> bool:
        """Whether any other filter than location and user narrows the list."""
        return replace(self, locations=(), user="").is_narrowed

    @property
    def narrowed_by(self) -> int:
        """How many filters of the form's second part are set."""
        return sum(
            map(
                bool,
                (
                    self.agents,
                    self.actions,
                    self.outcomes,
                    self.shortest is not None or self.longest is not None,
                    self.changed,
                ),
            )
        )

    @property
    def clock(self) -> time | None:
        """The minute of the day that is searched for, such as 10:42; None if none is."""
        found = _CLOCK.fullmatch(self.q)
        return time(int(found[1]), int(found[2])) if found else None

    @property
    def only(self) -> str:
        """What narrows the list besides the form, in words; "" if nothing does."""
        words = [_HAS[one] for one in self.has]
        if self.weekday is not None:
            words.append(f"{_WEEKDAYS[self.weekday - 1]}s")
        if self.clock is not None:
            words.append(f"calls logged at {self.clock:%H:%M}, local time")
        elif self.hour is not None:
            words.append(f"{self.hour:02}:00 to {(self.hour + 1) % 24:02}:00, local time")
        return "; ".join(words)

    def _without_view(self) -> "CallQuery":
        usual = CallQuery()
        names = (
            "days", "first", "last", "show", "sort", "is_ascending", "zone", "after", "before",
        )  # fmt: skip
        return replace(self, **{name: getattr(usual, name) for name in names})

    def call_address(self, location_id: str, call_id: str) -> str:
        """The address of a call of this list. It keeps the list, for the previous and next call."""
        return self.address(call_path(location_id, call_id))

    def days_on(self, today: date) -> tuple[date | None, date | None]:
        """The first and last day, inclusive; None: without a bound.

        Args:
            today: of the location's zone.
        """
        if not self.days:
            return self.first, self.last
        found: tuple[date | None, date | None] = _PRESETS[self.days](today)
        return found


def call_path(location_id: str, call_id: str) -> str:
    """A call's own address. Ids are foreign text, so they are percent-encoded."""
    return f"{PATH}/{quote(location_id, safe='')}/{quote(call_id, safe='')}"


def _month_before(today: date) -> tuple[date, date]:
    last = today.replace(day=1) - timedelta(days=1)
    return last.replace(day=1), last


def _week(today: date, ago: int = 0) -> tuple[date, date]:
    monday = today - timedelta(days=today.weekday() + 7 * ago)
    return monday, monday + timedelta(days=6)


def _last(count: int) -> Any:
    return lambda today: (today - timedelta(days=count - 1), today)


_PRESETS: Final[Mapping[str, Any]] = {
    "today": _last(1),
    "yesterday": lambda today: (today - timedelta(days=1),) * 2,
    "week": _week,
    "lastweek": lambda today: _week(today, 1),
    "7d": _last(7),
    "30d": _last(30),
    "90d": _last(90),
    "month": lambda today: (today.replace(day=1), today),
    "lastmonth": _month_before,
    "all": lambda _today: (None, None),
}


# Reading -----------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Takes values out of a query string, and notes those that cannot be understood."""

    given: QueryParams
    complaints: list[str] = field(default_factory=list)

    def several(self, name: str) -> tuple[str, ...]:
        found = [one for one in self.given.getlist(name) if _ID.fullmatch(one)]
        return tuple(dict.fromkeys(found))[:_MOST]

    def one_of(self, name: str, kind: Any, usual: Any) -> Any:
        try:
            return kind(self.given.get(name, usual.value))
        except ValueError:
            self._complain(name)
            return usual

    def preset(self) -> str:
        found = self.given.get("days", "") or DEFAULT
        if found not in PRESETS:
            self._complain("days")
            return DEFAULT
        return found

    def day(self, name: str) -> date | None:
        text = self.given.get(name, "")
        try:
            found = date.fromisoformat(text) if text else None
            if found is not None and found.year not in _YEARS:
                raise ValueError
            return found
        except ValueError:
            self._complain(name)
            return None

    def number(self, name: str, least: int, most: int) -> int | None:
        text = self.given.get(name, "")
        if re.fullmatch(r"[0-9]{1,2}", text) and least <= int(text) <= most:
            return int(text)
        if text:
            self._complain(name)
        return None

    def seconds(self, name: str) -> int | None:
        """Seconds, or minutes and seconds as ``m:ss``."""
        text = self.given.get(name, "").strip()
        found = re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,6})", text)
        if found is None:
            if text:
                self._complain(name)
            return None
        return int(found[1] or 0) * 60 + int(found[2])

    def zone(self) -> str:
        name = self.given.get("zone", "")
        try:
            return ZoneInfo(name).key if name else ZONE_OF_LOCATION
        except (KeyError, ValueError, OSError):
            self._complain("zone")
            return ZONE_OF_LOCATION

    def position(self, name: str, sort: Sort) -> Position | None:
        text = self.given.get(name, "")
        if not text:
            return None
        try:
            return read_position(text, sort)
        except (ValueError, OverflowError, RecursionError):
            self._complain(name)
            return None

    def _complain(self, name: str) -> None:
        self.complaints.append(f"“{name}” was not understood and is left out.")


def written(position: Position) -> str:
    """A position as text for an address."""
    value = position.value
    first = value.isoformat() if isinstance(value, datetime) else value
    text = json.dumps([first, position.location_id, position.call_id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_position(text: str, sort: Sort) -> Position:
    """The position that ``written`` has written as ``text``.

    Raises:
        ValueError: the text was written for another order, or not by ``written``.
    """
    if len(text) > _LONGEST:
        raise ValueError
    found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    if not isinstance(found, list) or len(found) != 3:
        raise ValueError
    value, location_id, call_id = found
    if not all(isinstance(one, str) and _ID.fullmatch(one) for one in (location_id, call_id)):
        raise ValueError
    if sort is Sort.DURATION:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError
        return Position(float(value), location_id, call_id)
    if not isinstance(value, str):
        raise ValueError
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None or moment.year not in _YEARS:
        raise ValueError
    return Position(moment, location_id, call_id)

"""Which calls a list shows, and in which order. Values only: ``call_search.py`` runs the queries.

Lists, counts, exports, and the links to the previous and next call use the same filter, so they
never disagree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from voiceai_pipeline.core.days import Window


class Show(StrEnum):
    """Which kind of call a list shows: those that metrics count, test calls, all calls, or those
    that HighLevel no longer lists."""

    LIVE = "live"
    TEST = "test"
    ALL = "all"
    GONE = "gone"


class Derived(StrEnum):
    """A property that is derived from a call besides its outcome, as the metrics define it."""

    ENGAGED = "engaged"
    TRANSFERRED = "transferred"
    CONTAINED = "contained"
    CAPTURED = "captured"


class Sort(StrEnum):
    """What a list is sorted by. Location id and call id break ties."""

    TIME = "time"
    DURATION = "duration"
    FIRST_SEEN = "seen"


@dataclass(frozen=True)
class Scope:
    """The calls of a location, or those in a window; days are days of the location's time zone. A
    list may have several scopes of one location; they do not overlap.

    Attributes:
        window: None for all of the location's calls.
    """

    location_id: str
    window: Window | None = None


@dataclass(frozen=True)
class Position:
    """A call's position in a list, from which the next or previous page continues.

    Attributes:
        value: the sort key: a time (UTC), or a duration in seconds (-1 if unknown).
    """

    value: datetime | float
    location_id: str
    call_id: str


@dataclass(frozen=True)
class Search:
    """What a visitor searches for, parsed.

    Attributes:
        text: as typed, trimmed and cut to ``MAX_SEARCH``.
        identifier: ``text`` if it can be the id of a call or a contact, else "".
        digits: the digits of ``text`` if it can be part of a phone number, else "".
    """

    text: str
    identifier: str = ""
    digits: str = ""

    @classmethod
    def of(cls, typed: str) -> "Search | None":
        """Parse what was typed; None if it is blank."""
        text = typed.strip()[:MAX_SEARCH]
        if not text:
            return None
        digits = re.sub(r"\D", "", text)
        is_number = bool(_NUMBER.fullmatch(text)) and len(digits) >= MIN_DIGITS
        return cls(text, text if _IDENTIFIER.fullmatch(text) else "", digits if is_number else "")


MAX_SEARCH: Final = 200
"""The most characters of a search; the rest is ignored."""

MIN_DIGITS: Final = 3
"""The fewest digits that are searched for as the beginning or end of a phone number."""

_NUMBER: Final = re.compile(r"[+0-9 ().\-/]+")
_IDENTIFIER: Final = re.compile(r"(?=.*[0-9]|.{16})[A-Za-z0-9_\-:.]{6,128}")


@dataclass(frozen=True)
class CallFilter:
    """Which calls, and in which order.

    Attributes:
        scopes: locations and their windows; if empty, no call matches.
        agent_ids, actions, outcomes: the call has any of them; empty for no restriction.
        has: the call has all of these properties.
        min_seconds, max_seconds: bounds of the duration, inclusive, in whole seconds as pages show
            it; calls of unknown duration do not match.
        changed_since: the call's stored content changed at or after this instant (UTC).
        search: None for no search.
        only_ids: search call ids only, because everything else is content.
    """

    scopes: Sequence[Scope]
    agent_ids: Sequence[str] = ()
    actions: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    has: Sequence[Derived] = ()
    min_seconds: float | None = None
    max_seconds: float | None = None
    changed_since: datetime | None = None
    search: Search | None = None
    only_ids: bool = False
    show: Show = Show.LIVE
    sort: Sort = Sort.TIME
    is_ascending: bool = False

    @property
    def is_selective(self) -> bool:
        """Whether many calls may have to be examined for each match."""
        chosen = (self.agent_ids, self.actions, self.outcomes, self.has, self.changed_since)
        return any(chosen) or self.show in (Show.TEST, Show.GONE)

"""Which calls a list shows, and in which order: values only. ``call_search.py`` asks the database.

Every list, count, export, and the previous and next call are made from the same filter, so they
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
    """Which kinds of call: those that metrics count, test calls, both, or what is gone."""

    LIVE = "live"
    TEST = "test"
    ALL = "all"
    GONE = "gone"


class Derived(StrEnum):
    """What is derived from a call besides its outcome, as the metrics count it."""

    ENGAGED = "engaged"
    TRANSFERRED = "transferred"
    CONTAINED = "contained"
    CAPTURED = "captured"


class Sort(StrEnum):
    """What a list is sorted by. Location and call id follow, so that the order is total."""

    TIME = "time"
    DURATION = "duration"
    FIRST_SEEN = "seen"


@dataclass(frozen=True)
class Scope:
    """A location and the instants of its calls; its days are days of its own time zone. A list may
    have several of one location, which do not overlap.

    Attributes:
        window: None: all of them.
    """

    location_id: str
    window: Window | None = None


@dataclass(frozen=True)
class Position:
    """Where a call stands in a list, to continue from there.

    Attributes:
        value: of what the list is sorted by: a time (UTC) or seconds, -1 where unknown.
    """

    value: datetime | float
    location_id: str
    call_id: str


@dataclass(frozen=True)
class Search:
    """What a visitor looks for, taken apart.

    Attributes:
        text: as it was typed.
        identifier: the same if it can be the id of a call or a contact, else "".
        digits: its digits if it can be a part of a telephone number, else "".
    """

    text: str
    identifier: str = ""
    digits: str = ""

    @classmethod
    def of(cls, typed: str) -> "Search | None":
        """None if nothing was typed."""
        text = typed.strip()[:MAX_SEARCH]
        if not text:
            return None
        digits = re.sub(r"\D", "", text)
        is_number = bool(_NUMBER.fullmatch(text)) and len(digits) >= MIN_DIGITS
        return cls(text, text if _IDENTIFIER.fullmatch(text) else "", digits if is_number else "")


MAX_SEARCH: Final = 200
"""Characters of a search."""

MIN_DIGITS: Final = 3
"""Digits from which a search may be a telephone number's end or beginning."""

_NUMBER: Final = re.compile(r"[+0-9 ().\-/]+")
_IDENTIFIER: Final = re.compile(r"(?=.*[0-9]|.{16})[A-Za-z0-9_\-:.]{6,128}")


@dataclass(frozen=True)
class CallFilter:
    """Which calls, and in which order.

    Attributes:
        scopes: locations and their windows; none: nothing is found.
        agent_ids, actions, outcomes: any of them; empty: all.
        has: all of these, as they were derived (``Derived``).
        min_seconds, max_seconds: of the duration, in whole seconds as screens show it, inclusive;
            calls without one are left out.
        changed_since: stored content changed at or after this instant (UTC).
        search: None: nothing is looked for.
        only_ids: the search may look at ids of calls only: the rest is content.
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

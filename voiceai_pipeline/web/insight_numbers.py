"""The numbers of the page of insights as texts: each with its share, and its change from the days
before.

An unknown number is a dash. A number of few calls is marked, because it says little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from voiceai_pipeline.core.call import agent_label
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.outcome import Outcome, label
from voiceai_pipeline.core.percent import SMALL, percent
from voiceai_pipeline.marts import insights
from voiceai_pipeline.marts.insights import BUCKETS, AgentSums, DaySums, Report, Scope
from voiceai_pipeline.web.insight_query import RANKS, InsightQuery, calls_address

UNKNOWN: Final = "\N{EN DASH}"


def sums(
    by_day: Sequence[DaySums], days: insights.Days, *, of_all: bool = False
) -> dict[str, Any] | None:
    """Sums over those of these days that were read. None if no day was read; with ``of_all``, also
    if any day was not, because an incomplete sum cannot be compared."""
    read = [one.sums for one in by_day if one.day in days and one.read]
    if not read or (of_all and len(read) < days.count):
        return None
    return {name: sum(one[name] for one in read) for name in (*insights.SUMS, *BUCKETS)}


def coverage(by_day: Sequence[DaySums], scope: Scope) -> list[str]:
    """Sentences about days that are not complete; empty if all numbers are final."""
    found, most = [], max((one.locations for one in by_day), default=0)
    for days, what in ((scope.days, "these days"), (scope.before, "the days before")):
        inside = [one for one in by_day if one.day in days and one.read]
        unread = days.count - len(inside)
        partial = sum(1 for one in inside if one.complete < one.locations)
        fewer = sum(1 for one in inside if one.locations < most)
        if unread:
            found.append(f"{unread} of {what} {_were(unread)} never read.")
        if partial:
            found.append(f"{partial} of {what} {_were(partial)} not read completely.")
        if fewer:
            found.append(f"{fewer} of {what} {_were(fewer)} read for fewer locations.")
    return found


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


@dataclass(frozen=True)
class Change:
    """A difference from the days before.

    Attributes:
        text: the difference, with its size; a dash if either number is unknown.
        tone: ``up``, ``down`` or "".
        is_small: it compares fewer than 20 calls.
    """

    text: str
    tone: str = ""
    is_small: bool = False


@dataclass(frozen=True)
class Tile:
    """A number with its share and its change.

    Attributes:
        share, share_of: the percentage, and the numbers it is computed from; "" if there is none.
        is_small: the share is of fewer than 20 calls.
        before: the number of the days before.
    """

    name: str
    value: str
    href: str
    before: str
    before_href: str
    change: Change
    share: str = ""
    share_of: str = ""
    share_change: Change | None = None
    is_small: bool = False


MEASURES: Final = {
    "calls": ("Calls", "calls", None, None, {}),
    "minutes": ("Minutes", "talk_seconds", None, None, {}),
    "engaged": ("Engaged", "engaged_calls", "engaged_calls", "calls", {"has": "engaged"}),
    "booked": ("Booked", "goal_calls", "engaged_goal_calls", "engaged_calls", {"outcome": "goal"}),
    "transferred": ("Transferred", "transferred_calls", "engaged_transferred_calls",
                    "engaged_calls", {"has": "transferred"}),
    "contained": ("Contained", "contained_calls", "contained_calls", "engaged_calls",
                  {"has": "contained"}),
    "captured": ("Data captured", "captured_calls", "engaged_captured_calls", "engaged_calls",
                 {"has": "captured"}),
}  # fmt: skip
"""By measure: name, number, numerator and denominator of its share, and the filter of its calls."""


def in_order(rank: str) -> list[tuple[str, Any]]:
    """The measures, the one to rank by first, because a phone shows only the first columns."""
    return sorted(MEASURES.items(), key=lambda one: one[0] != rank)


def column_name(measure: str, report: Report) -> str:
    name = MEASURES[measure][0]
    return label(Outcome.GOAL, report.goal_actions) if measure == "booked" else name


def tiles(
    scope: Scope, report: Report, now: Mapping[str, Any] | None, before: Mapping[str, Any] | None
) -> list[Tile]:
    found = []
    for measure, (_, number, over, under, more) in MEASURES.items():
        found.append(
            Tile(
                name=column_name(measure, report),
                value=_number(measure, now and now[number]),
                href=calls_address(scope, more=more) if now else "",
                before=_number(measure, before and before[number]),
                before_href=calls_address(scope, scope.before, more) if before else "",
                change=change(measure, now and now[number], before and before[number]),
                share=_share(now, over, under),
                share_of=f"{now[over]:,} of {now[under]:,}" if over and under and now else "",
                share_change=points(now, before, over, under) if over and under else None,
                is_small=bool(under and now and now[under] < SMALL),
            )
        )
    return found


def _number(measure: str, value: Any) -> str:
    if value is None:
        return UNKNOWN
    return f"{minutes(value):,}" if measure == "minutes" else f"{value:,}"


def minutes(seconds: Any) -> int:
    """Whole minutes, rounded."""
    return int(percent(int(seconds), 6000))


def _share(of: Mapping[str, Any] | None, over: str | None, under: str | None) -> str:
    if of is None or not over or not under:
        return ""
    return f"{percent(of[over], of[under])} %" if of[under] else UNKNOWN


def change(measure: str, now: Any, before: Any) -> Change:
    """The difference of two numbers, and its size in percent of the one before."""
    if now is None or before is None:
        return Change(UNKNOWN)
    if measure == "minutes":
        now, before = minutes(now), minutes(before)
    difference = now - before
    size = f" ({percent(difference, before):+} %)" if before else ""
    tone = "up" if difference > 0 else "down" if difference < 0 else ""
    text = f"{difference:+,}{size}" if difference else "no change"
    return Change(text, tone, measure != "minutes" and max(now, before) < SMALL)


def points(
    now: Mapping[str, Any] | None, before: Mapping[str, Any] | None, over: str, under: str
) -> Change:
    """The difference of two shares, in percentage points."""
    if now is None or before is None or not now[under] or not before[under]:
        return Change(UNKNOWN)
    difference = percent(now[over], now[under]) - percent(before[over], before[under])
    tone = "up" if difference > 0 else "down" if difference < 0 else ""
    noun = "point" if abs(difference) == 1 else "points"
    text = f"{difference:+} {noun}" if difference else "no change"
    return Change(text, tone, min(now[under], before[under]) < SMALL)


@dataclass(frozen=True)
class Ranked:
    """An agent in the ranking: a cell for each measure, its change, and addresses."""

    name: str
    location: str
    href: str
    cells: Sequence[tuple[str, str, str, bool, Change]]


def ranking(scope: Scope, report: Report, query: InsightQuery) -> list[Ranked]:
    """The agents, ranked by the measure that the address names. A cell has the value, its share,
    the address of the calls, whether the share is of few calls, and the change."""
    number = RANKS[query.rank]
    ordered = sorted(report.agents, key=lambda one: -one.now[number])
    return [_ranked(scope, one, query) for one in ordered]


def _ranked(scope: Scope, agent: AgentSums, query: InsightQuery) -> Ranked:
    own = replace(scope, location_id=agent.location_id, agent_id=agent.agent_id)
    cells = [
        (
            _number(measure, agent.now[number]),
            _share(agent.now, over, under) if agent.now[under or "calls"] else "",
            # No address names calls without an agent.
            calls_address(own, more=more) if agent.agent_id else "",
            bool(under and agent.now[under] < SMALL),
            change(measure, agent.now[number], agent.before and agent.before[number]),
        )
        for measure, (_, number, over, under, more) in in_order(query.rank)
    ]
    return Ranked(
        agent_label(agent.agent_id, agent.name, is_deleted=agent.is_deleted),
        cleaned(agent.location_name or agent.location_id, NAME_LENGTH),
        query.address(location=agent.location_id, agent=agent.agent_id) if agent.agent_id else "",
        cells,
    )

"""The tables that the UI shows for a mart's day, short enough to be shown without a click.

They name businesses and agents, and say nothing about a caller. Pure: nothing is read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from voiceai_pipeline.core.call import agent_label
from voiceai_pipeline.core.foreign_text import NAME_LENGTH
from voiceai_pipeline.core.outcome import Outcome, label
from voiceai_pipeline.core.percent import SMALL, percent
from voiceai_pipeline.defs import charts
from voiceai_pipeline.defs.markdown import UNKNOWN, Markup, shown

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Busiest:
    """The rows of a day's tables: of the charted days, and for ``of_the_day`` of the day alone."""

    agents: Rows
    actions: Rows
    of_the_day: Rows
    values: Rows


def locations_table(places: pd.DataFrame) -> str:
    rows = [
        (
            _location(row),
            _count(row["calls"]),
            _count(row["engaged_calls"]),
            _percent_of(row["engaged_goal_calls"], row["engaged_calls"]),
            _change(row["calls_7d"], row["calls_previous_7d"])
            if row["is_7d_complete"]
            else UNKNOWN,
            _state(row),
        )
        for row in places.sort_values("calls", ascending=False).to_dict("records")
    ]
    heads = ("location", "calls", "engaged", "goal", "7 days", "")
    note = (
        f"Days are each location's own. goal: {_OF_ENGAGED} 7 days: change from the 7 before. "
        f"{UNKNOWN}: not read."
    )
    return charts.table(heads, rows, "locations", note=note)


def _count(value: int | None) -> str:
    return UNKNOWN if pd.isna(value) else str(value)


def _state(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["calls"]):
        return "not read"
    return "" if row["is_complete"] else "not complete"


_OF_ENGAGED: Final = f"% of engaged calls, in brackets if fewer than {SMALL}."


def agents_table(agents: Rows) -> str:
    most = max((row["calls"] for row in agents), default=0)
    rows = [
        (
            _agent(row),
            _bar(row["calls"], most),
            str(row["engaged_calls"]),
            *(
                _percent_of(row[name], row["engaged_calls"])
                for name in ("engaged_goal_calls", "engaged_transferred_calls")
            ),
        )
        for row in agents
    ]
    heads = ("agent", "calls", "engaged", "goal", "transfer")
    note = f"goal, transfer: {_OF_ENGAGED}"
    return charts.table(heads, rows, "agents", note=note, total=_total(agents))


def _agent(row: Mapping[str, Any]) -> Markup:
    label = agent_label(row["agent_id"], row["agent_name"], is_deleted=row["is_agent_deleted"])
    return Markup(f"{shown(label)}, {_location(row)}")


def _location(row: Mapping[Any, Any]) -> Markup:
    return _name(row["location_name"], row["location_id"])


def _name(name: str | None, nameless: str) -> Markup:
    return shown(name or nameless, NAME_LENGTH)


def _total(rows: Rows) -> int:
    """How many rows there are in all; ``rows`` are the busiest of them."""
    return rows[0]["total"] if rows else 0


def actions_table(busiest: Busiest, all_calls: int) -> str:
    most = max((row["calls"] for row in busiest.actions), default=0)
    rows = [
        (
            Markup(
                f"{_name(row['action_name'], 'no name')}, {_name(row['action_type'], 'no type')}"
            ),
            _bar(row["calls"], most),
            _percent_of(row["calls"], all_calls),
            _of(row["executed_actions"], row["actions"]),
        )
        for row in busiest.actions
    ]
    heads = ("action", "calls", "share", "executed")
    note = f"share: of all {all_calls} calls of these days."
    return charts.table(heads, rows, "actions", note=note, total=_total(busiest.actions))


def day_of_actions_table(actions: Rows) -> str:
    rows = [
        (
            _name(row["action_name"] or row["action_type"], "no name"),
            _agent(row),
            _of(row["calls"], row["agent_calls"]),
            *(
                "" if row[name] is None else f"{row[name]:.1f}"
                for name in ("p50_latency_seconds", "p90_latency_seconds")
            ),
        )
        for row in actions
    ]
    heads = ("action", "agent", "calls", "p50", "p90")
    note = (
        "calls: of the agent's calls that day. p50, p90: median and 90th percentile of the seconds "
        "from trigger to execution."
    )
    return charts.table(heads, rows, "actions", note=note, total=_total(actions))


def values_table(values: Rows) -> str:
    most = max((row["engaged_filled_calls"] for row in values), default=0)
    rows = [
        (
            shown(row["data_key"], NAME_LENGTH),
            _bar(row["engaged_filled_calls"], most),
            str(row["engaged_calls"]),
            _percent_of(row["engaged_filled_calls"], row["engaged_calls"]),
        )
        for row in values
    ]
    note = "of: the engaged calls of the agents that captured it at least once in these days."
    heads = ("value", "captured in", "of", "share")
    return charts.table(heads, rows, "values", note=note, total=_total(values))


def outcomes_table(calls: Mapping[str, int], goal_actions: Sequence[str]) -> str:
    total, most = sum(calls.values()), max(calls.values())
    rows = [
        (
            Markup(label(Outcome(outcome), goal_actions)),
            _bar(count, most),
            _percent_of(count, total),
        )
        for outcome, count in calls.items()
        if count
    ]
    note = f"share: of all {total} calls of these days; docs/metrics.md has the rules."
    return charts.table(("outcome", "calls", "share"), rows, "calls", note=note)


def _bar(count: int, most: int) -> str:
    return f"{charts.bar(count / most if most else None, 6)}{_NO_BREAK}{count}"


_NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def _of(part: int, whole: int) -> str:
    return f"{part}{_NO_BREAK}of{_NO_BREAK}{whole}"


def _percent_of(over: int | None, under: int | None) -> str:
    """A percentage of the number in a cell beside it; in brackets if that is less than 20."""
    if over is None or under is None:
        return UNKNOWN
    if not under:
        return ""
    text = f"{percent(over, under):f}{_NO_BREAK}%"
    return text if under >= SMALL else f"({text})"


def _change(now: int, before: int) -> str:
    return f"{percent(now - before, before):+f}{_NO_BREAK}%" if before else ""

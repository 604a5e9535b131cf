"""What agents captured: names of values, from a mart, and the most frequent values themselves.

Values are content: code that shows them records it (``calls/call_content.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from voiceai_pipeline.database.captured_values import CAPTURED_VALUES
from voiceai_pipeline.database.fact_tables import call_facts
from voiceai_pipeline.database.mart_tables import agent_performance, data_capture_metrics
from voiceai_pipeline.marts.caller_insights import facts_within
from voiceai_pipeline.marts.insights import Days, Scope, of_scope, within

MOST_NAMES = 12
"""The most names of values that are shown, by calls."""

MOST_VALUES = 5
"""The most values that are shown of each name."""

_LENGTH = 200
"""Values count as equal if they agree in this many first characters."""


@dataclass(frozen=True)
class CapturedName:
    """How often a value was captured under this name.

    Attributes:
        calls, calls_before: calls with a value that is not empty.
        engaged_calls: the engaged ones among ``calls``.
        of: engaged calls of the agents that captured it at least once in these days.
    """

    name: str
    calls: int
    calls_before: int
    engaged_calls: int
    of: int


@dataclass(frozen=True)
class FrequentValues:
    """The values of a name that more than one call has.

    Attributes:
        calls: calls with any value.
        distinct: how many different values there are.
        values: values and their numbers of calls, the most frequent first.
    """

    name: str
    calls: int
    distinct: int
    values: Sequence[tuple[str, int]]


def names(db: sa.Connection, scope: Scope) -> list[CapturedName]:
    """The names that were captured in the most calls of these days, from the mart."""
    now = _by_name(db, scope, scope.days)
    before = _by_name(db, scope, scope.before)
    return [
        CapturedName(name, calls, before[name][0] if name in before else 0, engaged, of)
        for name, (calls, engaged, of) in list(now.items())[:MOST_NAMES]
    ]


def _by_name(db: sa.Connection, scope: Scope, days: Days) -> dict[str, tuple[int, int, int]]:
    table, agent = data_capture_metrics, agent_performance
    captured = (
        sa.select(
            table.c.data_key,
            table.c.location_id,
            table.c.agent_id,
            sa.func.sum(table.c.filled_calls).label("filled"),
            sa.func.sum(table.c.engaged_filled_calls).label("engaged_filled"),
        )
        .where(within(table, days), *of_scope(table, scope))
        .group_by(table.c.data_key, table.c.location_id, table.c.agent_id)
        .subquery("captured")
    )
    engaged = (
        sa.select(
            agent.c.location_id, agent.c.agent_id, sa.func.sum(agent.c.engaged_calls).label("calls")
        )
        .where(within(agent, days), *of_scope(agent, scope))
        .group_by(agent.c.location_id, agent.c.agent_id)
        .subquery("engaged")
    )
    same = (engaged.c.location_id == captured.c.location_id) & (
        engaged.c.agent_id == captured.c.agent_id
    )
    filled = sa.func.sum(captured.c.filled)
    query = (
        sa.select(
            captured.c.data_key,
            filled,
            sa.func.sum(captured.c.engaged_filled),
            sa.func.sum(engaged.c.calls),
        )
        .join_from(captured, engaged, same)
        .group_by(captured.c.data_key)
        .order_by(filled.desc(), captured.c.data_key)
    )
    return {name: (int(a), int(b), int(c)) for name, a, b, c in db.execute(query)}


def frequent_values(db: sa.Connection, scope: Scope) -> list[FrequentValues]:
    """The most frequent values of the names that were captured in the most calls. These are content
    of calls."""
    one = CAPTURED_VALUES.subquery("one")
    same = (call_facts.c.location_id == one.c.location_id) & (call_facts.c.call_id == one.c.call_id)
    value = sa.func.left(one.c.value, _LENGTH)
    counted = (
        sa.select(one.c.data_key, value.label("value"), sa.func.count().label("calls"))
        .join_from(call_facts, one, same)
        .where(*facts_within(scope.days), *of_scope(call_facts, scope))
        .group_by(one.c.data_key, value)
        .cte("counted")
    )
    by_name = (
        sa.select(
            counted.c.data_key,
            sa.func.sum(counted.c.calls).label("calls"),
            sa.func.count().label("different"),
        )
        .group_by(counted.c.data_key)
        .order_by(sa.text("2 DESC, 1"))
        .limit(MOST_NAMES)
        .subquery("by_name")
    )
    top = (
        sa.select(counted.c.value, counted.c.calls)
        .where(counted.c.data_key == by_name.c.data_key, counted.c.calls > 1)
        .order_by(counted.c.calls.desc(), counted.c.value)
        .limit(MOST_VALUES)
        .lateral("top")
    )
    query = (
        sa.select(by_name, top.c.value, top.c.calls.label("of_value"))
        .outerjoin(top, sa.true())
        .order_by(by_name.c.calls.desc(), by_name.c.data_key, sa.text("of_value DESC"), top.c.value)
    )
    found: dict[str, FrequentValues] = {}
    for row in db.execute(query):
        known = found.get(row.data_key)
        values = [(row.value, row.of_value)] if row.value is not None else []
        found[row.data_key] = FrequentValues(
            row.data_key,
            int(row.calls),
            row.different,
            [*(known.values if known else ()), *values],
        )
    return list(found.values())

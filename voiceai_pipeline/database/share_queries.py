"""The queries of the views for shares over several days. They have a row for each day of an agent,
even without the action or value, so that both numbers of a share can be summed.
"""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.database.mart_tables import (
    action_metrics,
    agent_performance,
    data_capture_metrics,
)

_ADDITIVE: Final = "Additive over days, agents and locations."


def _every_day(
    mart: sa.Table, things: tuple[str, ...], counts: Mapping[str, str], base: str, label: str
) -> sa.Select[Any]:
    """A row for each day of each agent and each action or value that the location has ever had.

    Args:
        things: the mart's columns that identify the action or value.
        counts: the mart's columns to count by, 0 on a day without it, with their names here.
        base: the denominator in ``agent_performance``; ``label`` is its name here.
    """
    known = sa.select(mart.c.location_id, *(mart.c[name] for name in things)).distinct()
    known_things = known.subquery("known")
    day = agent_performance.c
    return sa.select(
        day.location_id,
        day.day,
        day.agent_id,
        day.agent_name,
        *(known_things.c[name] for name in things),
        *(sa.func.coalesce(mart.c[name], 0).label(to) for name, to in counts.items()),
        day[base].label(label),
        day.is_complete,
    ).select_from(
        agent_performance.join(
            known_things, known_things.c.location_id == day.location_id
        ).outerjoin(
            mart,
            sa.and_(
                *(mart.c[name] == day[name] for name in ("location_id", "day", "agent_id")),
                *(mart.c[name] == known_things.c[name] for name in things),
            ),
        )
    )


ACTION_SHARES: Final = _every_day(
    action_metrics,
    ("action_type", "action_name"),
    {"calls": "calls", "actions": "actions", "executed_actions": "executed_actions"},
    "calls",
    "agent_calls",
)
ACTION_COMMENTS: Final = {
    "calls": f"The agent's calls of the day in which the action is listed; 0 if none. {_ADDITIVE} "
    "Not over actions: a call can have several.",
    "actions": f"How often the action is listed. {_ADDITIVE}",
    "executed_actions": f"How many of these have an execution time. {_ADDITIVE}",
    "agent_calls": "All calls of the agent on the day: sum(calls) / sum(agent_calls) is the share "
    f"of any set of days and agents. {_ADDITIVE}",
    **{name: str(action_metrics.c[name].comment) for name in ("action_type", "action_name")},
}

DATA_CAPTURE_SHARES: Final = _every_day(
    data_capture_metrics,
    ("data_key",),
    {"filled_calls": "filled_calls", "engaged_filled_calls": "engaged_filled_calls"},
    "engaged_calls",
    "engaged_calls",
)
DATA_CAPTURE_COMMENTS: Final = {
    "data_key": str(data_capture_metrics.c.data_key.comment),
    "filled_calls": f"Calls of the day in which the value is not empty; 0 if none. {_ADDITIVE}",
    "engaged_filled_calls": f"Engaged calls in which the value is not empty. {_ADDITIVE}",
    "engaged_calls": "All engaged calls of the agent on the day: sum(engaged_filled_calls) / "
    f"sum(engaged_calls) is the share of any set of days and agents. {_ADDITIVE}",
}

"""The marts of weeks and months, because distinct callers and percentiles of days do not add up.

A period is in the location's own time zone. Its other counts are the sums of its days' marts.
"""

from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.database.mart_tables import (
    MARTS,
    NOT_ADDITIVE,
    agent,
    column,
    count,
    location,
    marks,
    measures_if_read,
)
from voiceai_pipeline.database.schema import metadata

WEEK: Final = "week"
MONTH: Final = "month"

_CALLERS: Final = "contact_id from_number started_at"
_UNREAD: Final = "no day of the period was read."


def _period() -> tuple[sa.Column[Any], ...]:
    return (
        column("period", sa.Text, f"{WEEK}, from Monday, or {MONTH}.", key=True),
        column("first_day", sa.Date, "The period's first day, of the location's own time zone.",
               "started_at locations.timezone", key=True),
    )  # fmt: skip


def _days() -> tuple[sa.Column[Any], ...]:
    return (
        column("last_day", sa.Date, "The period's last day.", "started_at locations.timezone"),
        count("days_read", "Days of the period that were read; only these are counted.",
              "sync_status.read_until"),
    )  # fmt: skip


period_metrics = sa.Table(
    "period_metrics",
    metadata,
    location(),
    *_period(),
    *_days(),
    column("location_name", sa.Text, "The location's name; NULL if unknown.", "locations.name",
           null=True),
    column("timezone", sa.Text, "The time zone of the days, IANA name.", "locations.timezone"),
    *measures_if_read(_UNREAD),
    count("new_callers", "Of unique_callers: without an earlier call at the location. NULL also if "
          f"no day before the period was read. {NOT_ADDITIVE}", _CALLERS, null=True),
    count("returning_callers", "unique_callers - new_callers; NULL if new_callers is. "
          + NOT_ADDITIVE, _CALLERS, null=True),
    column("callers_known_since", sa.Date, "The first day of the location that was read: earlier "
           "calls are unknown, so their callers count as new.", _CALLERS, null=True),
    count("peak_concurrent_calls", "The most calls in progress at one moment. NULL: "
          f"{_UNREAD} {NOT_ADDITIVE}", "started_at duration_seconds", null=True),
    *marks(),
    sa.Index("period_metrics_first_day_idx", "period", "first_day"),
    comment="A row for each location and week or month: the measures of daily_call_metrics, new "
    "and returning callers, and the most calls at once. is_complete: all of its days are.",
)  # fmt: skip

agent_period_metrics = sa.Table(
    "agent_period_metrics",
    metadata,
    location(),
    *_period(),
    agent(),
    *_days(),
    column("agent_name", sa.Text, "What the agent was called last in the period; NULL: never "
           "listed.", "agents.name", null=True),
    column("is_agent_deleted", sa.Boolean, "Whether the agent was deleted, as of its last day "
           "with a call.",
           "is_agent_deleted agents.missing_since"),
    *measures_if_read(_UNREAD),
    *marks(),
    sa.Index("agent_period_metrics_first_day_idx", "period", "first_day"),
    comment="The same measures for each agent and week or month with a call. is_complete: all days "
    "of the period are.",
)  # fmt: skip

PERIOD_MARTS: Final = (period_metrics, agent_period_metrics)
ALL_MARTS: Final = (*MARTS, *PERIOD_MARTS)

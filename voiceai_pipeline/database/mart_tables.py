"""The marts' tables: all columns with their meaning and source.

``comment`` becomes the comment in the database and the description in Dagster; ``info["from"]``
becomes the column lineage. ``migrations/`` creates the tables.

``day`` is a day of the location's own time zone. Counts and sums are additive over agents, hours
and days; the comment of a column that is not (distinct counts, percentiles, averages) says so.
"""

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.schema import metadata

LOOK_BACK: Final = 13
"""The number of days before a day on which its trend and repeat callers depend."""

FIRST_DAY: Final = LOOK_BACK + 1
LAST_DAY: Final = 2
"""A mart of day D depends on days of the pipeline's zone from D - FIRST_DAY to D + LAST_DAY: the
days it looks at, and one more on each side, by which two time zones can differ."""

NOT_ADDITIVE: Final = "Not additive."


def column(
    name: str, kind: Any, comment: str, origin: str = "", *, key: bool = False, null: bool = False
) -> sa.Column[Any]:
    """A column; ``origin`` lists columns of call_logs, or ``table.column``, separated by spaces."""
    return sa.Column(
        name, kind, primary_key=key, nullable=null, comment=comment, info={"from": origin.split()}
    )


def count(name: str, comment: str, origin: str, *, null: bool = False) -> sa.Column[Any]:
    return column(name, sa.Integer, comment, origin, null=null)


def ratio(name: str, over: str, under: str, origin: str, more: str = "") -> sa.Column[Any]:
    text = f"{over} / {under}; NULL where that is 0. {NOT_ADDITIVE}{more}"
    return column(name, sa.Double, text, origin, null=True)


def location() -> sa.Column[Any]:
    return column("location_id", sa.Text, "The HighLevel location.", "location_id", key=True)


def _day() -> sa.Column[Any]:
    return column(
        "day", sa.Date, "A day of the location's own time zone.",
        "started_at locations.timezone", key=True,
    )  # fmt: skip


def agent() -> sa.Column[Any]:
    return column(
        "agent_id",
        sa.Text,
        "The Voice AI agent; empty if a call has none.",
        "agent_id",
        key=True,
    )


def marks() -> Iterable[sa.Column[Any]]:
    yield column(
        "is_complete", sa.Boolean,
        "Every call of the local day has been read; until then numbers can increase.",
        "sync_status.read_until",
    )  # fmt: skip
    yield column("computed_at", UtcDateTime, "When this row was computed.")


_TURNS: Final = "transcript duration_seconds"
_ACTIONS: Final = "executed_call_actions"


def measures() -> Iterable[sa.Column[Any]]:
    yield count("calls", "Calls of the base set: not a trial, and still listed by HighLevel. "
                 "All other columns are about these unless they say otherwise.",
                 "call_id is_trial missing_since")  # fmt: skip
    yield count("trial_calls", "Trial calls, outside the base set.", "is_trial missing_since")
    yield count("missing_calls", "Calls that HighLevel no longer lists, outside the base set.",
                 "missing_since")  # fmt: skip
    yield count("unknown_trial_calls", "Calls for which HighLevel gave no trial flag; "
                 "they are counted.", "is_trial")  # fmt: skip
    yield count("unique_callers", "Distinct callers, by contact, else by number. " + NOT_ADDITIVE,
                 "contact_id from_number")  # fmt: skip
    yield count("calls_without_caller", "Calls without a known contact or number.",
                 "contact_id from_number")  # fmt: skip
    yield count("calls_without_duration", "Calls without a duration.",
                 "duration_seconds")  # fmt: skip
    yield count("calls_without_transcript", "Calls whose transcript is empty or not there yet.",
                 "transcript")  # fmt: skip
    yield count("calls_without_summary", "Calls whose summary is empty or not there yet.",
                 "summary")  # fmt: skip
    yield count("calls_with_unknown_speakers", "Calls whose transcript names no known speaker: "
                 "their turns are unknown, and they are not engaged.", "transcript",
                 null=True)  # fmt: skip
    yield count("caller_turns", "How often callers spoke, in all calls whose speakers are known.",
                "transcript", null=True)  # fmt: skip
    yield column("talk_seconds", sa.Numeric(14, 3), "Sum of durations, in seconds.",
                  "duration_seconds")  # fmt: skip
    yield column("talk_minutes", sa.Double, "talk_seconds / 60.", "duration_seconds")
    yield count("billable_minutes", "Sum of durations, each rounded up to whole minutes.",
                 "duration_seconds")  # fmt: skip
    yield column("estimated_cost", sa.Numeric(14, 4), "An estimate: billable_minutes x the "
                  "configured rate. NULL without a rate; HighLevel does not report the real cost.",
                  "duration_seconds", null=True)  # fmt: skip
    for name, text in (
        ("avg_duration_seconds", "Mean duration in seconds."),
        ("p50_duration_seconds", "Median duration in seconds, interpolated."),
        ("p90_duration_seconds", "90th percentile of the duration in seconds, interpolated."),
        ("max_duration_seconds", "Longest duration in seconds."),
    ):
        text = f"{text} NULL without calls. {NOT_ADDITIVE}"
        yield column(name, sa.Double, text, "duration_seconds", null=True)
    for name, span in (
        ("under_10s", "less than 10"),
        ("10_to_30s", "10 to under 30"),
        ("30_to_60s", "30 to under 60"),
        ("60_to_120s", "60 to under 120"),
        ("120_to_300s", "120 to under 300"),
        ("300_to_600s", "300 to under 600"),
        ("600s_and_more", "600 or more"),
    ):
        yield count(f"duration_{name}", f"Calls of {span} seconds.", "duration_seconds")
    yield count("engaged_calls", "Calls in which the caller spoke: at least 2 caller turns and 10 "
                 "seconds, unless configured otherwise.", _TURNS)  # fmt: skip
    yield ratio("engagement_rate", "engaged_calls", "calls", _TURNS)
    yield count("short_calls", "Calls under 10 seconds, and calls with known speakers in which the "
                 "caller said nothing: a sign of abandoned calls.", _TURNS)  # fmt: skip
    yield ratio("short_call_rate", "short_calls", "calls", _TURNS)
    yield count("transferred_calls", "Calls with an executed CALL_TRANSFER.", _ACTIONS)
    yield count("engaged_transferred_calls", "Engaged calls with an executed CALL_TRANSFER.",
                 f"{_ACTIONS} {_TURNS}")  # fmt: skip
    yield ratio("transfer_rate", "engaged_transferred_calls", "engaged_calls",
                 f"{_ACTIONS} {_TURNS}")  # fmt: skip
    yield count("attempted_transfer_calls", "Calls with a CALL_TRANSFER, none of them executed.",
                 _ACTIONS)  # fmt: skip
    yield count("contained_calls", "Engaged calls without an executed CALL_TRANSFER.",
                 f"{_ACTIONS} {_TURNS}")  # fmt: skip
    yield ratio("containment_rate", "contained_calls", "engaged_calls", f"{_ACTIONS} {_TURNS}")
    strict = f"{_ACTIONS} {_TURNS} from_number contact_id started_at"
    yield count("strictly_judged_calls", "Engaged calls with a known number (else contact) for "
                 "which the next 24 hours have been read.", strict)  # fmt: skip
    yield count("strictly_contained_calls", "Of strictly_judged_calls: contained, and without a "
                 "later call from the same number within 24 hours.", strict)  # fmt: skip
    yield ratio("strict_containment_rate", "strictly_contained_calls", "strictly_judged_calls",
                 strict)  # fmt: skip
    yield count("goal_calls", "Calls with at least one goal action.", _ACTIONS)
    yield count("engaged_goal_calls", "Engaged calls with at least one goal action.",
                 f"{_ACTIONS} {_TURNS}")  # fmt: skip
    yield ratio("goal_rate", "engaged_goal_calls", "engaged_calls", f"{_ACTIONS} {_TURNS}",
                 " HighLevel reports bookings only from 2025-09-09 on.")  # fmt: skip
    yield count("actions", "Executed call actions, as HighLevel lists them.", _ACTIONS)
    yield count("calls_with_action", "Calls with at least one action.", _ACTIONS)
    yield count("unknown_actions", "Actions of a type outside the documented eight.",
                 _ACTIONS)  # fmt: skip
    yield count("captured_calls", "Calls with at least one extracted value that is not empty.",
                 "extracted_data")  # fmt: skip
    yield count("engaged_captured_calls", "Engaged calls with at least one such value.",
                 f"extracted_data {_TURNS}")  # fmt: skip
    yield ratio("capture_rate", "engaged_captured_calls", "engaged_calls",
                 f"extracted_data {_TURNS}")  # fmt: skip
    back = "contact_id from_number started_at"
    yield count("callback_judged_calls", "Calls with a known caller for which the next 24 hours "
                 "have been read.", back)  # fmt: skip
    yield count("called_back_calls", "Of callback_judged_calls: the same caller called again "
                 "within 24 hours.", back)  # fmt: skip
    yield ratio("callback_rate", "called_back_calls", "callback_judged_calls", back)
    limit = "duration_seconds agent_id agents.raw"
    yield count("max_duration_known_calls", "Calls of known duration, of agents whose "
                 "maxCallDuration was known.", limit)  # fmt: skip
    yield count("calls_at_max_duration", "Of max_duration_known_calls: at most 2 seconds shorter "
                 "than the maxCallDuration that applied when the call started.",
                 limit)  # fmt: skip
    yield ratio("max_duration_rate", "calls_at_max_duration", "max_duration_known_calls", limit)
    hours = "started_at agent_id agents.raw agents.timezone"
    yield count("hours_known_calls", "Calls of agents whose working hours were known.", hours)
    yield count("after_hours_calls", "Of hours_known_calls: outside the working hours that applied "
                 "when the call started, in the agent's time zone, else the location's.",
                 hours)  # fmt: skip
    yield ratio("after_hours_rate", "after_hours_calls", "hours_known_calls", hours)
    yield column("is_small_sample", sa.Boolean, "calls < 20: shares of calls are not meaningful.",
                  "call_id")  # fmt: skip
    yield column("is_engaged_small_sample", sa.Boolean, "engaged_calls < 20: shares of engaged "
                  "calls are not meaningful.", _TURNS)  # fmt: skip


def measures_if_read(unread: str) -> Iterable[sa.Column[Any]]:
    """The measures, for days that may not have been read; ``unread`` says what NULL means."""
    for one in measures():
        one.nullable = True
        one.comment = f"{one.comment} NULL: {unread}"
        yield one


_UNREAD_WEEK: Final = "NULL: not all of these days were read. " + NOT_ADDITIVE

daily_call_metrics = sa.Table(
    "daily_call_metrics",
    metadata,
    location(),
    _day(),
    column("location_name", sa.Text, "The location's name; NULL if unknown.", "locations.name",
            null=True),
    column("timezone", sa.Text, "The time zone of the day, IANA name.", "locations.timezone"),
    column("is_timezone_assumed", sa.Boolean, "The location's time zone is unknown: the "
            "pipeline's is used.", "locations.timezone"),
    *measures_if_read("the day was never read."),
    count("callers_7d", "Distinct callers of the 7 days that end with this one. " + _UNREAD_WEEK,
           "contact_id from_number started_at", null=True),
    count("repeat_callers_7d", "Of callers_7d: with 2 calls or more. " + _UNREAD_WEEK,
           "contact_id from_number started_at", null=True),
    ratio("repeat_caller_rate", "repeat_callers_7d", "callers_7d",
           "contact_id from_number started_at"),
    count("calls_7d", "Calls of the 7 days that end with this one. " + _UNREAD_WEEK,
           "call_id started_at", null=True),
    count("calls_previous_7d", "Calls of the 7 days before those: the same weekdays. "
           + _UNREAD_WEEK, "call_id started_at", null=True),
    column("calls_change_7d", sa.Double, "(calls_7d - calls_previous_7d) / calls_previous_7d; "
            "NULL where that is 0, and unless is_7d_complete. " + NOT_ADDITIVE,
            "call_id started_at", null=True),
    column("is_7d_complete", sa.Boolean, "All 14 days that calls_change_7d depends on have been "
            "read completely.", "sync_status.read_until"),
    count("calls_by_now_last_week", "Calls of the day 7 days earlier, up to the same local "
           "time of day as calls_known_until: what calls so far compare with. NULL: either day "
           "was not read.", "call_id started_at", null=True),
    count("peak_concurrent_calls", "The most calls in progress at one moment, at the start of a "
          "call of this day. NULL: the day was never read. " + NOT_ADDITIVE,
          "started_at duration_seconds", null=True),
    column("goal_actions", sa.Text, "The action types that count as goals, separated by commas."),
    column("is_goal_comparable", sa.Boolean, "False before 2025-09-09 if bookings are a goal: "
            "HighLevel did not report them.", "started_at"),
    column("is_over", sa.Boolean, "The local day was over when this row was computed."),
    column("calls_known_until", UtcDateTime, "Up to when the day's calls have been read without "
            "a gap; NULL: not from its start.", "sync_status.read_until", null=True),
    column("last_successful_sync_at", UtcDateTime, "The last complete read of any day that "
            "this row depends on.", "sync_status.read_until", null=True),
    count("incomplete_sync_days", "Days of the pipeline's zone that overlap this one and have not "
           "been read completely.", "sync_status.read_until"),
    column("synced_at", UtcDateTime, "The newest sync_ledger entry that this row includes; a "
            "newer one makes it stale.", "sync_status.read_until", null=True),
    column("rules_version", sa.Text, "Fingerprint of the definitions used: thresholds, goals, "
            "rate. A change makes the row stale."),
    column("outcome_rules", sa.Text, "The rules of outcomes used, in order, a line each."),
    *marks(),
    sa.Index("daily_call_metrics_definitions_idx", "location_id", "timezone", "rules_version"),
    sa.Index("daily_call_metrics_day_idx", "day"),
    comment="A row for each location and day: calls, minutes, engagement, transfers, containment, "
    "goals, callers and trend, in the location's own time zone. A day without calls has a row too.",
)  # fmt: skip

agent_performance = sa.Table(
    "agent_performance",
    metadata,
    location(),
    _day(),
    agent(),
    column("agent_name", sa.Text, "What the agent was called on that day, as far as known; NULL: "
            "never listed.", "agents.name", null=True),
    column("is_agent_deleted", sa.Boolean, "HighLevel no longer lists the agent, or its calls "
            "say it was deleted.", "is_agent_deleted agents.missing_since"),
    *measures(),
    *marks(),
    sa.Index("agent_performance_day_idx", "day"),
    comment="The same measures for each agent and day, including agents deleted since.",
)  # fmt: skip

hourly_activity = sa.Table(
    "hourly_activity",
    metadata,
    location(),
    _day(),
    column("hour", sa.SmallInteger, "Hour of the local day, 0 to 23; when clocks go back, the "
            "repeated hour counts as one.", "started_at locations.timezone", key=True),
    column("weekday", sa.SmallInteger, "1 is Monday, 7 is Sunday.",
            "started_at locations.timezone"),
    *measures(),
    *marks(),
    sa.Index("hourly_activity_day_idx", "day"),
    comment="The same measures for each hour of the local day in which there was a call.",
)  # fmt: skip

action_metrics = sa.Table(
    "action_metrics",
    metadata,
    location(),
    _day(),
    agent(),
    column("action_type", sa.Text, "HighLevel's type, such as CALL_TRANSFER; empty if it has "
            "none.", _ACTIONS, key=True),
    column("action_name", sa.Text, "The configured name, with numbers and addresses masked.",
            _ACTIONS, key=True),
    column("is_unknown_type", sa.Boolean, "The type is none of the documented eight.", _ACTIONS),
    count("actions", "How often the action is listed.", _ACTIONS),
    count("executed_actions", "Actions with an execution time.", _ACTIONS),
    count("calls", "Calls in which the action is listed. " + NOT_ADDITIVE, _ACTIONS),
    count("agent_calls", "Calls of the agent on that day: the denominator of call_share. Over "
           "several days, divide by the sum of agent_performance.calls: an action has no row on a "
           "day without it. " + NOT_ADDITIVE, "agent_id"),
    ratio("call_share", "calls", "agent_calls", f"{_ACTIONS} agent_id"),
    count("timed_actions", "Actions with a trigger time and an execution time that is "
           "not earlier.", _ACTIONS),
    column("p50_latency_seconds", sa.Double, "Median seconds from trigger to execution, "
            f"interpolated; NULL without timed_actions. {NOT_ADDITIVE}", _ACTIONS, null=True),
    column("p90_latency_seconds", sa.Double, "90th percentile of the same seconds. "
            + NOT_ADDITIVE, _ACTIONS, null=True),
    column("is_small_sample", sa.Boolean, "agent_calls < 20: call_share is not meaningful.",
            "agent_id"),
    *marks(),
    sa.Index("action_metrics_day_idx", "day"),
    comment="The agents' actions in calls: how often each happened, in which share of calls, and "
    "how long it took.",
)  # fmt: skip

data_capture_metrics = sa.Table(
    "data_capture_metrics",
    metadata,
    location(),
    _day(),
    agent(),
    column("data_key", sa.Text, "Name of the extracted value, masked like action_name; the "
            "values are never copied here.", "extracted_data", key=True),
    count("filled_calls", "Calls in which the value is not empty.", "extracted_data"),
    count("engaged_filled_calls", "Engaged calls in which the value is not empty.",
           f"extracted_data {_TURNS}"),
    count("engaged_calls", "Engaged calls of the agent on that day: the denominator of fill_rate. "
           "Over several days, divide by the sum of agent_performance.engaged_calls. "
           + NOT_ADDITIVE, _TURNS),
    ratio("fill_rate", "engaged_filled_calls", "engaged_calls", f"extracted_data {_TURNS}"),
    column("is_small_sample", sa.Boolean, "engaged_calls < 20: fill_rate is not meaningful.",
            _TURNS),
    *marks(),
    sa.Index("data_capture_metrics_day_idx", "day"),
    comment="How often agents captured each value: only names of values, never the values.",
)  # fmt: skip

outcome_metrics = sa.Table(
    "outcome_metrics",
    metadata,
    location(),
    _day(),
    agent(),
    column("outcome", sa.Text, "By the first rule that holds: goal, transferred, follow_up, "
            "data_taken, answered, unclear or no_conversation. not_final replaces the last two "
            "while the day may be re-read. The rules are in daily_call_metrics.outcome_rules.",
            f"{_ACTIONS} {_TURNS} extracted_data", key=True),
    count("calls", "Calls with this outcome: each call has exactly one.",
           f"{_ACTIONS} {_TURNS} extracted_data"),
    column("talk_seconds", sa.Numeric(14, 3), "Sum of their durations, in seconds.",
            "duration_seconds"),
    column("talk_minutes", sa.Double, "talk_seconds / 60.", "duration_seconds"),
    *marks(),
    sa.Index("outcome_metrics_day_idx", "day"),
    sa.Index("outcome_metrics_not_final_idx", "computed_at",
             postgresql_where=sa.text("outcome = 'not_final'")),
    comment="Calls and minutes by outcome, agent and day. Over all outcomes they add up to those "
    "of agent_performance.",
)  # fmt: skip

language_metrics = sa.Table(
    "language_metrics",
    metadata,
    location(),
    _day(),
    column("language", sa.Text, "The language in HighLevel's translation of the call, in lower "
           "case; empty if there is none, as for most calls.", "translation", key=True),
    count("calls", "Calls in this language.", "translation"),
    column("talk_seconds", sa.Numeric(14, 3), "Sum of their durations, in seconds.",
           "duration_seconds"),
    column("talk_minutes", sa.Double, "talk_seconds / 60.", "duration_seconds"),
    *marks(),
    sa.Index("language_metrics_day_idx", "day"),
    comment="Calls and minutes by day and language, as far as HighLevel names it.",
)  # fmt: skip

MARTS: Final = (
    daily_call_metrics,
    agent_performance,
    hourly_activity,
    action_metrics,
    data_capture_metrics,
    outcome_metrics,
    language_metrics,
)
"""The marts with a row for a day; those of weeks and months are in ``period_tables.py``."""

MEASURES: Final = tuple(one.name for one in measures())

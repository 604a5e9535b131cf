"""The marts, each column with its comment, and the names agents had.

The wording is a copy, as every migration is: the tables of ``mart_tables.py`` are held equal to it
by a test.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for table, comment in TABLES.items():
        op.execute(f"COMMENT ON TABLE {table} IS {_quoted(comment)}")
    for table, columns in COLUMNS.items():
        for column, comment in columns.items():
            op.execute(f"COMMENT ON COLUMN {table}.{column} IS {_quoted(comment)}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


MEASURES = """
    calls integer NOT NULL,
    trial_calls integer NOT NULL,
    missing_calls integer NOT NULL,
    unknown_trial_calls integer NOT NULL,
    unique_callers integer NOT NULL,
    calls_without_caller integer NOT NULL,
    calls_without_duration integer NOT NULL,
    calls_without_transcript integer NOT NULL,
    calls_without_summary integer NOT NULL,
    talk_seconds numeric(14, 3) NOT NULL,
    talk_minutes double precision NOT NULL,
    billable_minutes integer NOT NULL,
    estimated_cost numeric(14, 4),
    avg_duration_seconds double precision,
    p50_duration_seconds double precision,
    p90_duration_seconds double precision,
    max_duration_seconds double precision,
    duration_under_10s integer NOT NULL,
    duration_10_to_30s integer NOT NULL,
    duration_30_to_60s integer NOT NULL,
    duration_60_to_120s integer NOT NULL,
    duration_120_to_300s integer NOT NULL,
    duration_300_to_600s integer NOT NULL,
    duration_600s_and_more integer NOT NULL,
    engaged_calls integer NOT NULL,
    engagement_rate double precision,
    short_calls integer NOT NULL,
    short_call_rate double precision,
    transferred_calls integer NOT NULL,
    engaged_transferred_calls integer NOT NULL,
    transfer_rate double precision,
    attempted_transfer_calls integer NOT NULL,
    contained_calls integer NOT NULL,
    containment_rate double precision,
    strictly_judged_calls integer NOT NULL,
    strictly_contained_calls integer NOT NULL,
    strict_containment_rate double precision,
    goal_calls integer NOT NULL,
    engaged_goal_calls integer NOT NULL,
    goal_rate double precision,
    actions integer NOT NULL,
    calls_with_action integer NOT NULL,
    unknown_actions integer NOT NULL,
    captured_calls integer NOT NULL,
    engaged_captured_calls integer NOT NULL,
    capture_rate double precision,
    callback_judged_calls integer NOT NULL,
    called_back_calls integer NOT NULL,
    callback_rate double precision,
    max_duration_known_calls integer NOT NULL,
    calls_at_max_duration integer NOT NULL,
    max_duration_rate double precision,
    hours_known_calls integer NOT NULL,
    after_hours_calls integer NOT NULL,
    after_hours_rate double precision,
    is_small_sample boolean NOT NULL,
    is_engaged_small_sample boolean NOT NULL
"""

STATEMENTS = (
    """
    CREATE TABLE agent_names (
        location_id text NOT NULL,
        agent_id text NOT NULL,
        since timestamptz NOT NULL,
        name text NOT NULL,
        PRIMARY KEY (location_id, agent_id, since)
    )
    """,
    """
    INSERT INTO agent_names (location_id, agent_id, since, name)
    SELECT location_id, agent_id, first_seen_at, name FROM agents
    """,
    # Which days' marts are stale is asked every minute.
    "CREATE INDEX sync_ledger_finished_at_idx ON sync_ledger (finished_at)",
    f"""
    CREATE TABLE daily_call_metrics (
        location_id text NOT NULL,
        day date NOT NULL,
        location_name text,
        timezone text NOT NULL,
        is_timezone_assumed boolean NOT NULL,
{MEASURES},
        callers_7d integer NOT NULL,
        repeat_callers_7d integer NOT NULL,
        repeat_caller_rate double precision,
        calls_7d integer NOT NULL,
        calls_previous_7d integer NOT NULL,
        calls_change_7d double precision,
        is_7d_complete boolean NOT NULL,
        calls_by_now_last_week integer NOT NULL,
        goal_actions text NOT NULL,
        is_goal_comparable boolean NOT NULL,
        is_over boolean NOT NULL,
        calls_known_until timestamptz,
        last_successful_sync_at timestamptz,
        incomplete_sync_days integer NOT NULL,
        synced_at timestamptz,
        rules_version text NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day)
    )
    """,
    "CREATE INDEX daily_call_metrics_day_idx ON daily_call_metrics (day)",
    """
    CREATE INDEX daily_call_metrics_definitions_idx
        ON daily_call_metrics (location_id, timezone, rules_version)
    """,
    f"""
    CREATE TABLE agent_performance (
        location_id text NOT NULL,
        day date NOT NULL,
        agent_id text NOT NULL,
        agent_name text,
        is_agent_deleted boolean NOT NULL,
{MEASURES},
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, agent_id)
    )
    """,
    "CREATE INDEX agent_performance_day_idx ON agent_performance (day)",
    f"""
    CREATE TABLE hourly_activity (
        location_id text NOT NULL,
        day date NOT NULL,
        hour smallint NOT NULL,
        weekday smallint NOT NULL,
{MEASURES},
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, hour)
    )
    """,
    "CREATE INDEX hourly_activity_day_idx ON hourly_activity (day)",
    """
    CREATE TABLE action_metrics (
        location_id text NOT NULL,
        day date NOT NULL,
        agent_id text NOT NULL,
        action_type text NOT NULL,
        action_name text NOT NULL,
        is_unknown_type boolean NOT NULL,
        actions integer NOT NULL,
        executed_actions integer NOT NULL,
        calls integer NOT NULL,
        agent_calls integer NOT NULL,
        call_share double precision,
        timed_actions integer NOT NULL,
        p50_latency_seconds double precision,
        p90_latency_seconds double precision,
        is_small_sample boolean NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, agent_id, action_type, action_name)
    )
    """,
    "CREATE INDEX action_metrics_day_idx ON action_metrics (day)",
    """
    CREATE TABLE data_capture_metrics (
        location_id text NOT NULL,
        day date NOT NULL,
        agent_id text NOT NULL,
        data_key text NOT NULL,
        filled_calls integer NOT NULL,
        engaged_filled_calls integer NOT NULL,
        engaged_calls integer NOT NULL,
        fill_rate double precision,
        is_small_sample boolean NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, agent_id, data_key)
    )
    """,
    "CREATE INDEX data_capture_metrics_day_idx ON data_capture_metrics (day)",
)

TABLES = {
    "daily_call_metrics": "Every location's day in one row: calls, minutes, engagement, "
    "transfers, containment, goals, callers and trend, in the location's own time "
    "zone. A day without calls has a row too.",
    "agent_performance": "The same measures for each agent's day; agents since deleted stay.",
    "hourly_activity": "The same measures for each hour of the local day in which there was a "
    "call.",
    "action_metrics": "What agents did in calls: how often each action, in which share of "
    "calls, and how long it took.",
    "data_capture_metrics": "How often agents captured which value: names of values only, "
    "never the values.",
}

_OF_MEASURES = {
    "calls": "Calls of the base set: not a trial, still listed by HighLevel. All other numbers "
    "are about these, where they do not say otherwise.",
    "trial_calls": "Trial calls, beside the base set.",
    "missing_calls": "Calls that HighLevel no longer lists, beside the base set.",
    "unknown_trial_calls": "Of calls: HighLevel did not say whether they are trials; they "
    "count as live.",
    "unique_callers": "Distinct callers: by contact, else by number. Not additive.",
    "calls_without_caller": "Of calls: neither contact nor number is known.",
    "calls_without_duration": "Of calls: HighLevel gave no duration.",
    "calls_without_transcript": "Of calls: the transcript is empty, or not there yet.",
    "calls_without_summary": "Of calls: the summary is empty, or not there yet.",
    "talk_seconds": "Sum of durations, in seconds.",
    "talk_minutes": "talk_seconds / 60.",
    "billable_minutes": "Sum of durations, each rounded up to whole minutes.",
    "estimated_cost": "An estimate: billable_minutes x the configured rate. NULL without one; "
    "HighLevel does not tell the real cost.",
    "avg_duration_seconds": "Mean duration in seconds. NULL without calls. Not additive.",
    "p50_duration_seconds": "Median duration in seconds, interpolated. NULL without calls. Not "
    "additive.",
    "p90_duration_seconds": "90th percentile of the duration in seconds, interpolated. NULL "
    "without calls. Not additive.",
    "max_duration_seconds": "Longest duration in seconds. NULL without calls. Not additive.",
    "duration_under_10s": "Calls of less than 10 seconds.",
    "duration_10_to_30s": "Calls of 10 to under 30 seconds.",
    "duration_30_to_60s": "Calls of 30 to under 60 seconds.",
    "duration_60_to_120s": "Calls of 60 to under 120 seconds.",
    "duration_120_to_300s": "Calls of 120 to under 300 seconds.",
    "duration_300_to_600s": "Calls of 300 to under 600 seconds.",
    "duration_600s_and_more": "Calls of 600 or more seconds.",
    "engaged_calls": "Calls in which the caller spoke: at least 2 caller turns and 10 seconds, "
    "if not configured otherwise.",
    "engagement_rate": "engaged_calls / calls; NULL where that is 0. Not additive.",
    "short_calls": "Calls under 10 seconds or without a word of the caller: a sign for "
    "abandoned ones.",
    "short_call_rate": "short_calls / calls; NULL where that is 0. Not additive.",
    "transferred_calls": "Calls with an executed CALL_TRANSFER.",
    "engaged_transferred_calls": "Engaged calls with an executed CALL_TRANSFER.",
    "transfer_rate": "engaged_transferred_calls / engaged_calls; NULL where that is 0. Not "
    "additive.",
    "attempted_transfer_calls": "Calls with a CALL_TRANSFER, none of them executed.",
    "contained_calls": "Engaged calls without an executed CALL_TRANSFER.",
    "containment_rate": "contained_calls / engaged_calls; NULL where that is 0. Not additive.",
    "strictly_judged_calls": "Engaged calls with a known number (else contact) whose following "
    "24 hours have been read.",
    "strictly_contained_calls": "Of strictly_judged_calls: contained, and no later call of the "
    "same number within 24 hours.",
    "strict_containment_rate": "strictly_contained_calls / strictly_judged_calls; NULL where "
    "that is 0. Not additive.",
    "goal_calls": "Calls with at least one goal action.",
    "engaged_goal_calls": "Engaged calls with at least one goal action.",
    "goal_rate": "engaged_goal_calls / engaged_calls; NULL where that is 0. Not additive. "
    "HighLevel reports bookings from 2025-09-09 on only.",
    "actions": "Executed call actions, as HighLevel lists them.",
    "calls_with_action": "Calls with at least one action.",
    "unknown_actions": "Of actions: their type is none of the documented eight.",
    "captured_calls": "Calls with at least one extracted value that is not empty.",
    "engaged_captured_calls": "Engaged calls with at least one such value.",
    "capture_rate": "engaged_captured_calls / engaged_calls; NULL where that is 0. Not additive.",
    "callback_judged_calls": "Calls with a known caller whose following 24 hours have been read.",
    "called_back_calls": "Of callback_judged_calls: the same caller called again within 24 hours.",
    "callback_rate": "called_back_calls / callback_judged_calls; NULL where that is 0. Not "
    "additive.",
    "max_duration_known_calls": "Calls of agents whose maxCallDuration is known.",
    "calls_at_max_duration": "Of these: they lasted the agent's present maxCallDuration, less "
    "2 seconds at most.",
    "max_duration_rate": "calls_at_max_duration / max_duration_known_calls; NULL where that is "
    "0. Not additive.",
    "hours_known_calls": "Calls of agents whose working hours are known.",
    "after_hours_calls": "Of these: outside the agent's present working hours, in the agent's "
    "zone.",
    "after_hours_rate": "after_hours_calls / hours_known_calls; NULL where that is 0. Not "
    "additive.",
    "is_small_sample": "calls < 20: shares of calls say little.",
    "is_engaged_small_sample": "engaged_calls < 20: shares of engaged calls say little.",
}

COLUMNS = {
    "daily_call_metrics": {
        **_OF_MEASURES,
        "location_id": "HighLevel's location.",
        "day": "A day of the location's own time zone.",
        "location_name": "The location's name; NULL if not known.",
        "timezone": "The zone whose day this is, IANA name.",
        "is_timezone_assumed": "The location's zone is not known: the pipeline's stands in for it.",
        "callers_7d": "Distinct callers of the 7 days that end with this one. Not additive.",
        "repeat_callers_7d": "Of callers_7d: with 2 calls or more. Not additive.",
        "repeat_caller_rate": "repeat_callers_7d / callers_7d; NULL where that is 0. Not additive.",
        "calls_7d": "Calls of the 7 days that end with this one. Not additive.",
        "calls_previous_7d": "Calls of the 7 days before those: the same weekdays. Not additive.",
        "calls_change_7d": "(calls_7d - calls_previous_7d) / calls_previous_7d; NULL where "
        "that is 0. Not additive.",
        "is_7d_complete": "All 14 days behind calls_change_7d have been read to their ends.",
        "calls_by_now_last_week": "Calls of the day 7 days ago, up to the local time of day "
        "that calls_known_until is for this one: what calls so far compare with.",
        "goal_actions": "The action types that count as a goal, comma separated.",
        "is_goal_comparable": "False before 2025-09-09 where bookings are a goal: HighLevel "
        "did not report them.",
        "is_over": "The local day had ended when this was computed.",
        "calls_known_until": "Up to here the day's calls have been read without a gap; NULL: "
        "not even its beginning.",
        "last_successful_sync_at": "The last complete read of any day of the location that "
        "this row counts on.",
        "incomplete_sync_days": "Days of the pipeline's zone that overlap this one and have "
        "not been read to their ends.",
        "synced_at": "The newest entry of the sync ledger that this row has seen; a newer one "
        "makes it stale.",
        "rules_version": "Fingerprint of the definitions used: thresholds, goals, rate. Others "
        "make the row stale.",
        "is_complete": "Every call of the day up to its local end has been read; until then "
        "numbers can grow.",
        "computed_at": "When this row was computed.",
    },
    "agent_performance": {
        **_OF_MEASURES,
        "location_id": "HighLevel's location.",
        "day": "A day of the location's own time zone.",
        "agent_id": "The Voice AI agent; '' where a call names none.",
        "agent_name": "What the agent was called on that day, as far as known; NULL: never listed.",
        "is_agent_deleted": "HighLevel no longer lists the agent, or its calls say so.",
        "is_complete": "Every call of the day up to its local end has been read; until then "
        "numbers can grow.",
        "computed_at": "When this row was computed.",
    },
    "hourly_activity": {
        **_OF_MEASURES,
        "location_id": "HighLevel's location.",
        "day": "A day of the location's own time zone.",
        "hour": "Hour of the local day, 0 to 23; the hour that is repeated when clocks go back "
        "is one.",
        "weekday": "1 is Monday, 7 is Sunday.",
        "is_complete": "Every call of the day up to its local end has been read; until then "
        "numbers can grow.",
        "computed_at": "When this row was computed.",
    },
    "action_metrics": {
        "location_id": "HighLevel's location.",
        "day": "A day of the location's own time zone.",
        "agent_id": "The Voice AI agent; '' where a call names none.",
        "action_type": "HighLevel's type, such as CALL_TRANSFER; '' if it gave none.",
        "action_name": "The configured name; numbers and addresses in it are masked.",
        "is_unknown_type": "The type is none of the documented eight.",
        "actions": "How often it was listed.",
        "executed_actions": "Of actions: with a time of execution.",
        "calls": "Calls in which it was listed. Not additive.",
        "agent_calls": "Calls of the agent that day: what call_share is a share of. Not additive.",
        "call_share": "calls / agent_calls; NULL where that is 0. Not additive.",
        "timed_actions": "Of actions: trigger and execution have times, in this order.",
        "p50_latency_seconds": "Median seconds from trigger to execution, interpolated; NULL "
        "without timed_actions. Not additive.",
        "p90_latency_seconds": "90th percentile of the same. Not additive.",
        "is_small_sample": "agent_calls < 20: call_share says little.",
        "is_complete": "Every call of the day up to its local end has been read; until then "
        "numbers can grow.",
        "computed_at": "When this row was computed.",
    },
    "data_capture_metrics": {
        "location_id": "HighLevel's location.",
        "day": "A day of the location's own time zone.",
        "agent_id": "The Voice AI agent; '' where a call names none.",
        "data_key": "Name of the extracted value, masked as action_name; values are never "
        "copied here.",
        "filled_calls": "Calls in which it was not empty.",
        "engaged_filled_calls": "Engaged calls in which it was not empty.",
        "engaged_calls": "Engaged calls of the agent that day. Not additive.",
        "fill_rate": "engaged_filled_calls / engaged_calls; NULL where that is 0. Not additive.",
        "is_small_sample": "engaged_calls < 20: fill_rate says little.",
        "is_complete": "Every call of the day up to its local end has been read; until then "
        "numbers can grow.",
        "computed_at": "When this row was computed.",
    },
}

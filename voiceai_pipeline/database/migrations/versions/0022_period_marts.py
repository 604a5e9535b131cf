"""Weeks and months, languages, caller turns and concurrent calls."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


MEASURES = """
    calls integer,
    trial_calls integer,
    missing_calls integer,
    unknown_trial_calls integer,
    unique_callers integer,
    calls_without_caller integer,
    calls_without_duration integer,
    calls_without_transcript integer,
    calls_without_summary integer,
    calls_with_unknown_speakers integer,
    caller_turns integer,
    talk_seconds numeric(14, 3),
    talk_minutes double precision,
    billable_minutes integer,
    estimated_cost numeric(14, 4),
    avg_duration_seconds double precision,
    p50_duration_seconds double precision,
    p90_duration_seconds double precision,
    max_duration_seconds double precision,
    duration_under_10s integer,
    duration_10_to_30s integer,
    duration_30_to_60s integer,
    duration_60_to_120s integer,
    duration_120_to_300s integer,
    duration_300_to_600s integer,
    duration_600s_and_more integer,
    engaged_calls integer,
    engagement_rate double precision,
    short_calls integer,
    short_call_rate double precision,
    transferred_calls integer,
    engaged_transferred_calls integer,
    transfer_rate double precision,
    attempted_transfer_calls integer,
    contained_calls integer,
    containment_rate double precision,
    strictly_judged_calls integer,
    strictly_contained_calls integer,
    strict_containment_rate double precision,
    goal_calls integer,
    engaged_goal_calls integer,
    goal_rate double precision,
    actions integer,
    calls_with_action integer,
    unknown_actions integer,
    captured_calls integer,
    engaged_captured_calls integer,
    capture_rate double precision,
    callback_judged_calls integer,
    called_back_calls integer,
    callback_rate double precision,
    max_duration_known_calls integer,
    calls_at_max_duration integer,
    max_duration_rate double precision,
    hours_known_calls integer,
    after_hours_calls integer,
    after_hours_rate double precision,
    is_small_sample boolean,
    is_engaged_small_sample boolean
"""

STATEMENTS = (
    """
    CREATE TABLE language_metrics (
        location_id text,
        day date,
        language text,
        calls integer NOT NULL,
        talk_seconds numeric(14, 3) NOT NULL,
        talk_minutes double precision NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, language)
    )
    """,
    "CREATE INDEX language_metrics_day_idx ON language_metrics (day)",
    f"""
    CREATE TABLE period_metrics (
        location_id text,
        period text,
        first_day date,
        last_day date NOT NULL,
        days_read integer NOT NULL,
        location_name text,
        timezone text NOT NULL,
        new_callers integer,
        returning_callers integer,
        callers_known_since date,
        peak_concurrent_calls integer,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        {MEASURES},
        PRIMARY KEY (location_id, period, first_day)
    )
    """,
    "CREATE INDEX period_metrics_first_day_idx ON period_metrics (period, first_day)",
    f"""
    CREATE TABLE agent_period_metrics (
        location_id text,
        period text,
        first_day date,
        agent_id text,
        last_day date NOT NULL,
        days_read integer NOT NULL,
        agent_name text,
        is_agent_deleted boolean NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        {MEASURES},
        PRIMARY KEY (location_id, period, first_day, agent_id)
    )
    """,
    "CREATE INDEX agent_period_metrics_first_day_idx ON agent_period_metrics (period, first_day)",
    "ALTER TABLE call_facts ADD COLUMN language text",
    "CREATE INDEX call_facts_caller_idx ON call_facts (caller, started_at)",
    "ALTER TABLE daily_call_metrics ADD COLUMN caller_turns integer",
    "ALTER TABLE daily_call_metrics ADD COLUMN peak_concurrent_calls integer",
    "ALTER TABLE agent_performance ADD COLUMN caller_turns integer",
    "ALTER TABLE hourly_activity ADD COLUMN caller_turns integer",
)

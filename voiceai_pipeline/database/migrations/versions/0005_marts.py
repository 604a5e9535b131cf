"""The marts, and the names that agents have had.

A copy of ``mart_tables.py`` as it was, as every migration is; a test holds the result of all
migrations equal to the code. Comments are written after the last one, by ``database.migrate``.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


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
    DO $$
    BEGIN
        -- Only ours has this key: the source system's table of this name stays as it is.
        IF to_regclass('voiceai_agents') IS NULL AND EXISTS (
            SELECT FROM pg_constraint
            WHERE conrelid = to_regclass('agents')
              AND pg_get_constraintdef(oid) = 'PRIMARY KEY (location_id, agent_id)'
        ) THEN
            ALTER TABLE agents RENAME TO voiceai_agents;
        END IF;
    END
    $$
    """,
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
    SELECT location_id, agent_id, first_seen_at, name FROM voiceai_agents
    """,
    # For the check for stale marts, which runs every minute.
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

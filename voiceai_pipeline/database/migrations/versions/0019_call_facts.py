"""What is derived from each call, and the marts that count outcomes."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    CREATE TABLE call_facts (
        location_id text,
        call_id text,
        started_at timestamptz NOT NULL,
        agent_id text NOT NULL,
        duration_seconds double precision,
        caller bigint NOT NULL,
        is_counted boolean NOT NULL,
        has_transcript boolean NOT NULL,
        caller_turns integer,
        is_engaged boolean NOT NULL,
        is_goal_reached boolean NOT NULL,
        is_transferred boolean NOT NULL,
        is_data_captured boolean NOT NULL,
        outcome text NOT NULL,
        rules_version text NOT NULL,
        row_version bigint NOT NULL,
        PRIMARY KEY (location_id, call_id)
    )
    """,
    "CREATE INDEX call_facts_location_id_started_at_idx ON call_facts (location_id, started_at)",
    "CREATE INDEX call_facts_outcome_idx ON call_facts (location_id, outcome, started_at)",
    """
    CREATE TABLE outcome_metrics (
        location_id text,
        day date,
        agent_id text,
        outcome text,
        calls integer NOT NULL,
        talk_seconds numeric(14, 3) NOT NULL,
        talk_minutes double precision NOT NULL,
        is_complete boolean NOT NULL,
        computed_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, day, agent_id, outcome)
    )
    """,
    "CREATE INDEX outcome_metrics_day_idx ON outcome_metrics (day)",
    """
    CREATE INDEX outcome_metrics_not_final_idx ON outcome_metrics (computed_at)
        WHERE outcome = 'not_final'
    """,
    "ALTER TABLE daily_call_metrics ADD COLUMN outcome_rules text",
    "UPDATE daily_call_metrics SET outcome_rules = ''",
    "ALTER TABLE daily_call_metrics ALTER COLUMN outcome_rules SET NOT NULL",
)

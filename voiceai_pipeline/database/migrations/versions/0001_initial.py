"""The first tables. In the source system's database, existing tables are kept and get our columns.

SQL with IF NOT EXISTS, so the same text fills an empty database, adopts an existing one, and can be
printed for review (``voiceai-pipeline migrate --sql``).

The source system has a table ``agents`` of its own, so ours is ``voiceai_agents``; 0005 or
0013 rename that of older databases.
"""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    # The source system's three tables (source-system.md, "Database Schema Reference").
    """
    CREATE TABLE IF NOT EXISTS users (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid()
    )
    """,
    """
    ALTER TABLE users
        ADD COLUMN IF NOT EXISTS first_name text,
        ADD COLUMN IF NOT EXISTS last_name text,
        ADD COLUMN IF NOT EXISTS business_name text,
        ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now(),
        ADD COLUMN IF NOT EXISTS updated_at timestamptz DEFAULT now()
    """,
    """
    CREATE TABLE IF NOT EXISTS api_keys (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id uuid REFERENCES users(id),
        service text,
        access_token text,
        refresh_token text,
        token_expires_at timestamptz,
        location_id text,
        location_name text,
        company_id text,
        is_active boolean,
        created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now()
    )
    """,
    """
    ALTER TABLE api_keys
        ADD COLUMN IF NOT EXISTS name text,
        ADD COLUMN IF NOT EXISTS location_timezone text,
        ADD COLUMN IF NOT EXISTS user_type text,
        ADD COLUMN IF NOT EXISTS scope text,
        ADD COLUMN IF NOT EXISTS connection_state text,
        ADD COLUMN IF NOT EXISTS connection_reason text,
        ADD COLUMN IF NOT EXISTS connection_since timestamptz,
        ADD COLUMN IF NOT EXISTS next_attempt_at timestamptz,
        ADD COLUMN IF NOT EXISTS token_version integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS lease_id uuid,
        ADD COLUMN IF NOT EXISTS lease_started_at timestamptz,
        ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
        ADD COLUMN IF NOT EXISTS refresh_replayed boolean NOT NULL DEFAULT false,
        ADD COLUMN IF NOT EXISTS location_access_token text,
        ADD COLUMN IF NOT EXISTS location_token_expires_at timestamptz
    """,
    "CREATE INDEX IF NOT EXISTS ix_api_keys_user_id ON api_keys (user_id)",
    """
    CREATE TABLE IF NOT EXISTS sync_status (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        service text,
        user_id uuid REFERENCES users(id),
        last_sync_at timestamptz,
        last_sync_status text,
        last_sync_message text,
        records_synced integer,
        created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now()
    )
    """,
    "CREATE INDEX IF NOT EXISTS ix_sync_status_user_id ON sync_status (user_id)",
    # Ours.
    """
    CREATE TABLE call_logs (
        location_id text NOT NULL,
        call_id text NOT NULL,
        agent_id text,
        contact_id text,
        from_number text,
        started_at timestamptz NOT NULL,
        duration_seconds double precision,
        is_trial boolean,
        is_agent_deleted boolean,
        summary text,
        transcript text,
        executed_call_actions jsonb NOT NULL,
        extracted_data jsonb,
        translation jsonb,
        message_id text,
        raw jsonb NOT NULL,
        content_hash bytea NOT NULL,
        first_seen_at timestamptz NOT NULL,
        last_changed_at timestamptz NOT NULL,
        missing_since timestamptz,
        PRIMARY KEY (location_id, call_id)
    )
    """,
    "CREATE INDEX call_logs_location_id_started_at_idx ON call_logs (location_id, started_at)",
    "CREATE INDEX call_logs_agent_id_idx ON call_logs (agent_id)",
    "CREATE INDEX call_logs_started_at_idx ON call_logs USING brin (started_at)",
    """
    CREATE TABLE set_aside_calls (
        location_id text NOT NULL,
        content_hash bytea NOT NULL,
        reason text NOT NULL,
        raw jsonb NOT NULL,
        started_at timestamptz,
        first_seen_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL,
        PRIMARY KEY (location_id, content_hash)
    )
    """,
    """
    CREATE TABLE sync_ledger (
        user_id uuid NOT NULL REFERENCES users(id),
        location_id text NOT NULL,
        day date NOT NULL,
        state text NOT NULL CHECK (state IN ('complete', 'failed', 'waiting')),
        failure_class text,
        message text NOT NULL DEFAULT '',
        read_until timestamptz,
        api_total integer,
        stored integer,
        new_calls integer NOT NULL DEFAULT 0,
        changed_calls integer NOT NULL DEFAULT 0,
        missing_calls integer NOT NULL DEFAULT 0,
        set_aside_calls integer NOT NULL DEFAULT 0,
        unknown_actions integer NOT NULL DEFAULT 0,
        pages integer NOT NULL DEFAULT 0,
        run_id text,
        attempt integer NOT NULL DEFAULT 0,
        started_at timestamptz,
        finished_at timestamptz,
        PRIMARY KEY (user_id, location_id, day)
    )
    """,
    "CREATE INDEX sync_ledger_day_idx ON sync_ledger (day)",
    """
    CREATE INDEX sync_ledger_unfinished_idx ON sync_ledger (finished_at)
        WHERE state <> 'complete'
    """,
    """
    CREATE TABLE voiceai_agents (
        location_id text NOT NULL,
        agent_id text NOT NULL,
        name text NOT NULL,
        timezone text,
        raw jsonb NOT NULL,
        first_seen_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL,
        missing_since timestamptz,
        PRIMARY KEY (location_id, agent_id)
    )
    """,
    """
    CREATE TABLE locations (
        location_id text PRIMARY KEY,
        name text,
        timezone text,
        company_id text,
        first_seen_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL
    )
    """,
)

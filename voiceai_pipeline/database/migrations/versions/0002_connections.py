"""Token refreshes: audit log, consents in progress, circuit breaker and alerts.

``token_events`` is append-only: a trigger rejects every update and delete, even by the owner.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    """
    ALTER TABLE api_keys
        ADD COLUMN IF NOT EXISTS refreshed_at timestamptz,
        ADD COLUMN IF NOT EXISTS refresh_at timestamptz,
        ADD COLUMN IF NOT EXISTS failed_attempts integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS last_failure text
    """,
    """
    CREATE TABLE token_events (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL,
        user_id uuid,
        event text NOT NULL,
        state text,
        reason text,
        detail text NOT NULL DEFAULT '',
        actor text NOT NULL,
        run_id text,
        version_before integer,
        version_after integer,
        trace_id text,
        fingerprint text
    )
    """,
    "CREATE INDEX token_events_user_id_idx ON token_events (user_id, id)",
    """
    CREATE FUNCTION token_events_are_only_added() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'token_events can only be added to';
    END
    $$
    """,
    """
    CREATE TRIGGER token_events_are_only_added
        BEFORE UPDATE OR DELETE OR TRUNCATE ON token_events
        FOR EACH STATEMENT EXECUTE FUNCTION token_events_are_only_added()
    """,
    """
    CREATE TABLE connect_requests (
        state_hash bytea PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users(id) ON DELETE CASCADE,
        location_id text,
        browser_bound boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        used_at timestamptz,
        outcome text
    )
    """,
    """
    CREATE TABLE token_circuit (
        service text PRIMARY KEY,
        failures integer NOT NULL DEFAULT 0,
        reason text,
        detail text NOT NULL DEFAULT '',
        failing_since timestamptz,
        opened_at timestamptz,
        next_probe_at timestamptz,
        replays_rest_until timestamptz,
        last_user_id uuid
    )
    """,
    "INSERT INTO token_circuit (service) VALUES ('highlevel')",
    """
    CREATE TABLE connection_alerts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subject text NOT NULL,
        user_id uuid REFERENCES users(id) ON DELETE CASCADE,
        reason text NOT NULL,
        opened_at timestamptz NOT NULL,
        opened_told text[] NOT NULL DEFAULT '{}',
        closed_at timestamptz,
        closed_told text[] NOT NULL DEFAULT '{}',
        closed_quietly boolean NOT NULL DEFAULT false
    )
    """,
    """
    CREATE UNIQUE INDEX connection_alerts_open_subject_idx
        ON connection_alerts (subject) WHERE closed_at IS NULL
    """,
    # On Supabase, web pages may access every table in public by default.
    """
    DO $$
    DECLARE
        page_role text;
    BEGIN
        FOREACH page_role IN ARRAY ARRAY['anon', 'authenticated'] LOOP
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = page_role) THEN
                EXECUTE format(
                    'REVOKE ALL ON token_events, connect_requests, token_circuit, '
                    'connection_alerts, call_logs, set_aside_calls, sync_ledger, locations '
                    'FROM %I', page_role
                );
            END IF;
        END LOOP;
    END
    $$
    """,
)

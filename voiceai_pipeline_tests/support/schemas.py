"""The schemas that a database may have before us, and a description of one to compare."""

from typing import Any

import sqlalchemy as sa

# source-system.md, "Database Schema Reference", as SQL.
DOCUMENTED = """
CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  user_id uuid REFERENCES users(id),
  service text,
  access_token text,
  refresh_token text,
  token_expires_at timestamptz,
  location_id text,
  location_name text,
  company_id text,
  is_active boolean,
  created_at timestamptz,
  updated_at timestamptz
);
CREATE TABLE sync_status (
  id uuid PRIMARY KEY,
  service text,
  user_id uuid REFERENCES users(id),
  last_sync_at timestamptz,
  last_sync_status text,
  last_sync_message text,
  records_synced integer,
  created_at timestamptz,
  updated_at timestamptz
);
"""


# CONTRACT 7: what the source system's own migrations made of it.
AS_FOUND = """
CREATE TABLE users (
  id uuid PRIMARY KEY, role text CHECK (role IN ('client', 'admin')), first_name text,
  last_name text, business_name text, phone_number text, is_active boolean DEFAULT true,
  last_login timestamptz, notification_preferences jsonb,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE api_keys (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL,
  service text CHECK (service = 'highlevel'), encrypted_key text, access_token text,
  refresh_token text, token_expires_at timestamptz, expired_at timestamptz, location_id text,
  location_name text, location_timezone text DEFAULT 'America/New_York', company_id text,
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, is_active boolean DEFAULT true,
  last_used_at timestamptz, created_by uuid,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE phone_numbers (id uuid PRIMARY KEY, phone_number text);
CREATE TABLE agents (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), highlevel_agent_id text UNIQUE, name text,
  inbound_phone_number text
);
CREATE TABLE user_agents (
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, agent_id uuid REFERENCES agents(id)
);
CREATE TABLE calls (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), highlevel_call_id text UNIQUE,
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, agent_id uuid REFERENCES agents(id),
  phone_number_id uuid REFERENCES phone_numbers(id), direction text, from_number text,
  call_started_at timestamptz
);
CREATE TABLE call_sync_logs (id uuid PRIMARY KEY, status text);
CREATE TABLE token_refresh_logs (id uuid PRIMARY KEY);
CREATE TABLE deleted_calls (user_id uuid, highlevel_call_id text);
CREATE TABLE oauth_states (state text PRIMARY KEY, user_id uuid);
CREATE TABLE billing_accounts (user_id uuid REFERENCES users(id), calls_reset_at timestamptz);
INSERT INTO agents (highlevel_agent_id, name) VALUES ('theirs', 'Their agent');
INSERT INTO calls (highlevel_call_id, direction) VALUES ('theirs', 'inbound');
CREATE TABLE sync_status (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), service text,
  user_id uuid REFERENCES users(id) ON DELETE CASCADE, last_sync_at timestamptz,
  last_sync_status text CHECK (last_sync_status IN ('success', 'failure')),
  last_sync_message text, records_synced integer,
  sync_type text CHECK (sync_type IN ('auto', 'manual')),
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
  UNIQUE (service, user_id)
);
"""


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as db:
        for statement in statements:
            db.exec_driver_sql(statement)


def everything(engine: sa.Engine) -> list[tuple[Any, ...]]:
    """What the database is made of: tables with columns, constraints and indexes; views; comments;
    who may do what."""
    queries = (
        "SELECT oid::regclass::text, relkind::text, relacl::text, obj_description(oid, 'pg_class') "
        "FROM pg_class WHERE relnamespace = {0}",
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, "
        "pg_get_expr(adbin, adrelid), col_description(attrelid, attnum) "
        "FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE c.relnamespace = {0} AND attnum > 0 AND NOT attisdropped",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = {0}",
        "SELECT tablename, indexname, indexdef FROM pg_indexes "
        "WHERE schemaname::regnamespace = {0}",
        "SELECT viewname, definition FROM pg_views WHERE schemaname::regnamespace = {0}",
        "SELECT nspname, nspacl::text, obj_description(oid, 'pg_namespace') FROM pg_namespace "
        "WHERE oid = {0}",
    )
    ours = "ANY(ARRAY(SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'voiceai')))"
    found: list[tuple[Any, ...]] = []
    with engine.connect() as db:
        for query in queries:
            found += [tuple(row) for row in db.exec_driver_sql(query.format(ours))]
    return sorted(found, key=repr)

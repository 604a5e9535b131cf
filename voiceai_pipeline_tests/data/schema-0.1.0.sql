SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA voiceai;
CREATE FUNCTION public.token_events_are_only_added() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        RAISE EXCEPTION 'token_events can only be added to';
    END
    $$;
SET default_tablespace = '';
CREATE TABLE public.action_metrics (
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
    computed_at timestamp with time zone NOT NULL
);
CREATE TABLE public.agent_names (
    location_id text NOT NULL,
    agent_id text NOT NULL,
    since timestamp with time zone NOT NULL,
    name text NOT NULL
);
CREATE TABLE public.agent_performance (
    location_id text NOT NULL,
    day date NOT NULL,
    agent_id text NOT NULL,
    agent_name text,
    is_agent_deleted boolean NOT NULL,
    calls integer NOT NULL,
    trial_calls integer NOT NULL,
    missing_calls integer NOT NULL,
    unknown_trial_calls integer NOT NULL,
    unique_callers integer NOT NULL,
    calls_without_caller integer NOT NULL,
    calls_without_duration integer NOT NULL,
    calls_without_transcript integer NOT NULL,
    calls_without_summary integer NOT NULL,
    talk_seconds numeric(14,3) NOT NULL,
    talk_minutes double precision NOT NULL,
    billable_minutes integer NOT NULL,
    estimated_cost numeric(14,4),
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
    is_engaged_small_sample boolean NOT NULL,
    is_complete boolean NOT NULL,
    computed_at timestamp with time zone NOT NULL
);
CREATE TABLE public.agents (
    location_id text NOT NULL,
    agent_id text NOT NULL,
    name text NOT NULL,
    timezone text,
    raw jsonb NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    missing_since timestamp with time zone
);
CREATE TABLE public.api_keys (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid,
    service text,
    access_token text,
    refresh_token text,
    token_expires_at timestamp with time zone,
    location_id text,
    location_name text,
    company_id text,
    is_active boolean,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    name text,
    location_timezone text,
    user_type text,
    scope text,
    connection_state text,
    connection_reason text,
    connection_since timestamp with time zone,
    next_attempt_at timestamp with time zone,
    token_version integer DEFAULT 0 NOT NULL,
    lease_id uuid,
    lease_started_at timestamp with time zone,
    lease_expires_at timestamp with time zone,
    refresh_replayed boolean DEFAULT false NOT NULL,
    location_access_token text,
    location_token_expires_at timestamp with time zone,
    refreshed_at timestamp with time zone,
    refresh_at timestamp with time zone,
    failed_attempts integer DEFAULT 0 NOT NULL,
    last_failure text
);
CREATE TABLE public.call_logs (
    location_id text NOT NULL,
    call_id text NOT NULL,
    agent_id text,
    contact_id text,
    from_number text,
    started_at timestamp with time zone NOT NULL,
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
    first_seen_at timestamp with time zone NOT NULL,
    last_changed_at timestamp with time zone NOT NULL,
    missing_since timestamp with time zone,
    fingerprint bytea
);
CREATE TABLE public.connect_requests (
    state_hash bytea NOT NULL,
    user_id uuid NOT NULL,
    location_id text,
    browser_bound boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    outcome text
);
CREATE TABLE public.connection_alerts (
    id bigint NOT NULL,
    subject text NOT NULL,
    user_id uuid,
    reason text NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    opened_told text[] DEFAULT '{}'::text[] NOT NULL,
    closed_at timestamp with time zone,
    closed_told text[] DEFAULT '{}'::text[] NOT NULL,
    closed_quietly boolean DEFAULT false NOT NULL
);
ALTER TABLE public.connection_alerts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.connection_alerts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.daily_call_metrics (
    location_id text NOT NULL,
    day date NOT NULL,
    location_name text,
    timezone text NOT NULL,
    is_timezone_assumed boolean NOT NULL,
    calls integer NOT NULL,
    trial_calls integer NOT NULL,
    missing_calls integer NOT NULL,
    unknown_trial_calls integer NOT NULL,
    unique_callers integer NOT NULL,
    calls_without_caller integer NOT NULL,
    calls_without_duration integer NOT NULL,
    calls_without_transcript integer NOT NULL,
    calls_without_summary integer NOT NULL,
    talk_seconds numeric(14,3) NOT NULL,
    talk_minutes double precision NOT NULL,
    billable_minutes integer NOT NULL,
    estimated_cost numeric(14,4),
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
    is_engaged_small_sample boolean NOT NULL,
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
    calls_known_until timestamp with time zone,
    last_successful_sync_at timestamp with time zone,
    incomplete_sync_days integer NOT NULL,
    synced_at timestamp with time zone,
    rules_version text NOT NULL,
    is_complete boolean NOT NULL,
    computed_at timestamp with time zone NOT NULL
);
CREATE TABLE public.data_capture_metrics (
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
    computed_at timestamp with time zone NOT NULL
);
CREATE TABLE public.drifting_days (
    location_id text NOT NULL,
    day date NOT NULL,
    api_total integer NOT NULL,
    stored integer NOT NULL,
    opened_at timestamp with time zone NOT NULL
);
CREATE TABLE public.hourly_activity (
    location_id text NOT NULL,
    day date NOT NULL,
    hour smallint NOT NULL,
    weekday smallint NOT NULL,
    calls integer NOT NULL,
    trial_calls integer NOT NULL,
    missing_calls integer NOT NULL,
    unknown_trial_calls integer NOT NULL,
    unique_callers integer NOT NULL,
    calls_without_caller integer NOT NULL,
    calls_without_duration integer NOT NULL,
    calls_without_transcript integer NOT NULL,
    calls_without_summary integer NOT NULL,
    talk_seconds numeric(14,3) NOT NULL,
    talk_minutes double precision NOT NULL,
    billable_minutes integer NOT NULL,
    estimated_cost numeric(14,4),
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
    is_engaged_small_sample boolean NOT NULL,
    is_complete boolean NOT NULL,
    computed_at timestamp with time zone NOT NULL
);
CREATE TABLE public.location_leases (
    location_id text NOT NULL,
    holder uuid NOT NULL,
    run_id text,
    taken_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE public.locations (
    location_id text NOT NULL,
    name text,
    timezone text,
    company_id text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL
);
CREATE TABLE public.set_aside_calls (
    location_id text NOT NULL,
    content_hash bytea NOT NULL,
    reason text NOT NULL,
    raw jsonb NOT NULL,
    started_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL
);
CREATE TABLE public.sync_ledger (
    user_id uuid NOT NULL,
    location_id text NOT NULL,
    day date NOT NULL,
    state text NOT NULL,
    failure_class text,
    message text DEFAULT ''::text NOT NULL,
    read_until timestamp with time zone,
    api_total integer,
    stored integer,
    new_calls integer DEFAULT 0 NOT NULL,
    changed_calls integer DEFAULT 0 NOT NULL,
    missing_calls integer DEFAULT 0 NOT NULL,
    set_aside_calls integer DEFAULT 0 NOT NULL,
    unknown_actions integer DEFAULT 0 NOT NULL,
    pages integer DEFAULT 0 NOT NULL,
    run_id text,
    attempt integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT sync_ledger_state_check CHECK ((state = ANY (ARRAY['complete'::text, 'failed'::text, 'waiting'::text])))
);
CREATE TABLE public.sync_status (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    service text,
    user_id uuid,
    last_sync_at timestamp with time zone,
    last_sync_status text,
    last_sync_message text,
    records_synced integer,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now()
);
CREATE TABLE public.token_circuit (
    service text NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    reason text,
    detail text DEFAULT ''::text NOT NULL,
    failing_since timestamp with time zone,
    opened_at timestamp with time zone,
    next_probe_at timestamp with time zone,
    replays_rest_until timestamp with time zone,
    last_user_id uuid
);
CREATE TABLE public.token_events (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    user_id uuid,
    event text NOT NULL,
    state text,
    reason text,
    detail text DEFAULT ''::text NOT NULL,
    actor text NOT NULL,
    run_id text,
    version_before integer,
    version_after integer,
    trace_id text,
    fingerprint text
);
ALTER TABLE public.token_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.token_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.users (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    first_name text,
    last_name text,
    business_name text,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now()
);
CREATE TABLE public.voiceai_alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE VIEW voiceai.action_metrics AS
 SELECT location_id,
    day,
    agent_id,
    action_type,
    action_name,
    is_unknown_type,
    actions,
    executed_actions,
    calls,
    agent_calls,
    call_share,
    timed_actions,
    p50_latency_seconds,
    p90_latency_seconds,
    is_small_sample,
    is_complete,
    computed_at
   FROM public.action_metrics;
CREATE VIEW voiceai.agent_performance AS
 SELECT location_id,
    day,
    agent_id,
    agent_name,
    is_agent_deleted,
    calls,
    trial_calls,
    missing_calls,
    unknown_trial_calls,
    unique_callers,
    calls_without_caller,
    calls_without_duration,
    calls_without_transcript,
    calls_without_summary,
    talk_seconds,
    talk_minutes,
    billable_minutes,
    estimated_cost,
    avg_duration_seconds,
    p50_duration_seconds,
    p90_duration_seconds,
    max_duration_seconds,
    duration_under_10s,
    duration_10_to_30s,
    duration_30_to_60s,
    duration_60_to_120s,
    duration_120_to_300s,
    duration_300_to_600s,
    duration_600s_and_more,
    engaged_calls,
    engagement_rate,
    short_calls,
    short_call_rate,
    transferred_calls,
    engaged_transferred_calls,
    transfer_rate,
    attempted_transfer_calls,
    contained_calls,
    containment_rate,
    strictly_judged_calls,
    strictly_contained_calls,
    strict_containment_rate,
    goal_calls,
    engaged_goal_calls,
    goal_rate,
    actions,
    calls_with_action,
    unknown_actions,
    captured_calls,
    engaged_captured_calls,
    capture_rate,
    callback_judged_calls,
    called_back_calls,
    callback_rate,
    max_duration_known_calls,
    calls_at_max_duration,
    max_duration_rate,
    hours_known_calls,
    after_hours_calls,
    after_hours_rate,
    is_small_sample,
    is_engaged_small_sample,
    is_complete,
    computed_at
   FROM public.agent_performance;
CREATE VIEW voiceai.agents AS
 SELECT location_id,
    agent_id,
    name,
    timezone,
    first_seen_at,
    last_seen_at,
    missing_since
   FROM public.agents;
CREATE VIEW voiceai.all_calls AS
 SELECT connection."user" AS user_id,
    connection.user_name,
    call_logs.location_id,
    COALESCE(locations.name, call_logs.location_id) AS location_name,
    COALESCE(locations.timezone, connection.location_timezone) AS location_timezone,
    call_logs.call_id,
    call_logs.agent_id,
    agents.name AS agent_name,
    call_logs.started_at,
    call_logs.duration_seconds,
    call_logs.is_agent_deleted,
    jsonb_path_query_array(call_logs.executed_call_actions, '$[*]."actionType"'::jsonpath) AS action_types,
    call_logs.first_seen_at,
    call_logs.last_changed_at,
    call_logs.is_trial,
    call_logs.missing_since
   FROM (((public.call_logs
     LEFT JOIN public.locations ON ((locations.location_id = call_logs.location_id)))
     LEFT JOIN public.agents ON (((agents.location_id = call_logs.location_id) AND (agents.agent_id = call_logs.agent_id))))
     JOIN ( SELECT users.id AS "user",
            COALESCE(NULLIF(users.business_name, ''::text), NULLIF(btrim(concat_ws(' '::text, users.first_name, users.last_name)), ''::text), (users.id)::text) AS user_name,
                CASE
                    WHEN (k.id IS NULL) THEN 'never_connected'::text
                    WHEN (k.connection_state = ANY (ARRAY['connected'::text, 'in_doubt'::text, 'paused'::text, 'needs_reconnect'::text, 'disconnected'::text])) THEN k.connection_state
                    WHEN (k.is_active IS NOT TRUE) THEN 'disconnected'::text
                    WHEN ((k.refresh_token IS NULL) AND (k.access_token IS NULL)) THEN 'disconnected'::text
                    ELSE 'connected'::text
                END AS state,
            k.id,
            k.user_id,
            k.name,
            k.service,
            k.access_token,
            k.refresh_token,
            k.token_expires_at,
            k.location_id,
            k.location_name,
            k.company_id,
            k.is_active,
            k.created_at,
            k.updated_at,
            k.location_timezone,
            k.user_type,
            k.scope,
            k.connection_state,
            k.connection_reason,
            k.connection_since,
            k.next_attempt_at,
            k.token_version,
            k.lease_id,
            k.lease_started_at,
            k.lease_expires_at,
            k.refresh_replayed,
            k.location_access_token,
            k.location_token_expires_at,
            k.refreshed_at,
            k.refresh_at,
            k.failed_attempts,
            k.last_failure
           FROM (public.users
             LEFT JOIN LATERAL ( SELECT api_keys.id,
                    api_keys.user_id,
                    api_keys.name,
                    api_keys.service,
                    api_keys.access_token,
                    api_keys.refresh_token,
                    api_keys.token_expires_at,
                    api_keys.location_id,
                    api_keys.location_name,
                    api_keys.company_id,
                    api_keys.is_active,
                    api_keys.created_at,
                    api_keys.updated_at,
                    api_keys.location_timezone,
                    api_keys.user_type,
                    api_keys.scope,
                    api_keys.connection_state,
                    api_keys.connection_reason,
                    api_keys.connection_since,
                    api_keys.next_attempt_at,
                    api_keys.token_version,
                    api_keys.lease_id,
                    api_keys.lease_started_at,
                    api_keys.lease_expires_at,
                    api_keys.refresh_replayed,
                    api_keys.location_access_token,
                    api_keys.location_token_expires_at,
                    api_keys.refreshed_at,
                    api_keys.refresh_at,
                    api_keys.failed_attempts,
                    api_keys.last_failure
                   FROM public.api_keys
                  WHERE ((api_keys.user_id = users.id) AND (api_keys.service = 'highlevel'::text))
                  ORDER BY COALESCE(api_keys.is_active, false) DESC, api_keys.updated_at DESC NULLS LAST, api_keys.created_at DESC NULLS LAST, api_keys.id
                 LIMIT 1) k ON (true))) connection ON ((connection.location_id = call_logs.location_id)));
CREATE VIEW voiceai.call_contents AS
 SELECT location_id,
    call_id,
    started_at,
    contact_id,
    from_number,
    summary,
    transcript,
    extracted_data,
    executed_call_actions,
    translation,
    message_id,
    raw
   FROM public.call_logs;
CREATE VIEW voiceai.calls AS
 SELECT connection."user" AS user_id,
    connection.user_name,
    call_logs.location_id,
    COALESCE(locations.name, call_logs.location_id) AS location_name,
    COALESCE(locations.timezone, connection.location_timezone) AS location_timezone,
    call_logs.call_id,
    call_logs.agent_id,
    agents.name AS agent_name,
    call_logs.started_at,
    call_logs.duration_seconds,
    call_logs.is_agent_deleted,
    jsonb_path_query_array(call_logs.executed_call_actions, '$[*]."actionType"'::jsonpath) AS action_types,
    call_logs.first_seen_at,
    call_logs.last_changed_at
   FROM (((public.call_logs
     LEFT JOIN public.locations ON ((locations.location_id = call_logs.location_id)))
     LEFT JOIN public.agents ON (((agents.location_id = call_logs.location_id) AND (agents.agent_id = call_logs.agent_id))))
     JOIN ( SELECT users.id AS "user",
            COALESCE(NULLIF(users.business_name, ''::text), NULLIF(btrim(concat_ws(' '::text, users.first_name, users.last_name)), ''::text), (users.id)::text) AS user_name,
                CASE
                    WHEN (k.id IS NULL) THEN 'never_connected'::text
                    WHEN (k.connection_state = ANY (ARRAY['connected'::text, 'in_doubt'::text, 'paused'::text, 'needs_reconnect'::text, 'disconnected'::text])) THEN k.connection_state
                    WHEN (k.is_active IS NOT TRUE) THEN 'disconnected'::text
                    WHEN ((k.refresh_token IS NULL) AND (k.access_token IS NULL)) THEN 'disconnected'::text
                    ELSE 'connected'::text
                END AS state,
            k.id,
            k.user_id,
            k.name,
            k.service,
            k.access_token,
            k.refresh_token,
            k.token_expires_at,
            k.location_id,
            k.location_name,
            k.company_id,
            k.is_active,
            k.created_at,
            k.updated_at,
            k.location_timezone,
            k.user_type,
            k.scope,
            k.connection_state,
            k.connection_reason,
            k.connection_since,
            k.next_attempt_at,
            k.token_version,
            k.lease_id,
            k.lease_started_at,
            k.lease_expires_at,
            k.refresh_replayed,
            k.location_access_token,
            k.location_token_expires_at,
            k.refreshed_at,
            k.refresh_at,
            k.failed_attempts,
            k.last_failure
           FROM (public.users
             LEFT JOIN LATERAL ( SELECT api_keys.id,
                    api_keys.user_id,
                    api_keys.name,
                    api_keys.service,
                    api_keys.access_token,
                    api_keys.refresh_token,
                    api_keys.token_expires_at,
                    api_keys.location_id,
                    api_keys.location_name,
                    api_keys.company_id,
                    api_keys.is_active,
                    api_keys.created_at,
                    api_keys.updated_at,
                    api_keys.location_timezone,
                    api_keys.user_type,
                    api_keys.scope,
                    api_keys.connection_state,
                    api_keys.connection_reason,
                    api_keys.connection_since,
                    api_keys.next_attempt_at,
                    api_keys.token_version,
                    api_keys.lease_id,
                    api_keys.lease_started_at,
                    api_keys.lease_expires_at,
                    api_keys.refresh_replayed,
                    api_keys.location_access_token,
                    api_keys.location_token_expires_at,
                    api_keys.refreshed_at,
                    api_keys.refresh_at,
                    api_keys.failed_attempts,
                    api_keys.last_failure
                   FROM public.api_keys
                  WHERE ((api_keys.user_id = users.id) AND (api_keys.service = 'highlevel'::text))
                  ORDER BY COALESCE(api_keys.is_active, false) DESC, api_keys.updated_at DESC NULLS LAST, api_keys.created_at DESC NULLS LAST, api_keys.id
                 LIMIT 1) k ON (true))) connection ON ((connection.location_id = call_logs.location_id)))
  WHERE ((call_logs.is_trial IS NOT TRUE) AND (call_logs.missing_since IS NULL));
CREATE VIEW voiceai.connections AS
 SELECT judged."user" AS user_id,
    judged.user_name,
    judged.state,
    judged.can_sync,
    judged.failure_class,
        CASE judged.failure_class
            WHEN 'no_connection'::text THEN 'No valid OAuth connection found'::text
            WHEN 'refresh_rejected'::text THEN 'Failed to refresh token'::text
            WHEN 'access_rejected'::text THEN 'HighLevel API error: 401 Unauthorized'::text
            WHEN 'no_location'::text THEN 'No location ID found for user'::text
            WHEN 'scope_missing'::text THEN 'The connection lacks a scope'::text
            WHEN 'wrong_location'::text THEN 'The token does not have access to the user''s location'::text
            WHEN 'location_paused'::text THEN 'HighLevel has paused the location (billing or agency)'::text
            WHEN 'in_doubt'::text THEN 'HighLevel''s response to a token refresh was lost'::text
            WHEN 'client_refused'::text THEN 'HighLevel refused this app''s client id or client secret'::text
            WHEN 'token_unreadable'::text THEN 'The stored token cannot be decrypted'::text
            WHEN 'our_request'::text THEN 'HighLevel rejected our request as invalid'::text
            WHEN 'contract_drift'::text THEN 'HighLevel no longer supports this request in the configured API version'::text
            WHEN 'rate_limited'::text THEN 'HighLevel''s rate limit did not clear in time'::text
            WHEN 'provider_error'::text THEN 'HighLevel answered with a server error'::text
            WHEN 'unreachable'::text THEN 'HighLevel could not be reached'::text
            WHEN 'malformed'::text THEN 'HighLevel''s response did not match its API'::text
            WHEN 'unknown_answer'::text THEN 'HighLevel sent a response that is not documented'::text
            WHEN 'incomplete'::text THEN 'The calls received do not add up to HighLevel''s total'::text
            WHEN 'busy'::text THEN 'Another run is reading this location'::text
            WHEN 'database'::text THEN 'The database refused or lost the connection'::text
            WHEN 'dagster_silent'::text THEN 'Dagster''s daemon and sensors have given no sign of life for half an hour'::text
            WHEN 'internal'::text THEN 'Unexpected error'::text
            ELSE NULL::text
        END AS message,
    replace(
        CASE judged.failure_class
            WHEN 'no_connection'::text THEN 'Reconnect the user: voiceai-pipeline connect USER'::text
            WHEN 'refresh_rejected'::text THEN 'Re-authorize the OAuth connection: voiceai-pipeline connect USER'::text
            WHEN 'access_rejected'::text THEN 'Check if the token expired and verify its scopes: voiceai-pipeline check USER'::text
            WHEN 'no_location'::text THEN 'Disconnect and reconnect to get a location: voiceai-pipeline connect USER'::text
            WHEN 'scope_missing'::text THEN 'Add the scope to the app in the HighLevel marketplace, then re-authorize: voiceai-pipeline connect USER'::text
            WHEN 'wrong_location'::text THEN 'Reconnect and choose the right location: voiceai-pipeline connect USER'::text
            WHEN 'location_paused'::text THEN 'Ask the agency to activate the location in HighLevel; the connection is kept and retried automatically every 6 hours'::text
            WHEN 'in_doubt'::text THEN 'Rerun: the refresh is retried once; if that fails too, the user must reconnect'::text
            WHEN 'client_refused'::text THEN 'Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET, then rerun; no user has to reconnect'::text
            WHEN 'token_unreadable'::text THEN 'Put the key that encrypted it back into VOICEAI_TOKEN_KEYS and rerun, or reconnect the user: voiceai-pipeline connect USER'::text
            WHEN 'our_request'::text THEN 'Check HIGHLEVEL_API_VERSION with voiceai-pipeline doctor; if it is right, report this as a bug'::text
            WHEN 'contract_drift'::text THEN 'Set HIGHLEVEL_API_VERSION to a version that HighLevel supports, then rerun'::text
            WHEN 'rate_limited'::text THEN 'No action needed: it is retried automatically; you can also rerun it'::text
            WHEN 'provider_error'::text THEN 'No action needed: it is retried automatically; you can also rerun it once HighLevel is back'::text
            WHEN 'unreachable'::text THEN 'Check the network and HIGHLEVEL_API_URL; it is retried automatically'::text
            WHEN 'malformed'::text THEN 'No action needed: it is retried automatically; if it persists, report it with the trace id'::text
            WHEN 'unknown_answer'::text THEN 'No action needed: it is retried automatically; if it persists, report it with the status and trace id'::text
            WHEN 'incomplete'::text THEN 'No action needed: the stored calls are kept, and the day is re-read automatically'::text
            WHEN 'busy'::text THEN 'No action needed: it is retried automatically; if that run hangs, terminate it in Dagster''s UI'::text
            WHEN 'database'::text THEN 'Check the database with voiceai-pipeline doctor, then rerun; no partial data was written'::text
            WHEN 'dagster_silent'::text THEN 'Find out under Deployment in Dagster''s UI what has stopped, and restart it: make up, or dagster-daemon run'::text
            WHEN 'internal'::text THEN 'Report this as a bug with the stack frames from the log: the run''s log in Dagster, or the output of the program that showed this (with make up: VOICEAI_HOME/logs); other users are not affected, and a rerun is safe'::text
            ELSE NULL::text
        END, ' USER'::text, (' '::text || (judged."user")::text)) AS fix,
    judged.connection_since,
    judged.location_id,
    judged.location_name,
    judged.location_timezone,
    judged.company_id,
    last_sync.last_sync_at,
    last_sync.last_sync_status,
    replace(last_sync.last_sync_message, ' USER'::text, (' '::text || (judged."user")::text)) AS last_sync_message,
    last_sync.records_synced
   FROM (( SELECT connection."user",
            connection.user_name,
            connection.state,
            connection.connection_since,
            connection.location_id,
            connection.location_name,
            connection.location_timezone,
            connection.company_id,
            (
                CASE
                    WHEN (connection.state = ANY (ARRAY['never_connected'::text, 'disconnected'::text])) THEN 'no_connection'::text
                    WHEN (connection.state = ANY (ARRAY['paused'::text, 'needs_reconnect'::text])) THEN COALESCE(connection.connection_reason, 'refresh_rejected'::text)
                    WHEN (COALESCE(connection.location_id, ''::text) = ''::text) THEN 'no_location'::text
                    ELSE NULL::text
                END IS NULL) AS can_sync,
            COALESCE(
                CASE
                    WHEN (connection.state = ANY (ARRAY['never_connected'::text, 'disconnected'::text])) THEN 'no_connection'::text
                    WHEN (connection.state = ANY (ARRAY['paused'::text, 'needs_reconnect'::text])) THEN COALESCE(connection.connection_reason, 'refresh_rejected'::text)
                    WHEN (COALESCE(connection.location_id, ''::text) = ''::text) THEN 'no_location'::text
                    ELSE NULL::text
                END, connection.last_failure) AS failure_class
           FROM ( SELECT users.id AS "user",
                    COALESCE(NULLIF(users.business_name, ''::text), NULLIF(btrim(concat_ws(' '::text, users.first_name, users.last_name)), ''::text), (users.id)::text) AS user_name,
                        CASE
                            WHEN (k.id IS NULL) THEN 'never_connected'::text
                            WHEN (k.connection_state = ANY (ARRAY['connected'::text, 'in_doubt'::text, 'paused'::text, 'needs_reconnect'::text, 'disconnected'::text])) THEN k.connection_state
                            WHEN (k.is_active IS NOT TRUE) THEN 'disconnected'::text
                            WHEN ((k.refresh_token IS NULL) AND (k.access_token IS NULL)) THEN 'disconnected'::text
                            ELSE 'connected'::text
                        END AS state,
                    k.id,
                    k.user_id,
                    k.name,
                    k.service,
                    k.access_token,
                    k.refresh_token,
                    k.token_expires_at,
                    k.location_id,
                    k.location_name,
                    k.company_id,
                    k.is_active,
                    k.created_at,
                    k.updated_at,
                    k.location_timezone,
                    k.user_type,
                    k.scope,
                    k.connection_state,
                    k.connection_reason,
                    k.connection_since,
                    k.next_attempt_at,
                    k.token_version,
                    k.lease_id,
                    k.lease_started_at,
                    k.lease_expires_at,
                    k.refresh_replayed,
                    k.location_access_token,
                    k.location_token_expires_at,
                    k.refreshed_at,
                    k.refresh_at,
                    k.failed_attempts,
                    k.last_failure
                   FROM (public.users
                     LEFT JOIN LATERAL ( SELECT api_keys.id,
                            api_keys.user_id,
                            api_keys.name,
                            api_keys.service,
                            api_keys.access_token,
                            api_keys.refresh_token,
                            api_keys.token_expires_at,
                            api_keys.location_id,
                            api_keys.location_name,
                            api_keys.company_id,
                            api_keys.is_active,
                            api_keys.created_at,
                            api_keys.updated_at,
                            api_keys.location_timezone,
                            api_keys.user_type,
                            api_keys.scope,
                            api_keys.connection_state,
                            api_keys.connection_reason,
                            api_keys.connection_since,
                            api_keys.next_attempt_at,
                            api_keys.token_version,
                            api_keys.lease_id,
                            api_keys.lease_started_at,
                            api_keys.lease_expires_at,
                            api_keys.refresh_replayed,
                            api_keys.location_access_token,
                            api_keys.location_token_expires_at,
                            api_keys.refreshed_at,
                            api_keys.refresh_at,
                            api_keys.failed_attempts,
                            api_keys.last_failure
                           FROM public.api_keys
                          WHERE ((api_keys.user_id = users.id) AND (api_keys.service = 'highlevel'::text))
                          ORDER BY COALESCE(api_keys.is_active, false) DESC, api_keys.updated_at DESC NULLS LAST, api_keys.created_at DESC NULLS LAST, api_keys.id
                         LIMIT 1) k ON (true))) connection) judged
     LEFT JOIN LATERAL ( SELECT sync_status.id,
            sync_status.service,
            sync_status.user_id,
            sync_status.last_sync_at,
            sync_status.last_sync_status,
            sync_status.last_sync_message,
            sync_status.records_synced,
            sync_status.created_at,
            sync_status.updated_at
           FROM public.sync_status
          WHERE ((sync_status.user_id = judged."user") AND (sync_status.service = 'highlevel'::text))
          ORDER BY sync_status.last_sync_at DESC NULLS LAST
         LIMIT 1) last_sync ON (true));
CREATE VIEW voiceai.daily_call_metrics AS
 SELECT location_id,
    day,
    location_name,
    timezone,
    is_timezone_assumed,
    calls,
    trial_calls,
    missing_calls,
    unknown_trial_calls,
    unique_callers,
    calls_without_caller,
    calls_without_duration,
    calls_without_transcript,
    calls_without_summary,
    talk_seconds,
    talk_minutes,
    billable_minutes,
    estimated_cost,
    avg_duration_seconds,
    p50_duration_seconds,
    p90_duration_seconds,
    max_duration_seconds,
    duration_under_10s,
    duration_10_to_30s,
    duration_30_to_60s,
    duration_60_to_120s,
    duration_120_to_300s,
    duration_300_to_600s,
    duration_600s_and_more,
    engaged_calls,
    engagement_rate,
    short_calls,
    short_call_rate,
    transferred_calls,
    engaged_transferred_calls,
    transfer_rate,
    attempted_transfer_calls,
    contained_calls,
    containment_rate,
    strictly_judged_calls,
    strictly_contained_calls,
    strict_containment_rate,
    goal_calls,
    engaged_goal_calls,
    goal_rate,
    actions,
    calls_with_action,
    unknown_actions,
    captured_calls,
    engaged_captured_calls,
    capture_rate,
    callback_judged_calls,
    called_back_calls,
    callback_rate,
    max_duration_known_calls,
    calls_at_max_duration,
    max_duration_rate,
    hours_known_calls,
    after_hours_calls,
    after_hours_rate,
    is_small_sample,
    is_engaged_small_sample,
    callers_7d,
    repeat_callers_7d,
    repeat_caller_rate,
    calls_7d,
    calls_previous_7d,
    calls_change_7d,
    is_7d_complete,
    calls_by_now_last_week,
    goal_actions,
    is_goal_comparable,
    is_over,
    calls_known_until,
    last_successful_sync_at,
    incomplete_sync_days,
    synced_at,
    rules_version,
    is_complete,
    computed_at
   FROM public.daily_call_metrics;
CREATE VIEW voiceai.data_capture_metrics AS
 SELECT location_id,
    day,
    agent_id,
    data_key,
    filled_calls,
    engaged_filled_calls,
    engaged_calls,
    fill_rate,
    is_small_sample,
    is_complete,
    computed_at
   FROM public.data_capture_metrics;
CREATE VIEW voiceai.hourly_activity AS
 SELECT location_id,
    day,
    hour,
    weekday,
    calls,
    trial_calls,
    missing_calls,
    unknown_trial_calls,
    unique_callers,
    calls_without_caller,
    calls_without_duration,
    calls_without_transcript,
    calls_without_summary,
    talk_seconds,
    talk_minutes,
    billable_minutes,
    estimated_cost,
    avg_duration_seconds,
    p50_duration_seconds,
    p90_duration_seconds,
    max_duration_seconds,
    duration_under_10s,
    duration_10_to_30s,
    duration_30_to_60s,
    duration_60_to_120s,
    duration_120_to_300s,
    duration_300_to_600s,
    duration_600s_and_more,
    engaged_calls,
    engagement_rate,
    short_calls,
    short_call_rate,
    transferred_calls,
    engaged_transferred_calls,
    transfer_rate,
    attempted_transfer_calls,
    contained_calls,
    containment_rate,
    strictly_judged_calls,
    strictly_contained_calls,
    strict_containment_rate,
    goal_calls,
    engaged_goal_calls,
    goal_rate,
    actions,
    calls_with_action,
    unknown_actions,
    captured_calls,
    engaged_captured_calls,
    capture_rate,
    callback_judged_calls,
    called_back_calls,
    callback_rate,
    max_duration_known_calls,
    calls_at_max_duration,
    max_duration_rate,
    hours_known_calls,
    after_hours_calls,
    after_hours_rate,
    is_small_sample,
    is_engaged_small_sample,
    is_complete,
    computed_at
   FROM public.hourly_activity;
CREATE VIEW voiceai.locations AS
 SELECT location_id,
    name,
    timezone,
    company_id,
    first_seen_at,
    last_seen_at
   FROM public.locations;
CREATE VIEW voiceai.sync_days AS
 SELECT sync_ledger.user_id,
    COALESCE(NULLIF(users.business_name, ''::text), NULLIF(btrim(concat_ws(' '::text, users.first_name, users.last_name)), ''::text), (users.id)::text) AS user_name,
    sync_ledger.location_id,
    sync_ledger.day,
    sync_ledger.state,
    sync_ledger.failure_class,
    split_part(replace(sync_ledger.message, ' USER'::text, (' '::text || (sync_ledger.user_id)::text)), '. Fix: '::text, 1) AS message,
    NULLIF(split_part(replace(sync_ledger.message, ' USER'::text, (' '::text || (sync_ledger.user_id)::text)), '. Fix: '::text, 2), ''::text) AS fix,
    sync_ledger.read_until,
    sync_ledger.api_total,
    sync_ledger.stored,
    sync_ledger.new_calls,
    sync_ledger.changed_calls,
    sync_ledger.missing_calls,
    sync_ledger.set_aside_calls,
    sync_ledger.unknown_actions,
    sync_ledger.pages,
    sync_ledger.attempt,
    sync_ledger.run_id,
    sync_ledger.started_at,
    sync_ledger.finished_at
   FROM (public.sync_ledger
     JOIN public.users ON ((users.id = sync_ledger.user_id)));
ALTER TABLE ONLY public.action_metrics
    ADD CONSTRAINT action_metrics_pkey PRIMARY KEY (location_id, day, agent_id, action_type, action_name);
ALTER TABLE ONLY public.agent_names
    ADD CONSTRAINT agent_names_pkey PRIMARY KEY (location_id, agent_id, since);
ALTER TABLE ONLY public.agent_performance
    ADD CONSTRAINT agent_performance_pkey PRIMARY KEY (location_id, day, agent_id);
ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (location_id, agent_id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.call_logs
    ADD CONSTRAINT call_logs_pkey PRIMARY KEY (location_id, call_id);
ALTER TABLE ONLY public.connect_requests
    ADD CONSTRAINT connect_requests_pkey PRIMARY KEY (state_hash);
ALTER TABLE ONLY public.connection_alerts
    ADD CONSTRAINT connection_alerts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.daily_call_metrics
    ADD CONSTRAINT daily_call_metrics_pkey PRIMARY KEY (location_id, day);
ALTER TABLE ONLY public.data_capture_metrics
    ADD CONSTRAINT data_capture_metrics_pkey PRIMARY KEY (location_id, day, agent_id, data_key);
ALTER TABLE ONLY public.drifting_days
    ADD CONSTRAINT drifting_days_pkey PRIMARY KEY (location_id, day);
ALTER TABLE ONLY public.hourly_activity
    ADD CONSTRAINT hourly_activity_pkey PRIMARY KEY (location_id, day, hour);
ALTER TABLE ONLY public.location_leases
    ADD CONSTRAINT location_leases_pkey PRIMARY KEY (location_id);
ALTER TABLE ONLY public.locations
    ADD CONSTRAINT locations_pkey PRIMARY KEY (location_id);
ALTER TABLE ONLY public.set_aside_calls
    ADD CONSTRAINT set_aside_calls_pkey PRIMARY KEY (location_id, content_hash);
ALTER TABLE ONLY public.sync_ledger
    ADD CONSTRAINT sync_ledger_pkey PRIMARY KEY (user_id, location_id, day);
ALTER TABLE ONLY public.sync_status
    ADD CONSTRAINT sync_status_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.token_circuit
    ADD CONSTRAINT token_circuit_pkey PRIMARY KEY (service);
ALTER TABLE ONLY public.token_events
    ADD CONSTRAINT token_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.voiceai_alembic_version
    ADD CONSTRAINT voiceai_alembic_version_pkc PRIMARY KEY (version_num);
CREATE INDEX action_metrics_day_idx ON public.action_metrics USING btree (day);
CREATE INDEX agent_performance_day_idx ON public.agent_performance USING btree (day);
CREATE INDEX call_logs_agent_id_idx ON public.call_logs USING btree (agent_id);
CREATE INDEX call_logs_location_id_started_at_idx ON public.call_logs USING btree (location_id, started_at);
CREATE INDEX call_logs_started_at_idx ON public.call_logs USING brin (started_at);
CREATE UNIQUE INDEX connection_alerts_open_subject_idx ON public.connection_alerts USING btree (subject) WHERE (closed_at IS NULL);
CREATE INDEX daily_call_metrics_day_idx ON public.daily_call_metrics USING btree (day);
CREATE INDEX daily_call_metrics_definitions_idx ON public.daily_call_metrics USING btree (location_id, timezone, rules_version);
CREATE INDEX data_capture_metrics_day_idx ON public.data_capture_metrics USING btree (day);
CREATE INDEX hourly_activity_day_idx ON public.hourly_activity USING btree (day);
CREATE INDEX ix_api_keys_user_id ON public.api_keys USING btree (user_id);
CREATE INDEX ix_sync_status_user_id ON public.sync_status USING btree (user_id);
CREATE INDEX sync_ledger_day_idx ON public.sync_ledger USING btree (day);
CREATE INDEX sync_ledger_finished_at_idx ON public.sync_ledger USING btree (finished_at);
CREATE INDEX sync_ledger_unfinished_idx ON public.sync_ledger USING btree (finished_at) WHERE (state <> 'complete'::text);
CREATE INDEX token_events_user_id_idx ON public.token_events USING btree (user_id, id);
CREATE TRIGGER token_events_are_only_added BEFORE DELETE OR UPDATE OR TRUNCATE ON public.token_events FOR EACH STATEMENT EXECUTE FUNCTION public.token_events_are_only_added();
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);
ALTER TABLE ONLY public.connect_requests
    ADD CONSTRAINT connect_requests_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.connection_alerts
    ADD CONSTRAINT connection_alerts_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.sync_ledger
    ADD CONSTRAINT sync_ledger_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);
ALTER TABLE ONLY public.sync_status
    ADD CONSTRAINT sync_status_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);
INSERT INTO public.voiceai_alembic_version VALUES ('0007');

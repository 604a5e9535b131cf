"""An oracle for the marts: a second implementation of ``marts/metrics.py``, in plain SQL.

Written from the definitions (REQUIREMENTS M), not from the code. The pipeline's zone is UTC here.
"""

from typing import Any

import sqlalchemy as sa

from voiceai_pipeline.database.mart_tables import MEASURES

_TABLES = r"""
CREATE TEMPORARY TABLE location ON COMMIT DROP AS
  SELECT l.location_id, coalesce(l.timezone, 'UTC') AS zone FROM locations l;
CREATE TEMPORARY TABLE ledger ON COMMIT DROP AS
  SELECT location_id, day, max(read_until) AS read_until FROM sync_ledger
  WHERE state = 'complete' GROUP BY 1, 2;
CREATE INDEX ON ledger (location_id, day);
CREATE TEMPORARY TABLE agent ON COMMIT DROP AS
  SELECT location_id, agent_id, timezone, (raw ->> 'maxCallDuration')::float AS longest,
         coalesce(raw -> 'agentWorkingHours', '[]') AS hours FROM voiceai_agents;
CREATE TEMPORARY TABLE open ON COMMIT DROP AS
  SELECT a.location_id, a.agent_id, (d ->> 'dayOfTheWeek')::int AS dow,
         make_interval(hours => (i ->> 'startHour')::int, mins => (i ->> 'startMinute')::int) AS a,
         CASE WHEN (i ->> 'endHour')::int = 23 AND (i ->> 'endMinute')::int = 59
         THEN interval '24 hours' ELSE
         make_interval(hours => (i ->> 'endHour')::int, mins => (i ->> 'endMinute')::int) END AS b
  FROM agent a, jsonb_array_elements(a.hours) d, jsonb_array_elements(d -> 'intervals') i;
CREATE TEMPORARY TABLE base ON COMMIT DROP AS
  SELECT location_id, started_at,
    CASE WHEN from_number IS DISTINCT FROM '+266696687' THEN
      coalesce(nullif(from_number, ''), nullif(contact_id, '')) END AS number,
    CASE WHEN from_number IS DISTINCT FROM '+266696687' THEN
      coalesce(nullif(contact_id, ''), nullif(from_number, '')) END AS caller
  FROM call_logs WHERE is_trial IS DISTINCT FROM true AND missing_since IS NULL;
CREATE INDEX ON base (location_id, number, started_at);
CREATE INDEX ON base (location_id, caller, started_at);
ANALYZE
"""

_FACTS = r"""
CREATE TEMPORARY TABLE judged ON COMMIT DROP AS
WITH facts AS (
  SELECT c.location_id, c.call_id, p.zone, c.started_at, coalesce(c.agent_id, '') AS agent_id,
    (c.started_at AT TIME ZONE p.zone)::date AS day,
    extract(hour FROM c.started_at AT TIME ZONE p.zone)::int AS hour,
    c.is_trial, c.missing_since, c.is_agent_deleted,
    CASE WHEN c.translation ->> 'language' IN ('es', 'ES ') THEN 'es' ELSE '' END AS language,
    (c.is_trial IS DISTINCT FROM true AND c.missing_since IS NULL) AS live,
    c.duration_seconds AS d,
    CASE WHEN c.from_number IS DISTINCT FROM '+266696687' THEN
      coalesce(nullif(c.contact_id, ''), nullif(c.from_number, '')) END AS caller,
    CASE WHEN c.from_number IS DISTINCT FROM '+266696687' THEN
      coalesce(nullif(c.from_number, ''), nullif(c.contact_id, '')) END AS number,
    coalesce(c.transcript ~ '\S', false) AS has_transcript,
    coalesce(c.summary ~ '\S', false) AS has_summary,
    (SELECT count(*) FROM regexp_split_to_table(coalesce(c.transcript, ''), '\n') AS line
      WHERE line ~* '^(human|user):') AS turns,
    coalesce(c.transcript ~ '\S' AND c.transcript
      !~* '(^|\n)(human|user|bot|agent|assistant|ai):', false) AS nobody_known,
    (SELECT count(*) FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE jsonb_typeof(x) = 'object') AS actions,
    (SELECT count(*) FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE jsonb_typeof(x) = 'object' AND coalesce(x ->> 'actionType', '') NOT IN (
      'CALL_TRANSFER', 'DATA_EXTRACTION', 'IN_CALL_DATA_EXTRACTION', 'WORKFLOW_TRIGGER', 'SMS',
      'APPOINTMENT_BOOKING', 'CUSTOM_ACTION', 'KNOWLEDGE_BASE')) AS unknown,
    EXISTS (SELECT FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE x ->> 'actionType' = 'CALL_TRANSFER') AS tried,
    EXISTS (SELECT FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE x ->> 'actionType' = 'CALL_TRANSFER' AND x ->> 'executedAt' <> '') AS transferred,
    EXISTS (SELECT FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE x ->> 'actionType' = ANY(:goals)) AS goal,
    EXISTS (SELECT FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE x ->> 'actionType' IN ('WORKFLOW_TRIGGER', 'SMS', 'CUSTOM_ACTION')) AS followed,
    EXISTS (SELECT FROM jsonb_array_elements(c.executed_call_actions) x
      WHERE x ->> 'actionType' LIKE '%DATA\_EXTRACTION') AS extracted,
    (jsonb_typeof(c.extracted_data) = 'object' AND EXISTS (
      SELECT FROM jsonb_each(CASE jsonb_typeof(c.extracted_data) WHEN 'object'
                             THEN c.extracted_data ELSE '{}' END) e
      WHERE e.value::text NOT IN ('null', '[]', '{}', '""', '" "'))) AS captured,
    EXISTS (SELECT FROM base o WHERE o.location_id = c.location_id
      AND o.number = coalesce(nullif(c.from_number, ''), nullif(c.contact_id, ''))
      AND o.started_at > c.started_at AND o.started_at <= c.started_at + interval '24 hours')
      AS number_again,
    EXISTS (SELECT FROM base o WHERE o.location_id = c.location_id
      AND o.caller = coalesce(nullif(c.contact_id, ''), nullif(c.from_number, ''))
      AND o.started_at > c.started_at AND o.started_at <= c.started_at + interval '24 hours')
      AS caller_again,
    NOT EXISTS (
      SELECT FROM generate_series((c.started_at AT TIME ZONE 'UTC')::date,
        ((c.started_at + interval '24 hours') AT TIME ZONE 'UTC')::date, interval '1 day') s(day)
      LEFT JOIN ledger r ON r.location_id = c.location_id AND r.day = s.day::date
      WHERE s.day AT TIME ZONE 'UTC' < c.started_at + interval '24 hours'
        AND coalesce(r.read_until, '-infinity') < least((s.day + interval '1 day')
            AT TIME ZONE 'UTC', c.started_at + interval '24 hours')) AS day_after_known,
    a.longest,
    (SELECT bool_or(o.dow IS NOT NULL) FROM open o WHERE o.location_id = c.location_id
      AND o.agent_id = c.agent_id) AS hours_known,
    EXISTS (SELECT FROM open o, LATERAL (
        SELECT c.started_at AT TIME ZONE coalesce(a.timezone, p.zone) AS at) AS here, LATERAL (
        SELECT extract(isodow FROM here.at)::int AS dow, here.at - date_trunc('day', here.at) AS t
        ) AS now
      WHERE o.location_id = c.location_id AND o.agent_id = c.agent_id AND (
        (o.a < o.b AND now.dow = o.dow AND now.t >= o.a AND now.t < o.b)
        OR (o.a > o.b AND now.dow = o.dow AND now.t >= o.a)
        OR (o.a > o.b AND now.dow = o.dow % 7 + 1 AND now.t < o.b))) AS is_open
  FROM call_logs c JOIN location p USING (location_id)
  LEFT JOIN agent a ON a.location_id = c.location_id AND a.agent_id = c.agent_id
)
SELECT *, live AND turns >= :turns AND coalesce(d, -1) >= :seconds AS engaged FROM facts
"""

_MEASURES = """
    count(*) FILTER (WHERE live) AS calls,
    count(*) FILTER (WHERE is_trial AND missing_since IS NULL) AS trial_calls,
    count(*) FILTER (WHERE missing_since IS NOT NULL) AS missing_calls,
    count(*) FILTER (WHERE live AND is_trial IS NULL) AS unknown_trial_calls,
    count(DISTINCT caller) FILTER (WHERE live) AS unique_callers,
    count(*) FILTER (WHERE live AND caller IS NULL) AS calls_without_caller,
    count(*) FILTER (WHERE live AND d IS NULL) AS calls_without_duration,
    count(*) FILTER (WHERE live AND NOT has_transcript) AS calls_without_transcript,
    count(*) FILTER (WHERE live AND NOT has_summary) AS calls_without_summary,
    count(*) FILTER (WHERE live AND nobody_known) AS calls_with_unknown_speakers,
    coalesce(sum(turns) FILTER (WHERE live AND NOT nobody_known), 0) AS caller_turns,
    coalesce(sum(d::numeric) FILTER (WHERE live), 0) AS talk_seconds,
    coalesce(sum(d::numeric) FILTER (WHERE live), 0)::float / 60 AS talk_minutes,
    coalesce(sum(ceil(d / 60)) FILTER (WHERE live), 0) AS billable_minutes,
    coalesce(sum(ceil(d / 60)) FILTER (WHERE live), 0)::numeric * :rate AS estimated_cost,
    avg(d) FILTER (WHERE live) AS avg_duration_seconds,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY d) FILTER (WHERE live) AS p50_duration_seconds,
    percentile_cont(0.9) WITHIN GROUP (ORDER BY d) FILTER (WHERE live) AS p90_duration_seconds,
    max(d) FILTER (WHERE live) AS max_duration_seconds,
    count(*) FILTER (WHERE live AND d < 10) AS duration_under_10s,
    count(*) FILTER (WHERE live AND d >= 10 AND d < 30) AS duration_10_to_30s,
    count(*) FILTER (WHERE live AND d >= 30 AND d < 60) AS duration_30_to_60s,
    count(*) FILTER (WHERE live AND d >= 60 AND d < 120) AS duration_60_to_120s,
    count(*) FILTER (WHERE live AND d >= 120 AND d < 300) AS duration_120_to_300s,
    count(*) FILTER (WHERE live AND d >= 300 AND d < 600) AS duration_300_to_600s,
    count(*) FILTER (WHERE live AND d >= 600) AS duration_600s_and_more,
    count(*) FILTER (WHERE engaged) AS engaged_calls,
    count(*) FILTER (WHERE engaged)::float / nullif(count(*) FILTER (WHERE live), 0)
      AS engagement_rate,
    count(*) FILTER (WHERE live AND (d < 10 OR turns = 0 AND NOT nobody_known)) AS short_calls,
    count(*) FILTER (WHERE live AND (d < 10 OR turns = 0 AND NOT nobody_known))::float
      / nullif(count(*) FILTER (WHERE live), 0) AS short_call_rate,
    count(*) FILTER (WHERE live AND transferred) AS transferred_calls,
    count(*) FILTER (WHERE engaged AND transferred) AS engaged_transferred_calls,
    count(*) FILTER (WHERE engaged AND transferred)::float
      / nullif(count(*) FILTER (WHERE engaged), 0) AS transfer_rate,
    count(*) FILTER (WHERE live AND tried AND NOT transferred) AS attempted_transfer_calls,
    count(*) FILTER (WHERE engaged AND NOT transferred) AS contained_calls,
    count(*) FILTER (WHERE engaged AND NOT transferred)::float
      / nullif(count(*) FILTER (WHERE engaged), 0) AS containment_rate,
    count(*) FILTER (WHERE engaged AND number IS NOT NULL AND day_after_known)
      AS strictly_judged_calls,
    count(*) FILTER (WHERE engaged AND number IS NOT NULL AND day_after_known AND NOT transferred
      AND NOT number_again) AS strictly_contained_calls,
    count(*) FILTER (WHERE engaged AND number IS NOT NULL AND day_after_known AND NOT transferred
      AND NOT number_again)::float / nullif(count(*) FILTER (WHERE engaged AND number IS NOT NULL
      AND day_after_known), 0) AS strict_containment_rate,
    count(*) FILTER (WHERE live AND goal) AS goal_calls,
    count(*) FILTER (WHERE engaged AND goal) AS engaged_goal_calls,
    count(*) FILTER (WHERE engaged AND goal)::float
      / nullif(count(*) FILTER (WHERE engaged), 0) AS goal_rate,
    coalesce(sum(actions) FILTER (WHERE live), 0) AS actions,
    count(*) FILTER (WHERE live AND actions > 0) AS calls_with_action,
    coalesce(sum(unknown) FILTER (WHERE live), 0) AS unknown_actions,
    count(*) FILTER (WHERE live AND captured) AS captured_calls,
    count(*) FILTER (WHERE engaged AND captured) AS engaged_captured_calls,
    count(*) FILTER (WHERE engaged AND captured)::float
      / nullif(count(*) FILTER (WHERE engaged), 0) AS capture_rate,
    count(*) FILTER (WHERE live AND caller IS NOT NULL AND day_after_known)
      AS callback_judged_calls,
    count(*) FILTER (WHERE live AND caller IS NOT NULL AND day_after_known AND caller_again)
      AS called_back_calls,
    count(*) FILTER (WHERE live AND caller IS NOT NULL AND day_after_known AND caller_again)::float
      / nullif(count(*) FILTER (WHERE live AND caller IS NOT NULL AND day_after_known), 0)
      AS callback_rate,
    count(*) FILTER (WHERE live AND d IS NOT NULL AND longest IS NOT NULL)
      AS max_duration_known_calls,
    count(*) FILTER (WHERE live AND d >= longest - 2) AS calls_at_max_duration,
    count(*) FILTER (WHERE live AND d >= longest - 2)::float
      / nullif(count(*) FILTER (WHERE live AND d IS NOT NULL AND longest IS NOT NULL), 0)
      AS max_duration_rate,
    count(*) FILTER (WHERE live AND hours_known) AS hours_known_calls,
    count(*) FILTER (WHERE live AND hours_known AND NOT is_open) AS after_hours_calls,
    count(*) FILTER (WHERE live AND hours_known AND NOT is_open)::float
      / nullif(count(*) FILTER (WHERE live AND hours_known), 0) AS after_hours_rate,
    count(*) FILTER (WHERE live) < 20 AS is_small_sample,
    count(*) FILTER (WHERE engaged) < 20 AS is_engaged_small_sample
"""

_READ = """NOT EXISTS (
    SELECT FROM generate_series({first} - interval '1 day', {last} + interval '1 day',
      interval '1 day') s(day)
    LEFT JOIN ledger r ON r.location_id = p.location_id AND r.day = s.day::date
    WHERE s.day AT TIME ZONE 'UTC' < ({last} + interval '1 day') AT TIME ZONE p.zone
      AND (s.day + interval '1 day') AT TIME ZONE 'UTC' > ({first}) AT TIME ZONE p.zone
      AND coalesce(r.read_until, '-infinity') < least((s.day + interval '1 day')
        AT TIME ZONE 'UTC', ({last} + interval '1 day') AT TIME ZONE p.zone))"""
_WEEK_READ = _READ.format(first="w.day - interval '6 days'", last="w.day")
_WEEK_BEFORE_READ = _READ.format(
    first="w.day - interval '13 days'", last="w.day - interval '7 days'"
)

_DAILY = f"""
SELECT p.location_id, w.day::date AS day, {_MEASURES.replace("count(*)", "count(j.call_id)")},
  CASE WHEN {_WEEK_READ} THEN
  (SELECT count(DISTINCT caller) FROM judged x WHERE x.location_id = p.location_id AND x.live
    AND x.day > w.day - interval '7 days' AND x.day <= w.day) END AS callers_7d,
  CASE WHEN {_WEEK_READ} THEN
  (SELECT count(*) FROM (SELECT caller FROM judged x WHERE x.location_id = p.location_id AND x.live
    AND x.day > w.day - interval '7 days' AND x.day <= w.day AND caller IS NOT NULL
    GROUP BY caller HAVING count(*) >= 2) r) END AS repeat_callers_7d,
  CASE WHEN {_WEEK_READ} THEN
  (SELECT count(*) FROM judged x WHERE x.location_id = p.location_id AND x.live
    AND x.day > w.day - interval '7 days' AND x.day <= w.day) END AS calls_7d,
  CASE WHEN {_WEEK_BEFORE_READ} THEN
  (SELECT count(*) FROM judged x WHERE x.location_id = p.location_id AND x.live
    AND x.day > w.day - interval '14 days' AND x.day <= w.day - interval '7 days') END
    AS calls_previous_7d,
  (SELECT max((SELECT count(*) FROM judged y WHERE y.location_id = x.location_id AND y.live
      AND y.day BETWEEN x.day - 1 AND x.day AND y.started_at <= x.started_at
      AND y.started_at + greatest(coalesce(y.d, 0), 0.001) * interval '1 second' > x.started_at))
    FROM judged x WHERE x.location_id = p.location_id AND x.live AND x.day = w.day)
    AS peak_found,
  {_READ.format(first="w.day", last="w.day")} AS is_complete,
  count(j.call_id) > 0 OR EXISTS (SELECT FROM ledger r WHERE r.location_id = p.location_id
    AND r.day = (w.day AT TIME ZONE p.zone AT TIME ZONE 'UTC')::date
    AND r.read_until > w.day AT TIME ZONE p.zone) AS is_known
FROM location p CROSS JOIN unnest(CAST(:days AS date[])) AS d(day)
CROSS JOIN LATERAL (SELECT d.day::timestamp AS day) AS w
LEFT JOIN judged j ON j.location_id = p.location_id AND j.day = w.day
GROUP BY p.location_id, p.zone, w.day
"""  # noqa: S608 - our own text

_GROUPED = """
SELECT location_id, day, {by}, {measures} FROM judged WHERE day = ANY(CAST(:days AS date[]))
GROUP BY location_id, day, {by}
"""

_ACTIONS = r"""
WITH listed AS (
  SELECT j.location_id, j.day, j.agent_id, j.call_id,
    coalesce(x ->> 'actionType', '') AS action_type,
    regexp_replace(regexp_replace(coalesce(x ->> 'actionName', ''), '\+1 555 010 0099', '…'),
      'pat@example.test', '…') AS action_name,
    coalesce(x ->> 'executedAt', '') <> '' AS executed,
    CASE WHEN x ->> 'executedAt' LIKE '20%' AND x ->> 'triggerReceivedAt' LIKE '20%'
    THEN extract(epoch FROM (x ->> 'executedAt')::timestamptz
                          - (x ->> 'triggerReceivedAt')::timestamptz)::float END AS latency
  FROM judged j JOIN call_logs c USING (location_id, call_id),
    jsonb_array_elements(c.executed_call_actions) x
  WHERE j.live AND jsonb_typeof(x) = 'object' AND j.day = ANY(CAST(:days AS date[]))
)
SELECT location_id, day, agent_id, action_type, action_name, count(*) AS actions,
  count(*) FILTER (WHERE executed) AS executed_actions, count(DISTINCT call_id) AS calls,
  max(n.calls) AS agent_calls, count(DISTINCT call_id)::float / max(n.calls) AS call_share,
  count(*) FILTER (WHERE latency >= 0) AS timed_actions,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency) FILTER (WHERE latency >= 0)
    AS p50_latency_seconds,
  percentile_cont(0.9) WITHIN GROUP (ORDER BY latency) FILTER (WHERE latency >= 0)
    AS p90_latency_seconds,
  action_type IN ('TELEPATHY', '') AS is_unknown_type, max(n.calls) < 20 AS is_small_sample
FROM listed JOIN (SELECT location_id, day, agent_id, count(*) AS calls FROM judged WHERE live
  GROUP BY 1, 2, 3) n USING (location_id, day, agent_id)
GROUP BY 1, 2, 3, 4, 5
"""

_CAPTURES = """
WITH filled AS (
  SELECT j.location_id, j.day, j.agent_id, j.engaged,
    CASE e.key WHEN '+1 555 010 0001' THEN '…' ELSE e.key END AS data_key
  FROM judged j JOIN call_logs c USING (location_id, call_id),
    jsonb_each(CASE jsonb_typeof(c.extracted_data) WHEN 'object' THEN c.extracted_data
               ELSE '{}' END) e
  WHERE j.live AND j.day = ANY(CAST(:days AS date[]))
    AND e.value::text NOT IN ('null', '[]', '{}', '""', '" "')
)
SELECT location_id, day, agent_id, data_key, count(*) AS filled_calls,
  count(*) FILTER (WHERE filled.engaged) AS engaged_filled_calls, max(n.engaged) AS engaged_calls,
  count(*) FILTER (WHERE filled.engaged)::float / nullif(max(n.engaged), 0) AS fill_rate,
  max(n.engaged) < 20 AS is_small_sample
FROM filled JOIN (SELECT location_id, day, agent_id, count(*) FILTER (WHERE engaged) AS engaged
  FROM judged WHERE live GROUP BY 1, 2, 3) n USING (location_id, day, agent_id)
GROUP BY 1, 2, 3, 4
"""

_LANGUAGES = """
SELECT location_id, day, language, count(*) AS calls, coalesce(sum(d::numeric), 0) AS talk_seconds,
  coalesce(sum(d::numeric), 0)::float / 60 AS talk_minutes
FROM judged WHERE live AND day = ANY(CAST(:days AS date[])) GROUP BY 1, 2, 3
"""

_OUTCOMES = """
SELECT location_id, day, agent_id, CASE WHEN goal THEN 'goal' WHEN transferred THEN 'transferred'
    WHEN followed THEN 'follow_up' WHEN extracted OR captured THEN 'data_taken'
    WHEN engaged THEN 'answered' WHEN nobody_known OR d IS NULL THEN 'unclear'
    ELSE 'no_conversation' END AS outcome,
  count(*) AS calls, coalesce(sum(d::numeric), 0) AS talk_seconds,
  coalesce(sum(d::numeric), 0)::float / 60 AS talk_minutes
FROM judged WHERE live AND day = ANY(CAST(:days AS date[]))
GROUP BY 1, 2, 3, 4
"""

KEYS = {
    "daily_call_metrics": ("location_id", "day"),
    "agent_performance": ("location_id", "day", "agent_id"),
    "hourly_activity": ("location_id", "day", "hour"),
    "action_metrics": ("location_id", "day", "agent_id", "action_type", "action_name"),
    "data_capture_metrics": ("location_id", "day", "agent_id", "data_key"),
    "outcome_metrics": ("location_id", "day", "agent_id", "outcome"),
    "language_metrics": ("location_id", "day", "language"),
}

_QUERIES = {
    "daily_call_metrics": _DAILY,
    "agent_performance": _GROUPED.format(by="agent_id", measures=_MEASURES),
    "hourly_activity": _GROUPED.format(by="hour", measures=_MEASURES),
    "action_metrics": _ACTIONS,
    "data_capture_metrics": _CAPTURES,
    "outcome_metrics": _OUTCOMES,
    "language_metrics": _LANGUAGES,
}

Rows = dict[tuple[Any, ...], dict[str, Any]]


def prepare(db: sa.Connection, **values: Any) -> None:
    """Compute the facts of every call. ``values``: days, goals, turns, seconds, rate."""
    for statement in _TABLES.split(";"):
        db.exec_driver_sql(statement)
    db.execute(sa.text(_FACTS), values)
    db.execute(sa.text("CREATE INDEX ON judged (location_id, day)"))
    db.execute(sa.text("ANALYZE judged"))


def expected(db: sa.Connection, mart: str, **values: Any) -> Rows:
    """The mart as the oracle has it, by key."""
    rows = _by_key(db.execute(sa.text(_QUERIES[mart]), values).mappings(), mart)
    for row in rows.values():
        if "peak_found" in row:
            peak = row.pop("peak_found")
            row["peak_concurrent_calls"] = (peak or 0) if row["is_known"] else None
        if not row.pop("is_known", True):
            row.update(dict.fromkeys(MEASURES))
    return rows


def published(db: sa.Connection, mart: str) -> Rows:
    """The mart as its table has it, by key."""
    return _by_key(db.execute(sa.text(f"SELECT * FROM {mart}")).mappings(), mart)  # noqa: S608


def _by_key(rows: Any, mart: str) -> Rows:
    return {tuple(row[name] for name in KEYS[mart]): dict(row) for row in rows}

"""The application's role: it runs the product, and can change neither the tables nor the history.

``voiceai_app`` cannot log in; grant it to the login that runs the product. The role that migrates
owns the tables. One role for both works too (``standing`` says what that costs).
"""

from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.grants import APP
from voiceai_pipeline.database.tables import VERSION_TABLE, metadata
from voiceai_pipeline.database.view_sources import SCHEMA

_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

VERBS: Final = dict.fromkeys(metadata.tables, _ALL) | {
    "token_events": ("SELECT", "INSERT"),
    "page_logins": ("SELECT", "INSERT"),
    "content_openings": ("SELECT", "INSERT"),
    # Only ``migrate``, which the owner runs, writes these.
    "redaction_progress": ("SELECT",),
    "caller_key": ("SELECT",),
    VERSION_TABLE: ("SELECT",),
}
"""What the application may do, by table."""

DAGSTER_TABLES: Final = (
    *("asset_check_executions", "asset_daemon_asset_evaluations", "asset_event_tags"),
    *("asset_keys", "backfill_tags", "bulk_actions", "concurrency_limits", "concurrency_slots"),
    *("daemon_heartbeats", "dynamic_partitions", "event_logs", "instance_info", "instigators"),
    *("job_ticks", "jobs", "kvs", "pending_steps", "run_tags", "runs", "secondary_indexes"),
    "snapshots",
)
"""Dagster's tables. If they are in the same database, the application must write them too."""


def statements() -> list[str]:
    """The statements that give the role, if it exists, exactly its rights."""
    return [_GRANT]


def standing(db: sa.Connection) -> tuple[bool, str]:
    """Whether the current login has exactly the application's rights, and a sentence that says so
    or what to change."""
    login, is_owner, may_create, lacks = db.execute(_STANDING).one()
    if is_owner:
        return False, (
            f"the login {login} may do everything: a bug in the program, or an attacker who takes "
            f"it over, can change tables and rewrite the history of tokens. To prevent that, let a "
            f"login with the role {APP} run it: docs/settings.md"
        )
    if lacks:
        return False, (
            f"the login {login} lacks rights on {', '.join(lacks)}: as the owner, run "
            f"voiceai-pipeline migrate and GRANT {APP} TO {login}"
        )
    if may_create:
        return False, (
            f"the login {login} may create tables beside ours: as the owner of the schema, run "
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        )
    return True, f"{login} can change neither the tables nor the history of tokens"


_RIGHTS: Final = ", ".join(f"('{name}', '{', '.join(verbs)}')" for name, verbs in VERBS.items())
_DAGSTER: Final = ", ".join(f"'{name}'" for name in (*DAGSTER_TABLES, "alembic_version"))

_GRANT: Final = f"""
DO $voiceai$
DECLARE
    ours record;
    theirs record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP}') THEN
        RETURN;
    END IF;
    -- Taken back first, so that migrating again leaves the grants as they are, and their order.
    REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM {APP};
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM {APP};
    REVOKE ALL ON SCHEMA {SCHEMA} FROM {APP};
    EXECUTE format('GRANT USAGE ON SCHEMA %I, {SCHEMA} TO {APP}', current_schema());
    GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {APP};
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} TO {APP};
    FOR ours IN
        SELECT to_regclass(r.name) AS relation, r.verbs FROM (VALUES {_RIGHTS}) AS r(name, verbs)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM {APP}', ours.relation);
        EXECUTE format('GRANT %s ON %s TO {APP}', ours.verbs, ours.relation);
    END LOOP;
    FOR theirs IN
        SELECT c.oid::regclass AS relation, s.oid::regclass AS sequence,
               CASE c.relname WHEN 'alembic_version' THEN 'SELECT'
               ELSE 'SELECT, INSERT, UPDATE, DELETE' END AS verbs
        FROM pg_class c
        LEFT JOIN pg_depend d ON d.refobjid = c.oid AND d.deptype IN ('a', 'i')
        LEFT JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(ARRAY[{_DAGSTER}])
          AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT %s ON %s TO {APP}', theirs.verbs, theirs.relation);
        IF theirs.sequence IS NOT NULL THEN
            EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO {APP}', theirs.sequence);
        END IF;
    END LOOP;
END
$voiceai$
"""  # noqa: S608 - our own names, no input

_STANDING: Final = sa.text(
    f"""
    SELECT current_user,
           EXISTS (SELECT FROM pg_class WHERE oid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM
                   (VALUES {_RIGHTS}) AS o(name, verbs))) AND pg_has_role(relowner, 'USAGE')),
           has_schema_privilege(current_schema(), 'CREATE'),
           ARRAY(SELECT r.name FROM (VALUES {_RIGHTS}) AS r(name, verbs)
                 WHERE EXISTS (SELECT FROM unnest(string_to_array(r.verbs, ', ')) AS verb
                               WHERE NOT has_table_privilege(r.name, verb)) ORDER BY 1)
    """  # noqa: S608 - our own names, no input
)

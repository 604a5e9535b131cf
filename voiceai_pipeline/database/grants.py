"""Roles that cannot log in and are granted to logins: two for analysts, and one for the
application, whose grants are in ``app_role.py``.

``voiceai_analyst`` reads the views without content, ``voiceai_analyst_content`` those with content.
Neither may read a table or write anything. Supabase's web roles and PUBLIC get no access at all.
"""

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.tables import ADOPTED, VERSION_TABLE, metadata
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS

ANALYST: Final = "voiceai_analyst"
"""Reads calls without content, metrics, sync days and connections."""

CONTENT: Final = "voiceai_analyst_content"
"""Reads what was said and by whom; granted in addition to ANALYST."""

APP: Final = "voiceai_app"
"""Runs the product; owns nothing."""

ROLES: Final = (ANALYST, CONTENT)

_WEB_ROLES: Final = ("anon", "authenticated")
"""Supabase's roles for web pages, which by default may access every new table in public."""


def statements() -> list[str]:
    """The statements that create the roles, if this user may, and grant each one only its views."""
    return [_CREATE_ROLES, _GRANT]


def missing_roles(db: sa.Connection) -> list[str]:
    """The roles that this server lacks."""
    present = set(
        db.execute(
            sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles)"),
            {"roles": [*ROLES, APP]},
        ).scalars()
    )
    return [role for role in (*ROLES, APP) if role not in present]


def missing_roles_text(roles: Iterable[str]) -> str:
    """The operator's message about missing roles: the consequence and the statements to run."""
    statements = " ".join(f"CREATE ROLE {role} NOLOGIN;" for role in roles)
    return (
        "Roles are missing, because this database user may not create them: analysts cannot read, "
        "or the program cannot run without owning its tables. Everything else works. "
        f"Ask a database administrator to run: {statements} Then run: "
        "voiceai-pipeline migrate"
    )


def _array(names: Iterable[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"ARRAY[{quoted}]::text[]"


_TABLES: Final = (*metadata.tables, VERSION_TABLE)
_READS: Final = ", ".join(
    f"('{CONTENT if view.is_content else ANALYST}', '{view.full_name}')" for view in VIEWS
)

# Roles belong to the server, not to the database: a migration of another database may have created
# them, or may be creating them now.
_CREATE_ROLES: Final = f"""
DO $voiceai$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY {_array((*ROLES, APP))} LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END
$voiceai$
"""

_GRANT: Final = f"""
DO $voiceai$
DECLARE
    reader record;
    owned record;
    granted record;
BEGIN
    FOR reader IN
        SELECT quote_ident(rolname) AS name, rolname = ANY({_array(ROLES)}) AS is_analyst
        FROM pg_roles WHERE rolname = ANY({_array(ROLES + _WEB_ROLES)})
        UNION ALL SELECT 'PUBLIC', false
    LOOP
        FOR owned IN
            SELECT 'TABLE' AS kind, to_regclass(name) AS relation
            FROM unnest({_array(_TABLES)}) AS name
            -- Other grants on the source system's tables belong to the source system.
            WHERE to_regclass(name) IS NOT NULL
              AND (reader.is_analyst OR name <> ALL({_array(ADOPTED)}))
            UNION ALL
            SELECT 'SEQUENCE', s.oid::regclass
            FROM unnest({_array(_TABLES)}) AS name
            JOIN pg_depend d ON d.refobjid = to_regclass(name) AND d.deptype IN ('a', 'i')
            JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s', owned.kind, owned.relation, reader.name);
        END LOOP;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM %s', reader.name);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM %s', reader.name);
        EXECUTE format('REVOKE ALL ON SCHEMA {SCHEMA} FROM %s', reader.name);
        EXECUTE format('REVOKE ALL ON FUNCTION token_events_are_only_added() FROM %s', reader.name);
    END LOOP;
    FOR granted IN
        SELECT r.role, r.view FROM (VALUES {_READS}) AS r(role, view)
        JOIN pg_roles ON rolname = r.role
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA {SCHEMA} TO %I', granted.role);
        EXECUTE format('GRANT SELECT ON %s TO %I', granted.view, granted.role);
        -- A view calls functions with the rights of its reader; these run with their owner's.
        IF granted.role = '{ANALYST}' THEN
            EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} TO %I', granted.role);
        END IF;
    END LOOP;
END
$voiceai$
"""  # noqa: S608 - our own names, no input

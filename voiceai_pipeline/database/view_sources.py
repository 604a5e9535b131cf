"""The functions through which the views read the source system's tables.

PostgreSQL records no dependency on names in a function's text, so the source system can alter and
drop any column; a view would prevent that. They run with their owner's rights, as views do.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from voiceai_pipeline.core.connection import SERVICE
from voiceai_pipeline.database.current_connections import ALL_CONNECTIONS
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.tables import sync_status

SCHEMA: Final = "voiceai"

SCHEMA_STATEMENT: Final = f"""
DO $voiceai$
BEGIN
    -- CREATE SCHEMA IF NOT EXISTS would need the privilege even if it exists.
    IF to_regnamespace('{SCHEMA}') IS NULL THEN
        CREATE SCHEMA {SCHEMA};
    END IF;
END
$voiceai$
"""

_DIALECT: Final = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

USERS: Final = sa.table(
    "users_of_views",
    *(
        sa.column(name, kind)
        for name, kind in (
            ("user", sa.Uuid()),
            ("user_name", sa.Text()),
            ("state", sa.Text()),
            ("connection_reason", sa.Text()),
            ("connection_since", UtcDateTime()),
            ("location_id", sa.Text()),
            ("location_name", sa.Text()),
            ("location_timezone", sa.Text()),
            ("company_id", sa.Text()),
            ("last_failure", sa.Text()),
        )
    ),
)
SYNCS: Final = sa.table(
    "syncs_of_views",
    *(
        sa.column(name, kind)
        for name, kind in (
            ("user_id", sa.Uuid()),
            ("last_sync_at", UtcDateTime()),
            ("last_sync_status", sa.Text()),
            ("last_sync_message", sa.Text()),
            ("records_synced", sa.Integer()),
        )
    ),
)


def sql(query: sa.Select[Any]) -> str:
    """The text of a query, with its values inlined."""
    return str(query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


def function(table: sa.TableClause) -> sa.TableValuedAlias:
    """The function that returns a table: ``FROM voiceai.<name>()``."""
    call: sa.Function[Any] = getattr(getattr(sa.func, SCHEMA), table.name)()
    return call.table_valued(*table.columns)


def statements() -> list[str]:
    """The statements that create both functions and set their search path: ours, then ``pg_temp``,
    or a reader's temporary tables would come first."""
    connection = ALL_CONNECTIONS.order_by(None).subquery("connection")
    last_sync = (
        sa.select(sync_status)
        # The source system may lack a unique key here.
        .ext(postgresql.distinct_on(sync_status.c.user_id))
        .where(sync_status.c.service == SERVICE)
        .order_by(sync_status.c.user_id, sync_status.c.last_sync_at.desc().nulls_last())
        .subquery("last_sync")
    )
    created = [_function_of(USERS, connection), _function_of(SYNCS, last_sync)]
    return [*created, *map(_search_path_of, (USERS, SYNCS))]


def _function_of(table: sa.TableClause, source: sa.Subquery) -> str:
    returned = ", ".join(
        f'"{column.name}" {column.type.compile(dialect=_DIALECT)}' for column in table.columns
    )
    # The types that the views promise, even if the source system changes its columns' types.
    body = sa.select(*(sa.cast(source.c[column.name], column.type) for column in table.columns))
    return (
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.{table.name}() RETURNS TABLE ({returned}) "
        "LANGUAGE sql STABLE SECURITY DEFINER "
        f"AS $voiceai$\n{sql(body)}\n$voiceai$"
    )


def _search_path_of(table: sa.TableClause) -> str:
    return (
        f"DO $voiceai$ BEGIN EXECUTE 'ALTER FUNCTION {SCHEMA}.{table.name}() SET search_path = ' "
        "|| current_setting('search_path') || ', pg_temp'; END $voiceai$"
    )

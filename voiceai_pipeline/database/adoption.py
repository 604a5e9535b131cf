"""Checks which existing tables a database has, and what prevents adopting and migrating them.

It only reads the catalog; ``migrate.py`` creates and alters the tables.
"""

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.core.connection import SERVICE
from voiceai_pipeline.database import view_sources
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.tables import ADOPTED, metadata

_TEXT: Final = frozenset({"text", "character varying"})
_DOCUMENTED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "users": {"id": frozenset({"uuid"})},
    "api_keys": {
        "id": frozenset({"uuid"}),
        "user_id": frozenset({"uuid"}),
        "service": _TEXT,
        "access_token": _TEXT,
        "refresh_token": _TEXT,
        "token_expires_at": frozenset({"timestamp with time zone"}),
        "location_id": _TEXT,
        "location_name": _TEXT,
        "company_id": _TEXT,
        "is_active": frozenset({"boolean"}),
        "created_at": frozenset({"timestamp with time zone"}),
        "updated_at": frozenset({"timestamp with time zone"}),
    },
    "sync_status": {
        "id": frozenset({"uuid"}),
        "service": _TEXT,
        "user_id": frozenset({"uuid"}),
        "last_sync_at": frozenset({"timestamp with time zone"}),
        "last_sync_status": _TEXT,
        "last_sync_message": _TEXT,
        "records_synced": frozenset({"integer", "bigint"}),
        "created_at": frozenset({"timestamp with time zone"}),
        "updated_at": frozenset({"timestamp with time zone"}),
    },
}
"""The source system's tables, with the column types that we support (source-system.md)."""

OURS: Final = tuple(sorted({*metadata.tables, *(mart.name for mart in ALL_MARTS)} - {*ADOPTED}))
"""The tables that only we create: the source system has none of these names (CONTRACT 7)."""


def is_empty(db: sa.Connection) -> bool:
    """True if the search path has none of our tables and none of the source system's."""
    return not _existing(db, (*_DOCUMENTED, *OURS))


def table_obstacles(db: sa.Connection) -> list[str]:
    """Every table and column of an unmigrated database that we can neither adopt nor create."""
    obstacles = [not_ours(name) for name in _existing(db, OURS)]
    for table, columns in _DOCUMENTED.items():
        found = _columns(db, table)
        if not found:
            continue
        kind = _kind_obstacles(db, table)
        if kind:
            # It cannot be adopted, so missing columns do not matter.
            obstacles += kind
            continue
        obstacles += _too_short(db, table)
        for column, types in columns.items():
            wanted = " or ".join(sorted(types))
            if column not in found:
                obstacles.append(f"Table {table} lacks column {column} ({wanted}).")
            elif found[column] not in types:
                obstacles.append(f"{table}.{column} is {found[column]}, not {wanted}.")
        known = metadata.tables[table].columns
        for ours in known:
            wanted = ours.type.compile(dialect=db.dialect).lower()
            if ours.name in columns or ours.name not in found:
                continue
            if found[ours.name] not in (_TEXT if wanted == "text" else {wanted}):
                obstacles.append(f"{table}.{ours.name} is {found[ours.name]}, not {wanted}.")
        if table != "users":
            obstacles += [
                f"{table}.{column} is required and has no default, so the pipeline, which does not "
                "know it, cannot add rows."
                for column in sorted(_required(db, table) - set(known.keys()))
            ]
    return obstacles


def not_ours(table: str) -> str:
    """The operator's message about a table that has the name of one of ours."""
    return (
        f"Table {table} already exists and is not ours: rename it, or give the pipeline a separate "
        "database."
    )


def _kind_obstacles(db: sa.Connection, table: str) -> list[str]:
    """Why an existing relation is not a table that this user may alter; empty if it is one."""
    query = sa.text(
        "SELECT relkind, pg_has_role(relowner, 'USAGE') AS is_owner, "
        "quote_ident(current_user) AS me FROM pg_class WHERE oid = to_regclass(:table)"
    )
    found = db.execute(query, {"table": table}).one()
    if found.relkind not in ("r", "p"):
        word = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}.get(
            found.relkind, "RELATION"
        )
        return [
            f"{table} is a {word.lower()}, not a table, so no column can be added. Rename it, or "
            f"give the pipeline a separate database: ALTER {word} {table} RENAME TO {table}_old;"
        ]
    if not found.is_owner:
        return [
            f"Table {table} has another owner, so no column can be added. Ask the owner to run: "
            f"ALTER TABLE {table} OWNER TO {found.me};"
        ]
    return []


_SHORT: Final = 200
_LONGEST: Final[Mapping[str, int]] = {
    "access_token": 8000,
    "refresh_token": 8000,
    "last_sync_message": 2000,
    "service": len(SERVICE),
    "last_sync_status": len("success"),
    "name": len("HighLevel"),
    "location_id": 64,
    "company_id": 64,
    "user_type": len("Location"),
    "connection_state": 32,
    "connection_reason": 32,
    "last_failure": 32,
    "location_timezone": 64,
    "scope": 2000,
}
"""The most characters that we write into each column; ``_SHORT`` for others. Encrypted tokens are
longer than plain ones."""


def _too_short(db: sa.Connection, table: str) -> list[str]:
    query = sa.text(
        "SELECT attname, atttypmod - 4 AS length FROM pg_attribute "
        "WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped "
        "AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 0"
    )
    written = set(metadata.tables[table].columns.keys())
    if table == "users":
        written = set()  # only read
    return [
        f"{table}.{row.attname} holds {row.length} characters, and up to "
        f"{_LONGEST.get(row.attname, _SHORT)} are written. Run: "
        f"ALTER TABLE {table} ALTER COLUMN {row.attname} TYPE text;"
        for row in db.execute(query, {"table": table})
        if row.attname in written and row.length < _LONGEST.get(row.attname, _SHORT)
    ]


def schema_obstacles(db: sa.Connection) -> list[str]:
    """Why this user cannot create tables or the views' schema, or replace its views; empty if the
    user can."""
    here = db.execute(
        sa.text(
            "SELECT quote_ident(current_schema()) AS name, quote_ident(current_user) AS me, "
            "       has_schema_privilege(current_schema(), 'CREATE') AS may "
            "WHERE current_schema() IS NOT NULL"
        )
    ).one_or_none()
    if here is None or not here.may:
        name, me = (here.name, here.me) if here else ("public", "CURRENT_USER")
        return [
            f"The user may not create tables in the schema {name}. Ask its owner to run: "
            f"GRANT CREATE, USAGE ON SCHEMA {name} TO {me};"
        ]
    query = sa.text(
        "SELECT current_user AS me, current_database() AS here, "
        "       to_regnamespace(:schema) IS NOT NULL AS is_there, "
        "       CASE WHEN to_regnamespace(:schema) IS NULL "
        "            THEN has_database_privilege(current_database(), 'CREATE') "
        "            ELSE pg_has_role((SELECT nspowner FROM pg_namespace "
        "                              WHERE nspname = :schema), 'USAGE') END AS may"
    )
    found = db.execute(query, {"schema": view_sources.SCHEMA}).one()
    if found.may:
        return []
    if found.is_there:
        return [
            f"The schema {view_sources.SCHEMA} has another owner. Ask the owner to run: "
            f'ALTER SCHEMA {view_sources.SCHEMA} OWNER TO "{found.me}";'
        ]
    return [
        f"The user {found.me} may not create the schema {view_sources.SCHEMA}. Ask the database "
        f'owner to run: CREATE SCHEMA {view_sources.SCHEMA} AUTHORIZATION "{found.me}";'
    ]


def _existing(db: sa.Connection, tables: tuple[str, ...]) -> list[str]:
    present = sa.text(
        "SELECT name FROM unnest(CAST(:names AS text[])) AS name "
        "WHERE to_regclass(name) IS NOT NULL"
    )
    return list(db.execute(present, {"names": list(tables)}).scalars())


def _columns(db: sa.Connection, table: str) -> dict[str, str]:
    query = sa.text(
        "SELECT attname, format_type(atttypid, NULL) AS type FROM pg_attribute "
        "WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
    )
    return {row.attname: row.type for row in db.execute(query, {"table": table})}


def _required(db: sa.Connection, table: str) -> set[str]:
    query = sa.text(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 "
        "AND NOT attisdropped AND attnotnull AND NOT atthasdef AND attidentity = ''"
    )
    return set(db.execute(query, {"table": table}).scalars())

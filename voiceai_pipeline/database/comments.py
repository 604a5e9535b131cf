"""Writes the comments of the tables, marts and views into the database, so that users' own tools
can show them.
"""

from collections.abc import Iterator
from typing import Final

from voiceai_pipeline.database.tables import ADOPTED, VERSION_TABLE, metadata
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.database.views import VIEWS

_SCHEMA_COMMENT: Final = (
    "Views for analysts with their own tools; docs/sql.md says which role may read which."
)


def statement() -> str:
    """One statement that writes all comments that are missing or different.

    Existing comments on the source system's tables are kept, because tools may depend on them.
    """
    rows = ",\n".join(
        f"({_literal(relation)}, {_literal(column)}, {_literal(says)}, "
        f"{'true' if relation in ADOPTED else 'false'})"
        for relation, column, says in _comments()
    )
    return _STATEMENT.format(rows=rows, schema=SCHEMA, schema_comment=_literal(_SCHEMA_COMMENT))


def _comments() -> Iterator[tuple[str, str | None, str]]:
    for table in metadata.sorted_tables:
        yield table.name, None, table.comment or ""
        for column in table.columns:
            yield table.name, column.name, column.comment or ""
    yield VERSION_TABLE, None, "Alembic's table: the migration that this database is at."
    yield VERSION_TABLE, "version_num", "The latest migration that ran."
    for view in VIEWS:
        yield view.full_name, None, view.comment
        for name, says in view.columns.items():
            yield view.full_name, name, says


def _literal(text: str | None) -> str:
    if text is None:
        return "NULL"
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


_STATEMENT: Final = """
DO $voiceai$
DECLARE
    wanted record;
BEGIN
    COMMENT ON SCHEMA {schema} IS {schema_comment};
    FOR wanted IN
        SELECT c.oid::regclass AS relation, c.relkind, w.column_name, w.says
        FROM (VALUES
{rows}
        ) AS w(relation, column_name, says, is_adopted)
        JOIN pg_class c ON c.oid = to_regclass(w.relation)
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.column_name
        CROSS JOIN LATERAL (
            SELECT CASE WHEN w.column_name IS NULL THEN obj_description(c.oid, 'pg_class')
                        ELSE col_description(c.oid, a.attnum) END AS text
        ) AS present
        WHERE present.text IS DISTINCT FROM w.says
          AND NOT (w.is_adopted AND present.text IS NOT NULL)
    LOOP
        IF wanted.column_name IS NULL THEN
            EXECUTE format('COMMENT ON %s %s IS %L',
                CASE WHEN wanted.relkind = 'v' THEN 'VIEW' ELSE 'TABLE' END,
                wanted.relation, wanted.says);
        ELSE
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L',
                wanted.relation, wanted.column_name, wanted.says);
        END IF;
    END LOOP;
END
$voiceai$
"""

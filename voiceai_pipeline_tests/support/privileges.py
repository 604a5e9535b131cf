"""What a login may do to every relation of a database, found out by doing it and by asking."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline_tests.support.analysts import connect_as, is_allowed, plain

VERBS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")


@dataclass(frozen=True)
class Relation:
    """Something of pg_class outside PostgreSQL's own schemas."""

    oid: int
    schema: str
    name: str
    kind: str
    column: str | None

    @property
    def quoted(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text,
       (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum LIMIT 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


def relations(database: Secret) -> list[Relation]:
    with psycopg.connect(plain(database.reveal())) as db:
        return [Relation(*row) for row in db.execute(RELATIONS)]


def attempts(relation: Relation) -> dict[str, sql.Composable]:
    """Each verb as a statement that changes nothing where it is allowed."""
    table, column = relation.quoted, sql.Identifier(relation.column or "")
    if relation.kind == "S":
        return {
            "SELECT": sql.SQL("SELECT last_value FROM {}").format(table),
            "USAGE": sql.SQL("SELECT nextval({})").format(sql.Literal(table.as_string())),
        }
    reading = {"SELECT": sql.SQL("SELECT * FROM {} LIMIT 0").format(table)}
    if relation.kind == "v":
        return reading
    return reading | {
        "INSERT": sql.SQL(
            "INSERT INTO {0} OVERRIDING SYSTEM VALUE SELECT * FROM {0} WHERE false"
        ).format(table),
        "UPDATE": sql.SQL("UPDATE {0} SET {1} = DEFAULT WHERE false").format(table, column),
        "DELETE": sql.SQL("DELETE FROM {} WHERE false").format(table),
        "TRUNCATE": sql.SQL("TRUNCATE {}").format(table),
        "LOCK": sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table),
    }


def allowed(who: str, database: Secret) -> set[tuple[str, str, str]]:
    """Schema, relation and verb of all that a login may do, by doing it and by asking."""
    found: set[tuple[str, str, str]] = set()
    with connect_as(who, database) as db:
        for relation in relations(database):
            for verb, statement in attempts(relation).items():
                if is_allowed(db, statement):
                    found.add((relation.schema, relation.name, verb))
            for verb in VERBS if relation.kind != "S" else ():
                said = db.execute(
                    "SELECT has_table_privilege(%s::oid, %s)", (relation.oid, verb)
                ).fetchone()
                if said == (True,):
                    found.add((relation.schema, relation.name, verb))
    return found

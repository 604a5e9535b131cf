"""Comments: one on everything, and none of the source system's overwritten."""

import psycopg

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline_tests.support.analysts import plain

UNEXPLAINED = """
SELECT c.oid::regclass::text || coalesce('.' || a.attname, '')
FROM pg_class c
LEFT JOIN LATERAL (
    SELECT NULL::name AS attname, 0 AS attnum
    UNION ALL SELECT attname, attnum FROM pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
) AS a ON true
WHERE c.relnamespace IN ('public'::regnamespace, 'voiceai'::regnamespace)
  AND c.relkind IN ('r', 'p', 'v', 'm')
  AND coalesce(btrim(CASE WHEN a.attnum = 0 THEN obj_description(c.oid, 'pg_class')
                          ELSE col_description(c.oid, a.attnum) END), '') = ''
"""


def test_every_table_view_and_column_has_a_comment(database: Secret) -> None:
    with psycopg.connect(plain(database.reveal())) as db:
        assert db.execute(UNEXPLAINED.encode()).fetchall() == []


def test_the_source_systems_own_comments_are_kept(empty_database: Secret) -> None:
    engine = open_engine(empty_database)
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY, first_name text)")
        db.exec_driver_sql("COMMENT ON TABLE users IS '@graphql({\"totalCount\": true})'")
        db.exec_driver_sql("COMMENT ON COLUMN users.first_name IS 'theirs'")

    migrate.upgrade(engine)

    with engine.begin() as db:
        said = db.exec_driver_sql(
            "SELECT obj_description('users'::regclass, 'pg_class'), "
            "col_description('users'::regclass, 2), col_description('users'::regclass, 1)"
        ).one()
    engine.dispose()
    assert tuple(said) == ('@graphql({"totalCount": true})', "theirs", "Never changes; names may.")

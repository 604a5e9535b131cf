"""Row level security: it works, or every command stops with the statement that grants access."""

import secrets
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.database import migrate, row_security
from voiceai_pipeline_tests.support.schemas import AS_FOUND, run

TABLES = ("users", "api_keys", "sync_status")
OWN = "USING (id = '00000000-0000-4000-8000-000000000009')"


@pytest.fixture
def role(empty: sa.Engine) -> Iterator[str]:
    """A plain role that owns the source system's tables, which have a user each."""
    name = f"app_{secrets.token_hex(4)}"
    run(empty, AS_FOUND, "INSERT INTO users (id) VALUES (gen_random_uuid())")
    run(empty, f"CREATE ROLE {name}", f"GRANT CREATE, USAGE ON SCHEMA public TO {name}")
    run(empty, f"GRANT CREATE ON DATABASE {empty.url.database} TO {name}")
    for table in TABLES:
        run(empty, f"ALTER TABLE {table} OWNER TO {name}")
    yield name
    run(empty, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def as_role(engine: sa.Engine, role: str) -> sa.Engine:
    """The same database, with every connection as a role."""
    options = f"{engine.url.query.get('options', '')} -crole={role}".strip()
    url = engine.url.update_query_dict({"options": options})
    return sa.create_engine(url, poolclass=sa.NullPool)


def test_an_owner_is_not_subject_to_its_own_tables_security(empty: sa.Engine, role: str) -> None:
    run(empty, *(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY" for table in TABLES))
    owner = as_role(empty, role)
    migrate.upgrade(owner)
    with owner.connect() as db:
        assert len(connections.all_connections(db)) == 1


@pytest.mark.parametrize(
    "policies",
    [
        (),
        (f"CREATE POLICY own ON users {OWN}",),
        ("CREATE POLICY own ON users FOR SELECT USING (true)",),
        (
            "CREATE POLICY all_ ON users USING (true)",
            f"CREATE POLICY less ON users AS RESTRICTIVE {OWN}",
        ),
    ],
    ids=["none", "some rows", "reading only", "narrowed again"],
)
def test_hidden_rows_stop_everything_with_the_statement_that_opens_them(
    policies: tuple[str, ...], empty: sa.Engine, role: str
) -> None:
    owner = as_role(empty, role)
    migrate.upgrade(owner)
    for table in TABLES:
        run(
            empty,
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        )
    run(empty, *policies)
    opening = f"CREATE POLICY voiceai_pipeline ON public.users TO {role} USING (true);"

    with pytest.raises(migrate.IncompatibleDatabaseError) as refused:
        migrate.upgrade(owner)
    assert opening in str(refused.value)
    with owner.connect() as db:
        assert opening in " ".join(row_security.obstacles(db))
        with pytest.raises(PipelineError) as hidden:
            connections.all_connections(db)
    assert hidden.value.failure is FailureClass.ROWS_HIDDEN
    assert opening in str(hidden.value)

    if "AS RESTRICTIVE" not in " ".join(policies):
        with empty.begin() as db, owner.connect() as ours:
            for text in row_security.obstacles(ours):
                db.exec_driver_sql(text.partition("run: ")[2])
        migrate.upgrade(owner)
        with owner.connect() as db:
            assert len(connections.all_connections(db)) == 1


def test_tables_of_another_owner_are_refused_with_the_statement_that_helps(
    empty: sa.Engine, role: str
) -> None:
    run(empty, "ALTER TABLE users OWNER TO CURRENT_USER")
    with pytest.raises(migrate.IncompatibleDatabaseError) as refused:
        migrate.upgrade(as_role(empty, role))
    assert f"ALTER TABLE users OWNER TO {role};" in str(refused.value)
    run(empty, f"REVOKE CREATE ON SCHEMA public FROM {role}, PUBLIC")
    with pytest.raises(migrate.IncompatibleDatabaseError) as no_schema:
        migrate.upgrade(as_role(empty, role))
    assert f"GRANT CREATE, USAGE ON SCHEMA public TO {role};" in str(no_schema.value)

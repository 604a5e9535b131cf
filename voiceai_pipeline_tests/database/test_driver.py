"""Statements past SQLAlchemy fail as others do."""

import pytest
import sqlalchemy as sa

from voiceai_pipeline.database.driver import rows_of
from voiceai_pipeline.database.engine import autocommit, is_of_data, is_unreachable


def test_a_refused_statement_is_an_error_of_sqlalchemys_and_costs_no_connection(
    engine: sa.Engine,
) -> None:
    with autocommit(engine) as db:
        with pytest.raises(sa.exc.DBAPIError) as error:
            rows_of(db, "SELECT %s::int", ["no number"])
        assert is_of_data(error.value)
        assert rows_of(db, "SELECT %s::int", [1]) == [(1,)]


def test_a_connection_that_the_server_closed_is_not_used_again(engine: sa.Engine) -> None:
    with engine.connect() as other, autocommit(engine) as db:
        ((pid,),) = rows_of(db, "SELECT pg_backend_pid()", [])
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(sa.exc.OperationalError) as error:
            rows_of(db, "SELECT 1", [])
    assert is_unreachable(error.value)
    with autocommit(engine) as db:
        assert rows_of(db, "SELECT 1", []) == [(1,)]

"""Connections to the database: the pool never hands out one whose server has gone meanwhile."""

import logging
from datetime import datetime

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import engine as engines
from voiceai_pipeline.database.engine import UtcDateTime

PID = sa.text("SELECT pg_backend_pid()")


def test_a_connection_that_the_server_closed_while_idle_is_replaced(
    database: Secret, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_FRESH", 0.0)
    idle = engines.open_engine(database)
    with idle.connect() as db:
        ended = db.execute(PID).scalar_one()
    with engine.connect() as db:
        db.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": ended})
    with idle.connect() as db:
        assert db.execute(PID).scalar_one() != ended
    idle.dispose()


def test_no_value_that_is_read_or_written_is_in_a_log_whatever_its_level(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    with engine.begin() as db:
        said = db.execute(sa.text("SELECT CAST(:word AS text)"), {"word": "what a caller said"})
        assert said.scalar_one() == "what a caller said"
    assert "SELECT CAST(" in caplog.text
    assert "what a caller said" not in caplog.text


def test_a_naive_time_never_reaches_the_database() -> None:
    with pytest.raises(ValueError, match="naive"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), None)  # noqa: DTZ001

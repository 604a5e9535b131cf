"""Signs of life: given while a run works, and missed when it is gone."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import run_heartbeats
from voiceai_pipeline.calls.run_heartbeats import Sign
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until

QUICK = timedelta(milliseconds=10)
NOW, AN_HOUR = timedelta(), timedelta(hours=1)


def signs(engine: sa.Engine, silence: timedelta = NOW) -> list[Sign]:
    with engine.begin() as db:
        return run_heartbeats.silent(db, silence)


def test_a_run_gives_signs_of_life_until_it_ends(engine: sa.Engine) -> None:
    with run_heartbeats.beating(engine, "one", QUICK):
        wait_until(lambda: signs(engine))
        (first,) = signs(engine)
        wait_until(lambda: signs(engine)[0].seen_at > first.seen_at)
        assert (first.run_id, first.process.split()[0]) == ("one", "process")
        assert signs(engine, AN_HOUR) == []
    assert signs(engine) == []


def test_a_run_that_fails_leaves_no_sign(engine: sa.Engine) -> None:
    def fail() -> None:
        with run_heartbeats.beating(engine, "one", QUICK):
            wait_until(lambda: signs(engine))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signs(engine) == []


def test_a_database_that_is_away_costs_a_run_nothing() -> None:
    nowhere = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
    engine = open_engine(Secret(nowhere))
    with run_heartbeats.beating(engine, "one", QUICK):
        pass
    engine.dispose()

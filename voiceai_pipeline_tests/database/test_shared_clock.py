"""The database's clock, read once a second for many threads."""

import sqlalchemy as sa

from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.database.shared_clock import SharedClock
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.statements import counted


def test_it_is_never_ahead_of_the_database_and_hardly_behind(engine: sa.Engine) -> None:
    clock = SharedClock(engine)
    for _ in range(50):
        said = clock.now()
        with engine.connect() as db:
            now = database_now(db)
        assert 0 <= (now - said).total_seconds() < 5


def test_it_asks_once_a_second_and_goes_on_in_between(engine: sa.Engine) -> None:
    seconds = [0.0]
    clock = SharedClock(engine, monotonic=lambda: seconds[0])
    with counted(engine) as statements:
        first = clock.now()
        seconds[0] = 0.5
        assert (clock.now() - first).total_seconds() == 0.5
        assert len(statements) == 1
        seconds[0] = 1.0
        clock.now()
        assert len(statements) == 2


def test_a_simulated_clock_needs_no_database(engine: sa.Engine, clock: Clock) -> None:
    with counted(engine) as statements:
        assert SharedClock(engine, clock).now() == clock.now
    assert statements == []

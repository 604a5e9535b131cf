"""Units of work in the database: each is taken by one worker, and done by who still holds it."""

import threading
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import work_units
from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.calls.work_units import Unit
from voiceai_pipeline.core.connection import Connection, ConnectionState, User

SINCE = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAYS = [date(2026, 11, 18), date(2026, 11, 19)]
HOUR = timedelta(hours=1)
ADA, BOB = UUID(int=1), UUID(int=2)
LEADER = "run 1"


def task(location_id: str, known: set[tuple[UUID, date]] | None = None) -> Task:
    users = [Connection(User(one, "Ada"), ConnectionState.CONNECTED) for one in (ADA, BOB)]
    return Task(location_id, users, DAYS, known)


@pytest.fixture
def many(engine: sa.Engine) -> list[str]:
    names = [f"location {n:02}" for n in range(40)]
    with engine.begin() as db:
        work_units.post(db, LEADER, [task(name) for name in names], SINCE)
    return names


def take(engine: sa.Engine, holder: UUID, at_most: int = 99, after: str = "") -> list[str]:
    with engine.begin() as db:
        units = work_units.take(db, LEADER, holder, at_most, HOUR, after)
    return [unit.location_id for unit in units]


def expire(engine: sa.Engine) -> None:
    with engine.begin() as db:
        db.execute(sa.text("UPDATE work_units SET expires_at = now() - interval '1 second'"))


def left(engine: sa.Engine) -> set[str]:
    with engine.begin() as db:
        return set(db.execute(sa.text("SELECT location_id FROM work_units")).scalars())


def test_a_unit_is_taken_as_it_was_offered(engine: sa.Engine) -> None:
    known = {(BOB, DAYS[1]), (UUID(int=3), DAYS[0])}
    with engine.begin() as db:
        work_units.post(db, LEADER, [task("a", known), task("b", None), task("c", set())], SINCE)
        units = work_units.take(db, LEADER, uuid4(), 9, HOUR, "")
        since = work_units.since(db, LEADER)
    users = [ADA, BOB]
    assert units == [
        Unit("a", users, DAYS, {(BOB, DAYS[1])}, SINCE),
        Unit("b", users, DAYS, None, SINCE),
        Unit("c", users, DAYS, set(), SINCE),
    ]
    assert since == SINCE


def test_workers_at_once_take_each_unit_exactly_once_and_do_not_wait(
    engine: sa.Engine, many: list[str]
) -> None:
    taken: list[str] = []
    start = threading.Barrier(4)

    def work() -> None:
        me = uuid4()
        start.wait()
        while found := take(engine, me, 3):
            taken.extend(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with engine.begin() as slow:  # a worker that takes two, and does not commit
        kept = work_units.take(slow, LEADER, uuid4(), 2, HOUR, "")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == many[2:]
    assert [unit.location_id for unit in kept] == many[:2]


def test_who_lost_a_unit_neither_extends_nor_ends_nor_returns_it(
    engine: sa.Engine, many: list[str]
) -> None:
    slow, heir = uuid4(), uuid4()
    assert take(engine, slow, 3) == many[:3]
    assert take(engine, heir, 1) == many[3:4]
    expire(engine)
    assert take(engine, heir, 2) == many[:2]
    with engine.begin() as db:
        work_units.finish(db, LEADER, slow, many[:1])
        work_units.give_back(db, LEADER, slow, many[:1])
        work_units.keep(db, LEADER, slow, many[:3], HOUR)
        assert work_units.free(db) == {LEADER: 37}  # the third is the loser's again
        work_units.finish(db, LEADER, heir, many[:2])
        work_units.give_back(db, LEADER, slow, many[:3])
        assert work_units.free(db) == {LEADER: 38}
    assert left(engine) == set(many[2:])


def test_a_worker_goes_on_behind_the_units_that_it_took(engine: sa.Engine, many: list[str]) -> None:
    me = uuid4()
    assert take(engine, me, 2) == many[:2]
    assert take(engine, me, 2, many[9]) == many[10:12]


def test_the_work_of_a_run_goes_with_it_and_no_other(engine: sa.Engine, many: list[str]) -> None:
    with engine.begin() as db:
        work_units.post(db, "run 2", [task(many[0])], SINCE)
        work_units.forget(db, LEADER)
        assert work_units.free(db) == {"run 2": 1}
        assert work_units.since(db, LEADER) is None

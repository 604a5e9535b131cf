"""Leases in the database: one holder at a time."""

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.calls import leases


def test_of_many_runs_that_want_a_lease_one_gets_it_and_it_expires(engine: sa.Engine) -> None:
    won: list[UUID] = []
    start = threading.Barrier(8)

    def want() -> None:
        me = uuid4()
        start.wait()
        with engine.begin() as db:
            if leases.acquire(db, ["b", "a"], me, None, timedelta(hours=1)) == {"a", "b"}:
                won.append(me)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    heir = uuid4()
    with engine.begin() as db:
        assert leases.acquire(db, ["a"], heir, None, timedelta(hours=1)) == set()
        assert leases.extend(db, ["a"], heir, timedelta(hours=1)) == set()
    with engine.begin() as db:
        db.execute(sa.text("UPDATE location_leases SET expires_at = now() - interval '1 second'"))
        assert leases.acquire(db, ["a"], heir, None, timedelta(hours=1)) == {"a"}
    with engine.begin() as db:
        assert leases.extend(db, ["a", "b"], winner, timedelta(hours=1)) == {"b"}
        leases.release(db, ["a", "b"], winner)
        assert leases.holders(db, ["a", "b"]).keys() == {"a"}

"""The worker pool: a blocked worker gives up its slot, and no other does."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from voiceai_pipeline.calls.worker_pool import WorkerPool

PATIENCE = 120.0
"""Seconds for what happens at once."""


class Work:
    """A reader that reads until the test ends it."""

    def __init__(self, pool: WorkerPool[None], *, waits: bool) -> None:
        self.began, self.end = threading.Event(), threading.Event()
        self.future: Future[None] = pool.submit(self._read, lambda _seconds: waits)

    def _read(self) -> None:
        self.began.set()
        assert self.end.wait(PATIENCE)

    def has_begun(self) -> bool:
        return self.began.wait(PATIENCE)


@pytest.fixture
def pool() -> Iterator[WorkerPool[None]]:
    """Of four at work."""
    pool = WorkerPool[None](4, slow=0.01)
    yield pool
    pool.close()


def begin(pool: WorkerPool[None], count: int, *, waits: bool = False) -> list[Work]:
    return [Work(pool, waits=waits) for _ in range(count)]


def end(*works: Work) -> None:
    for work in works:
        work.end.set()
    for work in works:
        work.future.result(PATIENCE)


def test_a_blocked_worker_gives_up_its_slot_to_another(pool: WorkerPool[None]) -> None:
    (slow,), quick = begin(pool, 1, waits=True), begin(pool, 3)
    assert all(work.has_begun() for work in (slow, *quick))
    (other,) = begin(pool, 1)
    assert not other.began.wait(0.1), "all slots are taken"
    assert pool.finished(0) == []
    assert other.has_begun()
    end(other, slow, *quick)


def test_an_unblocked_worker_continues_without_a_slot_and_has_none_to_release(
    pool: WorkerPool[None],
) -> None:
    (slow,), quick = begin(pool, 1, waits=True), begin(pool, 3)
    assert all(work.has_begun() for work in (slow, *quick))
    pool.finished(0)
    (fourth,) = begin(pool, 1)
    assert fourth.has_begun()
    (fifth,) = begin(pool, 1)
    end(slow)
    assert not fifth.began.wait(0.1), "four are at work"
    end(quick[0])
    assert fifth.has_begun()
    end(fourth, fifth, *quick[1:])


def test_only_half_as_many_more_run_without_a_slot(pool: WorkerPool[None]) -> None:
    slow = begin(pool, 4, waits=True)
    assert all(work.has_begun() for work in slow)
    others = begin(pool, 3)
    for _ in range(3):
        pool.finished(0)
    assert others[0].has_begun()
    assert others[1].has_begun()
    assert not others[2].began.wait(0.1)
    end(*slow, *others)


def test_busy_workers_keep_their_slots_however_long_it_takes(pool: WorkerPool[None]) -> None:
    busy = begin(pool, 4)
    assert all(work.has_begun() for work in busy)
    (other,) = begin(pool, 1)
    pool.finished(0.05)
    assert not other.began.wait(0.1)
    end(busy[0])
    assert other.has_begun()
    end(other, *busy[1:])


def test_more_work_is_wanted_before_a_slot_is_free_but_not_one_by_one(
    pool: WorkerPool[None],
) -> None:
    assert pool.wanted == 8
    works = begin(pool, 8)
    assert pool.wanted == 0
    end(works[0])
    assert pool.finished(PATIENCE) == [works[0].future]
    assert pool.wanted == 0
    end(works[1])
    pool.finished(PATIENCE)
    assert pool.wanted == 2
    end(*works[2:])


def test_another_is_wanted_instead_of_a_blocked_worker(pool: WorkerPool[None]) -> None:
    works = begin(pool, 2, waits=True) + begin(pool, 5)
    assert all(work.has_begun() for work in works[:2])
    assert pool.wanted == 0
    pool.finished(0)
    assert pool.wanted == 3
    end(*works)


def test_work_without_a_slot_never_runs_once_the_pool_closes() -> None:
    pool = WorkerPool[None](2, slow=10)
    at_work, waiting = begin(pool, 2), begin(pool, 3)
    assert all(work.has_begun() for work in at_work)
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not waiting[-1].future.cancelled():
        assert closing.is_alive()
    end(*at_work)
    closing.join(PATIENCE)
    assert not any(work.began.is_set() for work in waiting)

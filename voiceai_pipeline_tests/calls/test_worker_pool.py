"""Readers side by side: whoever only waits makes room, and nobody else does."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from voiceai_pipeline.calls.worker_pool import WorkerPool

PATIENCE = 10.0
"""Seconds for what happens at once."""


class Reading:
    """A reader that reads until it is told to end."""

    def __init__(self, readers: WorkerPool[None], *, waits: bool) -> None:
        self.began, self.end = threading.Event(), threading.Event()
        self.future: Future[None] = readers.submit(self._read, lambda _seconds: waits)

    def _read(self) -> None:
        self.began.set()
        assert self.end.wait(PATIENCE)

    def has_begun(self) -> bool:
        return self.began.wait(PATIENCE)


@pytest.fixture
def readers() -> Iterator[WorkerPool[None]]:
    """Of four at work."""
    readers = WorkerPool[None](4, slow=0.01)
    yield readers
    readers.close()


def begin(readers: WorkerPool[None], count: int, *, waits: bool = False) -> list[Reading]:
    return [Reading(readers, waits=waits) for _ in range(count)]


def end(*readings: Reading) -> None:
    for reading in readings:
        reading.end.set()
    for reading in readings:
        reading.future.result(PATIENCE)


def test_one_that_waits_for_an_answer_gives_its_place_to_another(readers: WorkerPool[None]) -> None:
    (slow,), quick = begin(readers, 1, waits=True), begin(readers, 3)
    assert all(reading.has_begun() for reading in (slow, *quick))
    (other,) = begin(readers, 1)
    assert not other.began.wait(0.1), "all places are taken"
    assert readers.finished(0) == []
    assert other.has_begun()
    end(other, slow, *quick)


def test_one_that_is_done_waiting_goes_on_without_a_place_and_has_none_to_give_back(
    readers: WorkerPool[None],
) -> None:
    (slow,), quick = begin(readers, 1, waits=True), begin(readers, 3)
    assert all(reading.has_begun() for reading in (slow, *quick))
    readers.finished(0)
    (fourth,) = begin(readers, 1)
    assert fourth.has_begun()
    (fifth,) = begin(readers, 1)
    end(slow)
    assert not fifth.began.wait(0.1), "four are at work"
    end(quick[0])
    assert fifth.has_begun()
    end(fourth, fifth, *quick[1:])


def test_only_half_as_many_more_go_on_without_a_place(readers: WorkerPool[None]) -> None:
    slow = begin(readers, 4, waits=True)
    assert all(reading.has_begun() for reading in slow)
    others = begin(readers, 3)
    for _ in range(3):
        readers.finished(0)
    assert others[0].has_begun()
    assert others[1].has_begun()
    assert not others[2].began.wait(0.1)
    end(*slow, *others)


def test_those_at_work_keep_their_places_however_long_it_takes(readers: WorkerPool[None]) -> None:
    busy = begin(readers, 4)
    assert all(reading.has_begun() for reading in busy)
    (other,) = begin(readers, 1)
    readers.finished(0.05)
    assert not other.began.wait(0.1)
    end(busy[0])
    assert other.has_begun()
    end(other, *busy[1:])


def test_more_are_wanted_before_a_place_is_free_but_not_one_by_one(
    readers: WorkerPool[None],
) -> None:
    assert readers.wanted == 8
    readings = begin(readers, 8)
    assert readers.wanted == 0
    end(readings[0])
    assert readers.finished(PATIENCE) == [readings[0].future]
    assert readers.wanted == 0
    end(readings[1])
    readers.finished(PATIENCE)
    assert readers.wanted == 2
    end(*readings[2:])


def test_in_place_of_one_that_waits_another_is_wanted(readers: WorkerPool[None]) -> None:
    readings = begin(readers, 2, waits=True) + begin(readers, 5)
    assert all(reading.has_begun() for reading in readings[:2])
    assert readers.wanted == 0
    readers.finished(0)
    assert readers.wanted == 3
    end(*readings)


def test_whoever_has_no_place_when_all_ends_never_reads() -> None:
    readers = WorkerPool[None](2, slow=10)
    at_work, waiting = begin(readers, 2), begin(readers, 3)
    assert all(reading.has_begun() for reading in at_work)
    closing = threading.Thread(target=readers.close)
    closing.start()
    while not waiting[-1].future.cancelled():
        assert closing.is_alive()
    end(*at_work)
    closing.join(PATIENCE)
    assert not any(reading.began.is_set() for reading in waiting)

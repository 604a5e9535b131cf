"""Reading side by side: so many threads at work, and one more for each that only waits.

A reader that waits long for an answer costs nothing but its place among those at work. It gives
that place away and goes on without one, so that a slow tenant does not delay the others
(REQUIREMENTS S10). Whose turn it is to be read is ``turns.py``.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SLOW: Final = 1.0
"""Seconds of waiting for an answer after which a reader gives its place away."""


class _Place:
    """A reader's room among those at work."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._lock = threading.Lock()
        self.is_held = False
        self.is_given_away = False

    def take(self) -> None:
        self._places.acquire()
        self.is_held = True

    def leave(self) -> None:
        with self._lock:
            was_held, self.is_held = self.is_held, False
        if was_held:
            self._places.release()

    def give_away(self) -> None:
        self.is_given_away = True
        self.leave()


class Readers(Generic[T]):
    """Threads that read, of which ``places`` are at work.

    Args:
        places: half as many more may go on without a place.
    """

    def __init__(self, places: int) -> None:
        self._at_work = places
        self._spare = places // 2
        self._places = threading.Semaphore(places)
        self._pool = ThreadPoolExecutor(places + self._spare, thread_name_prefix="sync")
        self._begun: dict[Future[T], tuple[_Place, Callable[[], bool]]] = {}
        self._done: SimpleQueue[Future[T]] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._begun)

    @property
    def wanted(self) -> int:
        """How many more to begin, or a place would wait for its next reader; none as long as there
        are enough, because each beginning costs a transaction."""
        ahead = len(self._begun) - self._without_place
        return 0 if ahead > 2 * self._at_work else 3 * self._at_work - ahead

    @property
    def _without_place(self) -> int:
        return sum(place.is_given_away for place, _ in self._begun.values())

    def begin(self, read: Callable[[], T], is_waiting: Callable[[], bool]) -> Future[T]:
        """Read as soon as there is a place.

        Args:
            is_waiting: whether the reader has been waiting for ``SLOW`` seconds for an answer.
        """
        place = _Place(self._places)

        def read_in_place() -> T:
            place.take()
            try:
                return read()
            finally:
                place.leave()

        future = self._pool.submit(read_in_place)
        self._begun[future] = (place, is_waiting)
        future.add_done_callback(self._done.put)
        return future

    def ended(self, pause: float) -> list[Future[T]]:
        """Those who have ended, at once if any has, else within ``pause`` seconds; or none."""
        self._make_room()
        ended = []
        try:
            ended.append(self._done.get(timeout=min(pause, SLOW)))
            while True:
                ended.append(self._done.get_nowait())
        except Empty:
            for future in ended:
                del self._begun[future]
            return ended

    def _make_room(self) -> None:
        spare = self._spare - self._without_place
        for place, is_waiting in self._begun.values():
            if spare > 0 and place.is_held and is_waiting():
                place.give_away()
                spare -= 1

    def close(self) -> None:
        """Wait for those who have begun; the others never do."""
        self._pool.shutdown(cancel_futures=True)

"""Reading side by side: so many threads at work, and one more for each that only waits.

A reader that waits long for an answer costs nothing but its place among those at work. It gives
that place away and goes on without one, so that a slow tenant does not delay the others
(REQUIREMENTS S10). Whose turn it is to be read is ``location_queue.py``.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


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


class WorkerPool(Generic[T]):
    """Threads that read, of which ``places`` are at work.

    Args:
        places: half as many more may go on without one.
        slow: seconds of waiting for an answer after which a reader gives its place away.
    """

    def __init__(self, places: int, slow: float) -> None:
        self._at_work = places
        self._spare = places // 2
        self._slow = slow
        self._places = threading.Semaphore(places)
        self._pool = ThreadPoolExecutor(places + self._spare, thread_name_prefix="sync")
        self._begun: dict[Future[T], tuple[_Place, Callable[[float], bool]]] = {}
        self._done: SimpleQueue[Future[T]] = SimpleQueue()
        self._is_closing = False

    @property
    def wanted(self) -> int:
        """How many more to begin, or a place would wait for its next reader; none as long as there
        are enough, because each beginning costs a transaction."""
        ahead = len(self._begun) - self._without_place
        return 0 if ahead > self._at_work + self._spare else 2 * self._at_work - ahead

    @property
    def _without_place(self) -> int:
        return sum(place.is_given_away for place, _ in self._begun.values())

    def begin(self, read: Callable[[], T], has_waited: Callable[[float], bool]) -> Future[T]:
        """Read as soon as there is a place.

        Args:
            has_waited: whether an answer has been waited for longer than so many seconds.
        """
        place = _Place(self._places)

        def read_in_place() -> T:
            place.take()
            try:
                if self._is_closing:
                    raise CancelledError
                return read()
            finally:
                place.leave()

        future = self._pool.submit(read_in_place)
        self._begun[future] = (place, has_waited)
        future.add_done_callback(self._done.put)
        return future

    def ended(self, pause: float) -> list[Future[T]]:
        """Those who have ended, at once if any has, else within ``pause`` seconds; or none."""
        self._make_room()
        ended = []
        try:
            ended.append(self._done.get(timeout=min(pause, self._slow)))
            while True:
                ended.append(self._done.get_nowait())
        except Empty:
            for future in ended:
                del self._begun[future]
            return ended

    def _make_room(self) -> None:
        # However many: there are threads for half as many more.
        for place, has_waited in self._begun.values():
            if place.is_held and has_waited(self._slow):
                place.give_away()

    def close(self) -> None:
        """Wait for those who have a place, or had one; the others never get to read."""
        self._is_closing = True
        self._pool.shutdown(cancel_futures=True)

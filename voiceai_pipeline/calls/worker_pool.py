"""A bounded worker pool; a worker blocked on a slow response gives up its slot.

A worker that waits for a response uses nothing but its slot. It gives the slot up and continues
without one, so a slow location does not delay the others (REQUIREMENTS S10). ``location_queue``
decides which location is read next.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class _Slot:
    """One worker's permission to run."""

    def __init__(self, slots: threading.Semaphore) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self.is_held = False
        self.is_given_up = False

    def acquire(self) -> None:
        self._slots.acquire()
        self.is_held = True

    def release(self) -> None:
        with self._lock:
            was_held, self.is_held = self.is_held, False
        if was_held:
            self._slots.release()

    def give_up(self) -> None:
        self.is_given_up = True
        self.release()


class WorkerPool(Generic[T]):
    """Runs work in ``slots`` threads; half as many more threads may be blocked on a response.

    Args:
        slow: seconds of waiting for a response after which a worker gives up its slot.
    """

    def __init__(self, slots: int, slow: float) -> None:
        self._size = slots
        self._spare = slots // 2
        self._slow = slow
        self._slots = threading.Semaphore(slots)
        self._pool = ThreadPoolExecutor(slots + self._spare, thread_name_prefix="sync")
        self._submitted: dict[Future[T], tuple[_Slot, Callable[[float], bool]]] = {}
        self._done: SimpleQueue[Future[T]] = SimpleQueue()
        self._is_closing = False

    @property
    def wanted(self) -> int:
        """How much more work to submit so that no slot is idle; 0 while enough is waiting, because
        each batch costs a transaction."""
        ahead = len(self._submitted) - self._without_slot
        return 0 if ahead > self._size + self._spare else 2 * self._size - ahead

    @property
    def _without_slot(self) -> int:
        return sum(slot.is_given_up for slot, _ in self._submitted.values())

    def submit(self, work: Callable[[], T], is_blocked: Callable[[float], bool]) -> Future[T]:
        """Run ``work`` as soon as a slot is free.

        Args:
            is_blocked: whether ``work`` has waited for a response longer than the given seconds.
        """
        slot = _Slot(self._slots)

        def run_in_slot() -> T:
            slot.acquire()
            try:
                if self._is_closing:
                    raise CancelledError
                return work()
            finally:
                slot.release()

        future = self._pool.submit(run_in_slot)
        self._submitted[future] = (slot, is_blocked)
        future.add_done_callback(self._done.put)
        return future

    def finished(self, timeout: float) -> list[Future[T]]:
        """The futures that have finished since the last call; waits at most ``timeout`` seconds for
        the first."""
        self._free_slots()
        finished = []
        try:
            finished.append(self._done.get(timeout=min(timeout, self._slow)))
            while True:
                finished.append(self._done.get_nowait())
        except Empty:
            for future in finished:
                del self._submitted[future]
            return finished

    def _free_slots(self) -> None:
        # No limit is needed here: the number of threads is the limit.
        for slot, is_blocked in self._submitted.values():
            if slot.is_held and is_blocked(self._slow):
                slot.give_up()

    def close(self) -> None:
        """Wait for the work that has started; cancel the rest."""
        self._is_closing = True
        self._pool.shutdown(cancel_futures=True)

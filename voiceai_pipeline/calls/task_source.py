"""The source of a run's tasks: a list of its own, or work that several runs share
(``shared_work``).
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class TaskSource(Protocol[T_co]):
    """Tasks, one for each location; used by the queue's thread only."""

    @property
    def has_more(self) -> bool:
        """Whether tasks are left that no run has taken yet, as far as is known."""

    @property
    def is_done(self) -> bool:
        """Whether no task is left, not even one that another run works on."""

    def take(self, at_most: int) -> Sequence[T_co]:
        """The next tasks; empty if none is free now."""

    def finish(self, location_ids: Collection[str]) -> None:
        """Called when the results of these locations are stored."""

    def keep(self, silent: Collection[str]) -> None:
        """Called after every third of a lease: the run still works on the tasks it took, except
        those of ``silent`` locations."""


class Listed(Generic[T]):
    """A run's own list of tasks; no other run takes from it."""

    def __init__(self, tasks: Iterable[T]) -> None:
        self._tasks = deque(tasks)

    @property
    def has_more(self) -> bool:
        return bool(self._tasks)

    @property
    def is_done(self) -> bool:
        return not self._tasks

    def take(self, at_most: int) -> list[T]:
        return [self._tasks.popleft() for _ in range(min(at_most, len(self._tasks)))]

    def finish(self, location_ids: Collection[str]) -> None:
        pass

    def keep(self, silent: Collection[str]) -> None:
        pass

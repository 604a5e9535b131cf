"""Where a run's tasks come from: a list of its own, or work that several runs share
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
        """The next tasks; none if none is free now."""

    def finish(self, location_ids: Collection[str]) -> None:
        """The results of these locations are stored."""

    def keep(self, silent: Collection[str]) -> None:
        """The run still works on what it took, except for these locations; called every third of a
        lease."""


class Listed(Generic[T]):
    """A run's own list of tasks: no other takes of it."""

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

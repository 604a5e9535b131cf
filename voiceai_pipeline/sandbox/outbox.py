"""Events to announce by webhook, and how many messages were delivered. `webhooks` sends them."""

import threading
from collections import Counter, deque

Event = tuple[str, str]
"""A message's type, and the id of the location or agency that it is about."""


class Outbox:
    """Events that wait to be announced. Safe to use from any thread.

    Attributes:
        is_paused: whether messages are lost, as while delivery is paused in HighLevel's portal.
        counts: messages delivered, given up and lost.
    """

    def __init__(self) -> None:
        self.is_paused = False
        self.counts: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=1000)
        self._lock = threading.Lock()

    def add(self, kind: str, resource: str) -> None:
        with self._lock:
            self._events.append((kind, resource))

    def take(self) -> list[Event]:
        """The events since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

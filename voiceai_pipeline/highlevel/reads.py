"""Aborts reads when the process is asked to stop. Requests that may spend a refresh token are never
aborted: an answer that is not read leaves the connection in doubt.
"""

import contextlib
import socket
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel.errors import HighLevelError


class Connection(Protocol):
    """A urllib3 connection.

    Attributes:
        sock: None while it is not connected.
    """

    sock: object


class Reads:
    """The reads of one client. Token requests use other connections, so all reads can be aborted at
    once. Safe to share between threads."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Wraps a wait for reading threads; on an interrupt, it aborts their reads."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Abort all reads in progress, and refuse further ones permanently."""
        with self._lock:
            self._stopped.set()
            for connection in self._connections:
                if isinstance(connection.sock, socket.socket):
                    with contextlib.suppress(OSError):
                        # Not ``SSLSocket.shutdown``, which drops the TLS object its reader uses.
                        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    @property
    def are_stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self, *, method: str = "GET", path: str = "") -> None:
        """Raise ``HighLevelError`` if reads are stopped. Token requests check it too: a new token
        would not be used."""
        if self.are_stopped:
            raise HighLevelError(
                FailureClass.UNREACHABLE,
                method=method,
                path=path,
                reason="this process is stopping",
                sent=False,
            )

    def add(self, connection: Connection) -> None:
        """Track a new connection, so that ``stop`` can shut it down.

        Raises:
            ConnectionAbortedError: reads are stopped.
        """
        with self._lock:
            if self.are_stopped:
                raise ConnectionAbortedError
            self._connections.add(connection)

    def pause(self, seconds: float) -> None:
        """Sleep for ``seconds``, or until reads are stopped."""
        self._stopped.wait(seconds)

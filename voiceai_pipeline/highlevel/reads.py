"""Gives up reads when the process is asked to stop. What may spend a token is waited for as ever:
an answer that is not read is a connection in doubt.
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
    """A connection of urllib3's.

    Attributes:
        sock: None while it is not connected.
    """

    sock: object


class Reads:
    """The reads of one client, on connections that no token request uses, so that all of them can
    be ended at once. Shared by threads."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Wraps the wait for threads that read: if it is interrupted, they end within seconds."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Give up every read under way and refuse further ones, for good."""
        with self._lock:
            self._stopped.set()
            for connection in self._connections:
                if isinstance(connection.sock, socket.socket):
                    with contextlib.suppress(OSError):
                        # Not the method of a TLS socket: it takes away what its reader is using.
                        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    @property
    def are_stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self, *, method: str = "GET", path: str = "") -> None:
        """Raises ``HighLevelError`` if reads were given up: no token is of use either, then."""
        if self.are_stopped:
            raise HighLevelError(
                FailureClass.UNREACHABLE,
                method=method,
                path=path,
                reason="this process is stopping",
                sent=False,
            )

    def add(self, connection: Connection) -> None:
        """Note a connection that was just made.

        Raises:
            ConnectionAbortedError: reads were given up.
        """
        with self._lock:
            if self.are_stopped:
                raise ConnectionAbortedError
            self._connections.add(connection)

    def pause(self, seconds: float) -> None:
        """Sleep; no longer once reads were given up."""
        self._stopped.wait(seconds)

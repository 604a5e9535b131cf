"""Ports on loopback for the servers of tests."""

import contextlib
import random
import socket

_free_ports: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, handed out once only.

    It lies below those that the kernel hands out, so that no connection of another test takes it.
    """
    while True:
        port = random.randint(10_000, 30_000)  # noqa: S311 - any will do
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _free_ports:
                _free_ports.add(port)
                return port

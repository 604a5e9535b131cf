"""What must hold before ``up`` starts anything: a usable home, no other instance, free ports."""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from voiceai_pipeline.core import installation
from voiceai_pipeline.core.settings import Settings

MIN_FREE_BYTES: Final = 500 * 1024 * 1024


class UpError(RuntimeError):
    """``up`` cannot start; the text says why and what to do."""


def check_home(home: Path) -> None:
    """Create VOICEAI_HOME; check that it is writable and has enough free space.

    Raises:
        UpError: it is not writable, or its disk has too little space.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "up.lock").open("a").close()
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise UpError(
            f"{home} cannot be used: {error.strerror}. Set VOICEAI_HOME to a folder that this user "
            "can write to."
        ) from error
    if free < MIN_FREE_BYTES:
        raise UpError(
            f"Only {free // 2**20} MB are free on the disk of {home}; at least "
            f"{MIN_FREE_BYTES // 2**20} MB are needed. Free some space, or set VOICEAI_HOME to a "
            "folder on another disk."
        )


@contextmanager
def single_instance(home: Path, url: str) -> Iterator[None]:
    """Lock the home for this process. The operating system releases the lock when it dies.

    Args:
        url: the address of this instance, for the message to an operator who starts another.

    Raises:
        UpError: another instance is running.
    """
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            about = json.loads(lock.read() or "{}")
            raise UpError(
                f"It is already running at {about.get('url', 'an unknown address')} (process "
                f"{about.get('pid', 'unknown')}). Use that instance, or stop it with Ctrl-C first."
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        lock.flush()
        yield


def check_ports(settings: Settings, port: int) -> None:
    """Check that the pages and Dagster's UI process can listen.

    Args:
        port: of Dagster's UI process.

    Raises:
        UpError: a port is in use or unusable.
    """
    page = settings.page
    check_port("127.0.0.1", port, installation.start_on(port + 1))
    check_port(page.host, page.port, f"VOICEAI_PAGE_PORT={page.port + 1} {installation.START}")


def check_port(host: str, port: int, otherwise: str) -> None:
    """Check that a port is free.

    Args:
        otherwise: the command that uses another port.

    Raises:
        UpError: it is in use or unusable.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UpError(
                f"Port {port} is used by another program. Stop it, or use another port: {otherwise}"
                if error.errno == errno.EADDRINUSE
                else f"Port {port} cannot be used: {error.strerror}. Use another port: {otherwise}"
            ) from error

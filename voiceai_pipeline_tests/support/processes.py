"""Real processes as tests see them: whether one is alive, and waiting for what it does."""

import contextlib
import signal
import time
from collections.abc import Callable

import psutil

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""The signals that ask a process to stop."""


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that its parent has not collected yet does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def wait_until(condition: Callable[[], object], seconds: float = 300, pause: float = 0.5) -> None:
    """Wait for a condition.

    Args:
        seconds: far more than it takes: only a failed test waits that long, even on a machine that
            does twenty things at once.
        pause: the longest one between two looks, which take CPU time from what is waited for; short
            where the condition soon ends to hold.
    """
    deadline, next_pause = time.monotonic() + seconds, 0.01
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(next_pause)
        next_pause = min(1.5 * next_pause, pause)


def block_signals() -> None:
    """Ignore and block every signal in ``SIGNALS``; as ``preexec_fn``, for the process to start.

    ``nohup`` and the background jobs of a shell script start programs with some of them ignored.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

"""Signals: how a command is stopped, and how its child processes are made to obey signals.

``nohup`` and the background jobs of a shell script start programs with signals ignored. Programs
inherit ignored and blocked signals from their parent.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STOPPING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell script starts its background jobs with it ignored. SIGHUP stays ignored
    # under nohup.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_on_hangup() -> None:
    """Let a closed terminal stop this process as SIGTERM does; under nohup it continues."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def restore_in_child() -> None:
    """Restore the default of every stopping signal; called in a child before its program starts."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

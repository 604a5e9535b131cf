"""Child processes of ``voiceai-pipeline up``: start, restart, and never leave one behind.

Each child leads its own process group, so that everything it starts is stopped with it. A tether
(this module run as a program) reads a pipe from the parent. When the parent dies, however it dies,
the pipe closes and the tether stops every group. Restarts are limited. ``up`` decides which
children there are.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from voiceai_pipeline.cli.signals import restore_in_child
from voiceai_pipeline.core.private_file import write_private

GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

RESTARTS: Final = 3
RESTART_WINDOW: Final = 60.0
"""Seconds. A child that stops more than ``RESTARTS`` times within them is not restarted again."""


LOG_BYTES: Final = 10 * 2**20
"""Size from which a log is rotated: each child's two logs take about twice as much at most."""


class ChildError(RuntimeError):
    """A child keeps stopping; the text names it and its log."""


@dataclass
class Child:
    """A program and its current process.

    Attributes:
        stops: times of its recent stops, on the monotonic clock.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    stops: list[float] = field(default_factory=list)


class Supervisor:
    """Starts children, keeps them running, and stops them in reverse order.

    Args:
        logs: folder with a log file per child.
        cwd: working folder of the children.
        report: called with a line for each event.
    """

    def __init__(self, logs: Path, cwd: Path, report: Callable[[str], None]) -> None:
        self._logs = logs
        self._cwd = cwd
        self._report = report
        self._children: list[Child] = []
        self._tether: subprocess.Popen[bytes] | None = None

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a child; its output goes to ``<logs>/<name>.log``."""
        log = self._logs / f"{name}.log"
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for older in (log, _previous(log)):
            older.unlink(missing_ok=True)
        os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
        process = self._spawn(argv, env, log)
        self._children.append(Child(name, argv, env, log, process))

    def tail(self, name: str, lines: int = 8) -> str:
        """The last lines of a child's log."""
        log = self._logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    def keep_running(self) -> None:
        """Restart every child that has stopped, and rotate full logs; returns immediately.

        Raises:
            ChildError: a child keeps stopping.
        """
        if self._tether is not None and self._tether.poll() is not None:
            self._start_tether()
        for child in self._children:
            _rotate(child.log)
            status = child.process.poll()
            if status is None:
                continue
            now = time.monotonic()
            child.stops = [s for s in child.stops if now - s < RESTART_WINDOW] + [now]
            _signal_group(child.process, signal.SIGKILL)  # what it started may still run
            self._tie(f"-{child.process.pid}")
            if len(child.stops) > RESTARTS:
                raise ChildError(
                    f"The {child.name} keeps stopping. Its log, {child.log}, ends with:\n"
                    f"{self.tail(child.name)}"
                )
            self._report(f"The {child.name} stopped ({_describe(status)}); starting it again.")
            child.process = self._spawn(child.argv, child.env, child.log)

    def forget_stops(self) -> None:
        """Reset the count of each child's stops, because their cause is outside the children."""
        for child in self._children:
            child.stops = []

    def stop(self) -> None:
        """Stop every child and what it started, with SIGTERM and then SIGKILL. Never raises."""
        for child in reversed(self._children):
            _signal_group(child.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()
            self._tie(f"-{child.process.pid}")
        self._children.clear()
        if self._tether is not None and self._tether.stdin is not None:
            self._tether.stdin.close()
            self._tether.wait()
            self._tether = None

    def _spawn(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        if self._tether is None:
            self._start_tether()
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,  # what it writes, such as logs of runs, is for no other account
                preexec_fn=restore_in_child,  # safe: `up` runs no threads
            )
        self._tie(f"+{process.pid}")
        return process

    def _start_tether(self) -> None:
        """Start the tether, or replace one that was killed."""
        if self._tether is not None and self._tether.stdin is not None:
            self._tether.stdin.close()
        self._tether = subprocess.Popen(
            [sys.executable, "-m", "voiceai_pipeline.cli.supervisor"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for child in self._children:
            self._tie(f"+{child.process.pid}")

    def _tie(self, line: str) -> None:
        """Tell the tether about a group: ``+pid`` it was started, ``-pid`` it has ended."""
        if self._tether is None or self._tether.stdin is None:
            return
        # If the tether was killed, keep_running replaces it and tells the new one of every group.
        with contextlib.suppress(BrokenPipeError):
            self._tether.stdin.write(f"{line}\n".encode())


def _previous(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _rotate(log: Path) -> None:
    """Move what a full log holds to ``<log>.1`` while its child keeps writing.

    The child appends, so it continues at the start of the emptied file. What it writes between the
    copy and the truncation is lost. If the disk is full, only the copy is lost.
    """
    try:
        if log.stat().st_size < LOG_BYTES:
            return
        with contextlib.suppress(OSError):
            write_private(_previous(log), log.read_text(encoding="utf-8", errors="replace"))
        os.truncate(log, 0)
    except OSError:
        return


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def tether(groups: IO[str]) -> None:
    """Keep a list of process groups until the pipe closes, then stop those still on it.

    A group that has ended is removed: its number may be reused by another program.
    """
    # A signal that stops the parent must not stop the tether before it has done its work.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pids: set[int] = set()
    for line in groups:
        pid = int(line[1:])
        (pids.add if line[0] == "+" else pids.discard)(pid)
    for stop, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 0.0)):
        alive = [pid for pid in pids if _is_alive(pid)]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, stop)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(map(_is_alive, pids)):
            time.sleep(0.1)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    tether(sys.stdin)

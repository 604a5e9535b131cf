"""Processes that belong to one ``voiceai-pipeline up``: started, restarted, and never left behind.

Each child leads a process group of its own, so that whatever it starts ends with it. A tether (this
module run as a program) reads a pipe from the parent: when the parent is gone, however it died, the
pipe closes and the tether ends every group. Restarts are bounded. What the children are is not
decided here.
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

GRACE: Final = 10.0
"""Seconds between asking a group to end and ending it."""

RESTARTS: Final = 3
RESTART_WINDOW: Final = 60.0
"""A child that stops more than ``RESTARTS`` times within so many seconds is given up."""


class ChildError(RuntimeError):
    """A child cannot be kept running; the text names it and its log."""


@dataclass
class Child:
    """A program and the process that runs it now."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    stops: list[float] = field(default_factory=list)


class Supervisor:
    """Starts children, keeps them running, and ends them in reverse order.

    Args:
        logs: folder for one log file per child.
        cwd: where the children run.
        tell: says what happens, a line at a time.
    """

    def __init__(self, logs: Path, cwd: Path, tell: Callable[[str], None]) -> None:
        self._logs = logs
        self._cwd = cwd
        self._tell = tell
        self._children: list[Child] = []
        self._tether: subprocess.Popen[bytes] | None = None

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a child; its output goes to ``<logs>/<name>.log``."""
        log = self._logs / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        process = self._spawn(argv, env, log)
        self._children.append(Child(name, argv, env, log, process))

    def tail(self, name: str, lines: int = 8) -> str:
        """The last lines of a child's log."""
        log = self._logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    def keep_running(self) -> None:
        """Start again whoever has stopped; returns at once.

        Raises:
            ChildError: one keeps stopping.
        """
        if self._tether is not None and self._tether.poll() is not None:
            self._start_tether()
        for child in self._children:
            status = child.process.poll()
            if status is None:
                continue
            now = time.monotonic()
            child.stops = [s for s in child.stops if now - s < RESTART_WINDOW] + [now]
            _end_group(child.process, signal.SIGKILL)  # what it started may still be there
            self._tie(f"-{child.process.pid}")
            if len(child.stops) > RESTARTS:
                raise ChildError(
                    f"The {child.name} keeps stopping. Its log, {child.log}, ends with:\n"
                    f"{self.tail(child.name)}"
                )
            self._tell(f"The {child.name} stopped ({_describe(status)}); starting it again.")
            child.process = self._spawn(child.argv, child.env, child.log)

    def stop(self) -> None:
        """End every child and what it started: politely, then for good. Never raises."""
        for child in reversed(self._children):
            _end_group(child.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _end_group(child.process, signal.SIGKILL)
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
                preexec_fn=restore_in_child,  # safe: `up` runs no threads
            )
        self._tie(f"+{process.pid}")
        return process

    def _start_tether(self) -> None:
        """Start the tether, or another one in the place of one that was killed."""
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
        """Tell the tether which groups are ours: ``+pid`` a new one, ``-pid`` one that ended."""
        if self._tether is None or self._tether.stdin is None:
            return
        # A tether that was killed is replaced by keep_running, which tells the new one everything.
        with contextlib.suppress(BrokenPipeError):
            self._tether.stdin.write(f"{line}\n".encode())


def _end_group(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def tether(groups: IO[str]) -> None:
    """Keep a list of process groups until the pipe closes, then end those still on it.

    An ended group is taken off the list: its number may belong to somebody else by then.
    """
    # Whatever ends the parent must not end the tether before it has done its work.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pids: set[int] = set()
    for line in groups:
        pid = int(line[1:])
        (pids.add if line[0] == "+" else pids.discard)(pid)
    for how, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 0.0)):
        alive = [pid for pid in pids if _is_alive(pid)]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, how)
        deadline = time.monotonic() + patience
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

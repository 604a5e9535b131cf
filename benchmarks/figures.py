"""What a contender took, measured in its own process."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Figures:
    """Wall and CPU seconds, and peak memory in MB; ``parts`` are wall seconds by name."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


@contextmanager
def measured() -> Iterator[Figures]:
    """Yields figures that are filled in when the ``with`` block ends. CPU time includes children of
    this process; peak memory does not."""
    figures = Figures()
    started, cpu = time.monotonic(), _cpu()
    yield figures
    figures.seconds = time.monotonic() - started
    figures.cpu = _cpu() - cpu
    figures.peak_mb = _peak_mb()


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def _peak_mb() -> float:
    """The most memory this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would start with what the parent had when it forked.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(found[1]) * 1024 / 1e6 if found else 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

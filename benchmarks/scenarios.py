"""What is loaded and what is measured: the scenarios, their sizes, and one measurement.

Nothing runs here: that is ``bench.py``.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from benchmarks.figures import Figures
from benchmarks.world import Shape

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)

SCENARIOS = {
    "fleet": Shape(100, 7, 200, YESTERDAY),
    "heavy": Shape(1, 20, 10_000, YESTERDAY),
    "wide": Shape(2_000, 1, 5, YESTERDAY),
    "idle": Shape(2_000, 1, 0, YESTERDAY),
    "year": Shape(100, 365, 20, YESTERDAY),
}
AGAIN = "again"
"""``fleet`` a second time on the same database, with nothing changed."""

FRACTIONS = {
    "plain": {"fleet": 0.2, "again": 0.2, "wide": 0.2, "idle": 0.2, "heavy": 0.1, "year": 0.05},
    "dlt": {"heavy": 0.25},
}
"""The fraction that a contender runs of a scenario that would take too long; the rest is
extrapolated per call. It is a fraction of the users, or of the days if there is one user."""

MEMORY = (10_000, 100_000, 1_000_000)
LINEAR_CALLS = (50_000, 100_000, 200_000)
LINEAR_USERS = (50, 100, 200)
SLOW_SECONDS = 2.0


def scaled(shape: Shape, scale: float) -> Shape:
    """A shape with about ``scale`` times the calls: fewer users first, then fewer calls a day."""
    locations = max(1, round(shape.locations * scale))
    per_day = round(shape.calls_per_day * scale * shape.locations / locations)
    per_day = max(1, per_day) if shape.calls_per_day else 0
    return replace(shape, locations=locations, calls_per_day=per_day)


@dataclass(frozen=True)
class Measurement:
    """One contender in one scenario.

    Attributes:
        seconds: wall time of the whole scenario; extrapolated if ``fraction`` is below 1.
        process_seconds: wall time of the process, including imports; not extrapolated.
        fewest, rows, expected, requests: of the fraction that was run.
        written: rows of the table that the run wrote, new or changed.
        is_exact: the table holds each expected call once and no other.
        server_cpu, postgres_cpu: CPU seconds of the server of calls and of PostgreSQL meanwhile.
        stored_bytes: size of the table at the end, with indexes and TOAST.
        wal_bytes: bytes of WAL written meanwhile.
        trouble: why there are no figures; "" if there are.
    """

    scenario: str
    contender: str
    figures: Figures
    fraction: float = 1.0
    process_seconds: float = 0.0
    requests: int = 0
    refused: int = 0
    fewest: int = 0
    rows: int = 0
    expected: int = 0
    written: int = 0
    is_exact: bool = False
    server_cpu: float = 0.0
    postgres_cpu: float = 0.0
    stored_bytes: int = 0
    wal_bytes: int = 0
    trouble: str = ""

    @property
    def seconds(self) -> float:
        return self.figures.seconds / self.fraction


@dataclass(frozen=True)
class Delay:
    """When the users other than the slow tenant were done, in seconds from the start."""

    median: float
    last: float

"""The figures as Markdown, ready for the documents. Nothing is measured here."""

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import NAMES
from benchmarks.scenarios import SLOW_SECONDS, Delay, Measurement

ORDER = ("fleet", "again", "heavy", "wide", "idle", "year")

BEGIN = "<!-- benchmarks.speed: figures, begin -->"
END = "<!-- benchmarks.speed: figures, end -->"


@dataclass
class Report:
    """Everything that one run of the benchmark measured."""

    command: str
    workers: int
    scale: float
    postgres_version: str = ""
    races: list[Measurement] = field(default_factory=list)
    memory: list[Measurement] = field(default_factory=list)
    calls: list[Measurement] = field(default_factory=list)
    users: list[Measurement] = field(default_factory=list)
    slow: tuple[Delay, Delay] | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def broke(self) -> list[str]:
        """Sentences about runs that failed, or whose table does not hold the expected rows."""
        every = [*self.races, *self.memory, *self.calls, *self.users]
        return self.troubles + [
            f"{m.scenario}, {m.contender}: "
            + (m.trouble or f"{m.rows:,} rows, and not exactly the {m.expected:,} expected")
            for m in every
            if m.trouble or not m.is_exact
        ]

    def markdown(self) -> str:
        """All tables, with the machine and the command."""
        self.races.sort(key=lambda m: ORDER.index(m.scenario))
        parts = [_machine(self), *self._races(), *self._growth(), *self._targets()]
        return "\n\n".join(parts) + "\n"

    def _races(self) -> Iterable[str]:
        if not self.races:
            return
        header = (
            "scenario", "contender", "wall s", "x leanest", "x bound", "requests / fewest",
            "CPU s", "PostgreSQL CPU s", "peak MB", "bytes / call", "WAL / call",
            "rows", "rows written",
        )  # fmt: skip
        rows = []
        for m in self.races:
            if m.trouble:
                rows.append([m.scenario, NAMES[m.contender], "broke", *[""] * (len(header) - 3)])
                continue
            part = "" if m.fraction == 1 else f" ({_percent(m.fraction)} run)"
            rows.append(
                [
                    m.scenario,
                    NAMES[m.contender] + part,
                    f"{'≈ ' if part else ''}{m.seconds:,.1f}",
                    self._ratio(m, "lean"),
                    self._ratio(m, "bound"),
                    f"{m.requests:,} / {m.fewest:,} ({m.requests / m.fewest - 1:+.1%})",
                    f"{m.figures.cpu:,.1f}",
                    f"{m.postgres_cpu:,.1f}",
                    f"{m.figures.peak_mb:,.0f}",
                    f"{_share(m.stored_bytes, m.rows):,.0f}",
                    f"{_share(m.wal_bytes, m.written):,.0f}" if m.written else "",
                    f"{m.rows:,}" if m.is_exact else f"**{m.rows:,} of {m.expected:,}: wrong**",
                    f"{m.written:,}",
                ]
            )
        yield _table(header, rows)
        bounds = [m for m in self.races if m.contender == "bound" and m.figures.parts]
        if bounds:
            split = "; ".join(
                f"{m.scenario} "
                + " + ".join(f"{s:,.1f} s {n}" for n, s in m.figures.parts.items() if s > 0.001)
                for m in bounds
            )
            yield f"The bound, taken apart: {split}."
        starts = {
            NAMES[name]: statistics.median(
                m.process_seconds - m.figures.seconds
                for m in self.races
                if m.contender == name and not m.trouble
            )
            for name in dict.fromkeys(m.contender for m in self.races if not m.trouble)
        }
        listed = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in starts.items())
        yield f"Not in the wall time, the start of a process with its imports (median): {listed}."
        busiest = max(self.races, key=lambda m: _share(m.server_cpu, m.figures.seconds))
        yield (
            "The server of calls kept a core busy for "
            f"{_percent(_share(busiest.server_cpu, busiest.figures.seconds))} of the time at most "
            f"({busiest.scenario}, {NAMES[busiest.contender]})."
        )

    def _growth(self) -> Iterable[str]:
        header = ("calls, one window", "wall s", "CPU ms / 1,000 calls", "peak MB")
        if self.memory:
            yield "Ours, one user, latency 0 and limits off so that a million calls end:"
            yield _table(header, [_growing(m) for m in self.memory])
        if self.calls:
            yield "Linear in calls (likewise):"
            yield _table(header, [_growing(m) for m in self.calls])
        if self.users:
            yield "Linear in users (1 day, 200 calls each, with latency and limits):"
            rows = [
                [f"{m.fewest // 4:,}" if m.fewest % 4 == 0 else f"{m.fewest:,} requests",
                 *_growing(m)[1:]]
                for m in self.users
            ]  # fmt: skip
            yield _table(("users", *header[1:]), rows)
        if self.slow:
            before, after = self.slow
            rows = [
                ["none", f"{before.median:,.1f}", f"{before.last:,.1f}"],
                ["one", f"{after.median:,.1f}", f"{after.last:,.1f}"],
                [
                    "later by",
                    f"{after.median / before.median - 1:+.1%}",
                    f"{after.last / before.last - 1:+.1%}",
                ],
            ]
            yield f"*fleet* with a tenant whose pages take {SLOW_SECONDS:g} s, ours:"
            yield _table(
                ("slow tenants", "median of the others done, s", "last of the others done, s"), rows
            )

    def _targets(self) -> Iterable[str]:
        rows = [
            [
                "through Dagster on fleet, faster than dlt",
                ">= 5x",
                self._over("fleet", "dlt", "dagster"),
            ],
            [
                "through Dagster on again, faster than dlt",
                ">= 10x",
                self._over("again", "dlt", "dagster"),
            ],
        ]
        for name in ("fleet", "heavy", "year"):
            rows.append(
                [f"through Dagster on {name}, of the bound", "<= 1.5x",
                 self._over(name, "dagster", "bound")]
            )  # fmt: skip
        through = [m for m in self.races if m.contender == "dagster" and not m.trouble]
        if through:
            most = max(m.requests / m.fewest - 1 for m in through)
            peak = max(m.figures.peak_mb for m in through)
            rows.append(["requests beyond the fewest, at most", "<= +2 %", f"{most:+.1%}"])
            rows.append(["peak memory through Dagster, at most", "<= 250 MB", f"{peak:,.0f} MB"])
        if self.memory:
            small, large = self.memory[0].figures.peak_mb, self.memory[-1].figures.peak_mb
            text = f"{small:,.0f} to {large:,.0f} MB"
            rows.append([f"peak memory to {self.memory[-1].rows:,} calls", "flat", text])
        for what, runs in (("calls", self.calls), ("users", self.users)):
            if runs:
                growth = runs[-1].figures.seconds / runs[0].figures.seconds
                text = f"{growth:.2f}x the time for {runs[-1].rows / runs[0].rows:.2f}x"
                rows.append([f"linear in {what}", "linear", text])
        if self.slow:
            median, last = (
                getattr(self.slow[1], which) / getattr(self.slow[0], which) - 1
                for which in ("median", "last")
            )
            text = f"median {median:+.1%}, last {last:+.1%}"
            rows.append(["a slow tenant delays the others", "<= 10 %", text])
        idle = self._find("idle", "ours")
        if idle:
            spent = _share(idle.figures.cpu + idle.postgres_cpu, idle.requests) * 1e3
            rows.append(
                ["an idle user, CPU of client and PostgreSQL", "<= 1.5 ms", f"{spent:.2f} ms"]
            )
        for contender in ("ours", "dagster"):
            m = self._find("again", contender)
            if m:
                text = f"{_cpu_ms(m):,.0f} ms, {m.written:,} rows"
                rows.append(
                    [f"reading again, {NAMES[contender]}: CPU per 1,000 rows, rows written",
                     "<= 25 ms, none", text]
                )  # fmt: skip
        rows = [row for row in rows if row[-1]]
        if rows:
            yield _table(("target", "wanted", "measured"), rows)

    def _find(self, scenario: str, contender: str) -> Measurement | None:
        for m in self.races:
            if (m.scenario, m.contender) == (scenario, contender) and not m.trouble:
                return m
        return None

    def _ratio(self, m: Measurement, to: str) -> str:
        other = self._find(m.scenario, to)
        return f"{m.seconds / other.seconds:.2f}" if other and other is not m else ""

    def _over(self, scenario: str, above: str, below: str) -> str:
        first, second = self._find(scenario, above), self._find(scenario, below)
        return f"{first.seconds / second.seconds:.2f}x" if first and second else ""


def _machine(report: Report) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    scale = "" if report.scale == 1 else f" Scale {report.scale:g}: a trial, not the figures."
    busy = os.getloadavg()[2]
    return (
        f"`{report.command}` on {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, PostgreSQL "
        f"{report.postgres_version} (embedded, without fsync for all alike), {report.workers} "
        f"locations side by side; load average of the last 15 minutes {busy:.1f}.{scale}"
    )


def _growing(m: Measurement) -> list[str]:
    if m.trouble:
        return [f"{m.expected:,}", "broke", "", ""]
    return [
        f"{m.rows:,}" if m.is_exact else f"**{m.rows:,} of {m.expected:,}: wrong**",
        f"{m.seconds:,.1f}",
        f"{_cpu_ms(m):,.0f}",
        f"{m.figures.peak_mb:,.0f}",
    ]


def _cpu_ms(m: Measurement) -> float:
    return _share(m.figures.cpu, m.rows) * 1e6


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_into(path: Path, figures: str) -> None:
    """Put the figures between the markers of a document.

    Raises:
        ValueError: it has no markers.
    """
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{figures}{END}{after}")

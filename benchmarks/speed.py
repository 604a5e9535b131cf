"""How fast we are: ours against the leanest loader, the bound, dlt and a plain loop, as ratios.

    python -m benchmarks.speed [--only fleet,again] [--scale 0.1] [--write docs/performance.md]

Tables go to stdout, progress to stderr. A missed target is a figure like any other; the exit code
is 1 only if something failed, a table holds the wrong rows, or Ctrl-C was pressed. Everything else
is in docs/performance.md.
"""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contenders import NAMES
from benchmarks.scenarios import AGAIN, SCENARIOS
from benchmarks.table import ORDER, Report, write_into
from voiceai_pipeline.calls.sync import WORKERS

EXTRAS = ("memory", "calls", "users", "slow")


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit code. Ctrl-C prints what was measured until then."""
    options = _options(arguments)
    if options.profile:
        with Bench(options.scale, options.latency, _say) as bench:
            for name in options.only:
                sys.stdout.write(f"# {name}, CPU time of ours\n{bench.profile(name)}\n")
        return 0
    command = shlex.join(["python", "-m", "benchmarks.speed", *arguments])
    report = Report(command, WORKERS, options.scale)
    interrupted = False
    try:
        with Bench(options.scale, options.latency, _say) as bench:
            _measure(bench, report, options)
    except KeyboardInterrupt:
        interrupted = True
    figures = report.markdown()
    sys.stdout.write(figures)
    if options.write and not interrupted:
        write_into(options.write, figures)
    for trouble in report.broke:
        _say(trouble)
    return 1 if report.broke or interrupted else 0


def _measure(bench: Bench, report: Report, options: argparse.Namespace) -> None:
    report.postgres_version = bench.postgres_version
    for name in SCENARIOS:
        again = name == "fleet" and AGAIN in options.only
        if name in options.only or again:
            for measurement in bench.race(name, options.contenders, again=again):
                report.races.append(measurement)
    for name in EXTRAS[:-1]:
        if name in options.only:
            for measurement in getattr(bench, name)():
                getattr(report, name).append(measurement)
    if "slow" in options.only:
        try:
            report.slow = bench.slow()
        except RuntimeError as error:
            report.troubles.append(f"slow: {error}")


def _options(arguments: list[str]) -> argparse.Namespace:
    every = (*ORDER, *EXTRAS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--only",
        type=_among(every),
        default=list(every),
        metavar="NAMES",
        help=f"which of {','.join(every)}; default: all",
    )
    parser.add_argument(
        "--contenders",
        type=_among(tuple(NAMES)),
        default=list(NAMES),
        metavar="NAMES",
        help=f"which of {','.join(NAMES)}; default: all",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of calls")
    parser.add_argument("--latency", type=float, help="seconds, instead of the scenarios' 0.05")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print where the CPU time of ours goes, per scenario, instead of the tables",
    )
    options = parser.parse_args(arguments)  # fmt: skip
    if "bound" in options.contenders and "ours" not in options.contenders:
        parser.error("the bound copies the rows that ours has stored: name both")
    if "dlt" in options.contenders and importlib.util.find_spec("dlt") is None:
        parser.error("dlt is not installed: run make bench, or name --contenders without it")
    if options.profile:
        if sys.version_info >= (3, 12):
            parser.error("--profile needs Python 3.11: later ones allow one profile per process")
        options.only = [name for name in options.only if name in ORDER]
    return options


def _among(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if strange := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(strange))}")
        return [name for name in known if name in names]

    return parse


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

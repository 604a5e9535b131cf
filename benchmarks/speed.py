"""How fast we are: ours against the bound, dlt and a plain loop, as ratios of one run.

    python -m benchmarks.speed [--only fleet,again] [--scale 0.1] [--write docs/performance.md]

The tables go to stdout, what is running to stderr. A ratio that is missed is a figure like any
other; the exit code is 1 only if something broke or a table holds the wrong rows. Everything else
about it stands in docs/performance.md.
"""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders import NAMES
from benchmarks.scenarios import AGAIN, SCENARIOS, Bench
from benchmarks.table import Report, write_into
from voiceai_pipeline.sync import WORKERS

RACES = ("fleet", AGAIN, "heavy", "wide", "year")
EXTRAS = ("memory", "calls", "users", "slow")


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit code."""
    options = _options(arguments)
    command = shlex.join(["python", "-m", "benchmarks.speed", *arguments])
    with Bench(options.scale, options.latency, _say) as bench:
        if options.profile:
            for name in options.only:
                sys.stdout.write(f"# {name}, CPU time of ours\n{bench.profile(name)}\n")
            return 0
        report = Report(command, bench.postgres_version, WORKERS, options.scale)
        for name in SCENARIOS:
            again = name == "fleet" and AGAIN in options.only
            if name in options.only or again:
                for measurement in bench.race(name, options.contenders, again=again):
                    report.races.append(measurement)
                    if measurement.trouble:
                        _say(measurement.trouble)
        report.races.sort(key=lambda m: RACES.index(m.scenario))
        if "memory" in options.only:
            report.memory.extend(bench.memory())
        if "calls" in options.only:
            report.calls.extend(bench.linear_in_calls())
        if "users" in options.only:
            report.users.extend(bench.linear_in_users())
        if "slow" in options.only:
            report.slow = bench.slow_tenant()
    figures = report.markdown()
    sys.stdout.write(figures)
    if options.write:
        write_into(options.write, figures)
    return 1 if report.broke else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    every = (*RACES, *EXTRAS)
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
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls")
    parser.add_argument("--latency", type=float, help="seconds, instead of the scenarios' 0.05")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables in there, too")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead: where the CPU time of ours goes, per scenario",
    )
    options = parser.parse_args(arguments)  # fmt: skip
    if "bound" in options.contenders and "ours" not in options.contenders:
        parser.error("the bound copies the rows that ours leaves: name both")
    if "dlt" in options.contenders and importlib.util.find_spec("dlt") is None:
        parser.error("dlt is not installed: make bench does it; or name --contenders without it")
    if options.profile:
        options.only = [name for name in options.only if name in RACES]
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

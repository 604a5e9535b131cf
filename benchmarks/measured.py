"""One measurement: taken in a process of its own, and printed beside its limit."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any

Row = tuple[str, float, str, float | None]
"""Name, value, unit, and limit; None for no limit."""


# The parts, each in a process of its own ----------------------------------------------------------


def memory() -> float:
    """The peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(part: Callable[..., list[Row]], *args: Any) -> list[Row]:
    """Run ``part`` in a new process; returns what it measured."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, part, args))
    process.start()
    sender.close()
    try:
        rows: list[Row] = receiver.recv()
    except EOFError:
        rows = [(f"{part.__name__}: failed", float("nan"), "", None)]
    process.join()
    return rows


def _report(sender: Any, part: Callable[..., list[Row]], args: Any) -> None:
    rows = part(*args)
    used = resource.getrusage(resource.RUSAGE_SELF)
    rows.append(("  CPU, with the imports", used.ru_utime + used.ru_stime, "s", None))
    sender.send(rows)


# The table ----------------------------------------------------------------------------------------


def show(rows: list[Row]) -> None:
    """Print what was measured beside its limit."""
    for what, value, unit, limit in rows:
        bound = "" if limit is None else f"<= {limit:g}"
        verdict = "" if limit is None else ("ok" if value <= limit else "TOO MUCH")
        sys.stdout.write(f"{what:62}{value:10.2f} {unit:10}{bound:>8}  {verdict}\n")
    sys.stdout.flush()

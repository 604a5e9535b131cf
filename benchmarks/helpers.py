"""A sync alone and with helpers, when waiting for HighLevel takes most of the time.

    python -m benchmarks.helpers [--users 2000] [--latency 0.3]

The users are idle: each gets an empty answer. Leader and helpers are separate processes, as runs
are. The helpers are ready when the work is offered; in production they start up to half a minute
later (a tick of the sensor, and the start of a run). Measured is the time from a sync's first query
of the database to its result.
"""

import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.context import SpawnProcess
from typing import Any, Final

import sqlalchemy as sa

from benchmarks import idle_highlevel
from benchmarks.figures import measured
from benchmarks.orchestration_world import TODAY, world
from voiceai_pipeline.calls.sync import Mode
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import open_pipeline

processes = multiprocessing.get_context("spawn")

SERVERS: Final = 4
"""Processes that answer requests: enough not to be the bottleneck."""


def lead(helpers: int, url: str, answer: Any) -> None:
    """One sync of today for all users; sends its seconds, CPU seconds and peak memory."""
    os.environ.update(HIGHLEVEL_API_URL=url, VOICEAI_HELPERS=str(helpers))
    with open_pipeline(Settings.load(os.environ)) as pipeline:
        answer.recv()
        with measured() as figures:
            results = pipeline.sync.sync_days([TODAY], mode=Mode.REREAD, run_id=f"{helpers}")
        complete = sum(row.read_until is not None for row in results)
    answer.send((figures.seconds, figures.cpu, figures.peak_mb, complete))


def help_it(leader: str, url: str, answer: Any) -> None:
    """Help once there is work; sends how many locations this process finished."""
    os.environ.update(HIGHLEVEL_API_URL=url)
    with open_pipeline(Settings.load(os.environ)) as pipeline:
        answer.send(0)
        query = sa.text("SELECT count(*) FROM work_units WHERE leader = :leader")
        while True:
            with pipeline.engine.begin() as db:
                if db.execute(query, {"leader": leader}).scalar_one():
                    break
            time.sleep(0.02)
        answer.send(pipeline.sync.help(leader, f"helper of {leader}", lambda: True))


def trial(helpers: int, urls: list[str]) -> tuple[float, float, float, int, list[int]]:
    """Run a sync with this many helpers; returns the leader's figures, and how many locations each
    helper finished."""
    started: list[SpawnProcess] = []

    def start(target: Any, *args: object) -> Any:
        ours, theirs = processes.Pipe()
        process = processes.Process(target=target, args=(*args, theirs), daemon=True)
        process.start()
        started.append(process)
        return ours

    leading = start(lead, helpers, urls[0])
    helping = [start(help_it, f"{helpers}", urls[(n + 1) % len(urls)]) for n in range(helpers)]
    for one in helping:
        one.recv()
    leading.send(None)
    figures = leading.recv()
    shares = [one.recv() for one in helping]
    for process in started:
        process.join()
    return (*figures, shares)


def main() -> None:
    """Serve, fill, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--latency", type=float, default=0.3)
    args = parser.parse_args()
    urls = []
    for _ in range(SERVERS):
        ours, theirs = processes.Pipe()
        processes.Process(
            target=idle_highlevel.serve, args=(theirs, args.latency), daemon=True
        ).start()
        urls.append(f"http://127.0.0.1:{ours.recv()}")
    print_row = "| {} | {} | {} | {} | {} | {} |\n".format
    write = sys.stdout.write
    with world(args.users):
        write(f"{args.users} idle users, {args.latency} s an answer, load {os.getloadavg()[0]}\n")
        write(print_row("workers", "wall s", "x one", "leader's CPU s", "peak MB", "shares"))
        alone = 0.0
        for helpers in (0, 1, 3):
            seconds, cpu, peak, complete, shares = trial(helpers, urls)
            if complete != args.users:
                raise SystemExit(f"{complete} of {args.users} are complete")
            alone = alone or seconds
            ratio = f"{alone / seconds:.2f}"
            write(
                print_row(helpers + 1, f"{seconds:.1f}", ratio, f"{cpu:.1f}", f"{peak:.0f}", shares)
            )


if __name__ == "__main__":
    main()

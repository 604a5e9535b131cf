"""How soon a call is stored after it has ended, and how fast messages are answered.

    python -m benchmarks.webhooks [--locations N] [--calls N] [--seconds N] [--burst N]

The web process and PostgreSQL are processes of their own, the sandbox is in this one, all on
loopback. First, calls end at random moments in all locations, and the sandbox announces them. Then
a burst arrives over 32 connections while HighLevel does not answer: call ends, messages without a
signature and repetitions, a third each. Last, forged, repeated and oversized messages arrive for a
while, as fast as they are answered; meanwhile pages are opened and calls keep ending.
"""

import argparse
import base64
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import UUID

import requests
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.sandbox.cast import DemoUser, make_location
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import running, sending
from voiceai_pipeline.sandbox.webhooks import message, signature
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.server import listen

PATH: Final = "/webhooks/highlevel"
CONNECTIONS: Final = 32
GOALS: Final = (5.0, 15.0, 0.050)
"""Seconds: median and 95th percentile from end to row, median of an answer (REQUIREMENTS W3, W4).
"""


def world_of(locations: int) -> World:
    """Locations without calls, each with a user."""
    places = [make_location(f"Bench {n}", n, "clinic", "UTC", 0) for n in range(locations)]
    users = [
        DemoUser(str(UUID(int=0xBE << 120 | n)), "", "", place.name, place.id, place.company_id)
        for n, place in enumerate(places)
    ]
    return World(users=tuple(users), locations=tuple(places))


def connect_all(pipeline: Pipeline, world: World, redirect_uri: str) -> None:
    for user in world.users:
        user_id = UUID(user.id)
        with pipeline.engine.begin() as db:
            connections.add_user(db, user_id, business_name=user.business_name)
        code = world.authorize(user.installs_on, user, list(REQUESTED_SCOPES), redirect_uri)
        pipeline.consent.connect(user_id, Secret(code))


@contextlib.contextmanager
def web_process(env: dict[str, str]) -> Iterator[str]:
    """The web process; yields its URL."""
    url = f"http://127.0.0.1:{env['VOICEAI_PAGE_PORT']}"
    argv = [sys.executable, "-m", "voiceai_pipeline.web"]
    with subprocess.Popen(argv, env=os.environ | env, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"{url}/health", timeout=1).ok:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def end_calls(world: World, calls: int, seconds: float) -> int:
    """Let calls end at random moments; returns how many."""
    moments = sorted(random.uniform(0, seconds) for _ in range(calls))  # noqa: S311
    begun = time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        world.calls.add(random.choice(list(world.locations)))  # noqa: S311
    return calls


def delays(engine: sa.Engine, expected: int) -> list[float]:
    """Seconds from the end of each call to its row. Waits until all are stored, for a minute at
    most."""
    query = sa.text("SELECT extract(epoch FROM first_seen_at - started_at)::float FROM call_logs")
    deadline = time.monotonic() + 60
    while True:
        with engine.connect() as db:
            found = sorted(db.execute(query).scalars())
        if len(found) >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def burst(url: str, world: World, messages: int) -> tuple[list[float], Counter[int]]:
    """Send a burst; returns the seconds until each message was answered, and counts of statuses."""
    places = list(world.locations)
    bodies: list[tuple[bytes, str]] = []
    for number in range(messages):
        if number % 3 == 2:
            bodies.append(bodies[number - 2])  # a repetition
            continue
        call = {"id": f"burst{number:019d}", "agentId": "AgtBench"}
        raw = json.dumps(
            message(
                "VoiceAiCallEnd", world.now_ms(), locationId=places[number % len(places)], **call
            )
        ).encode()
        bodies.append((raw, signature(raw) if number % 3 == 0 else "N/A"))

    def send(share: Sequence[tuple[bytes, str]]) -> list[tuple[float, int]]:
        with requests.Session() as session:
            answers = []
            for raw, signed in share:
                begun = time.perf_counter()
                answer = session.post(
                    url + PATH, data=raw, headers={"X-GHL-Signature": signed}, timeout=60
                )
                answers.append((time.perf_counter() - begun, answer.status_code))
            return answers

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [bodies[n::CONNECTIONS] for n in range(CONNECTIONS)]
        answered = [one for share in pool.map(send, shares) for one in share]
    return sorted(seconds for seconds, _ in answered), Counter(status for _, status in answered)


def flood(url: str, world: World, seconds: float, calls: int) -> tuple[Counter[int], list[float]]:
    """Send a flood of worthless messages; returns counts of statuses, and the seconds that pages
    took meanwhile."""
    known = json.dumps(message("ContactCreate", world.now_ms())).encode()
    until = time.monotonic() + seconds

    def send(number: int) -> Counter[int]:
        bodies = ((b"{}", "N/A"), (known, signature(known)), (bytes((1 << 20) + 1), "N/A"))
        statuses: Counter[int] = Counter()
        while time.monotonic() < until:
            raw, signed = bodies[(statuses.total() + number) % 3]
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.post(
                    url + PATH, data=raw, headers={"X-GHL-Signature": signed}, timeout=60
                )
                statuses[answer.status_code] += 1
        return statuses

    pages: list[float] = []
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        senders = [pool.submit(send, number) for number in range(CONNECTIONS)]
        ending = pool.submit(end_calls, world, calls, seconds)
        while time.monotonic() < until:
            begun = time.perf_counter()
            requests.get(f"{url}/", timeout=60).raise_for_status()
            pages.append(time.perf_counter() - begun)
            time.sleep(0.2)
        ending.result()
        return sum((one.result() for one in senders), Counter()), sorted(pages)


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    parser.add_argument("--locations", type=int, default=200)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--burst", type=int, default=2000)
    parser.add_argument("--flood", type=float, default=60, help="seconds")
    given = parser.parse_args(arguments)
    world = world_of(given.locations)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = stack.enter_context(EmbeddedPostgres.hold(home / "server"))
        server.create_database("bench")
        sandbox = stack.enter_context(running(world, limits=False))
        with contextlib.closing(listen("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env = {
            "VOICEAI_HOME": str(home / "home"),
            "VOICEAI_DATABASE_URL": server.url("bench"),
            "VOICEAI_TOKEN_KEYS": f"bench:{base64.b64encode(bytes(32)).decode()}",
            "VOICEAI_SANDBOX_PORT": sandbox.url.rpartition(":")[2],
            "VOICEAI_PAGE_PORT": str(port),
        }
        settings = Settings.load(env)
        pipeline = stack.enter_context(open_pipeline(settings))
        migrate.upgrade(pipeline.engine)
        connect_all(pipeline, world, settings.highlevel.redirect_uri)
        url = stack.enter_context(web_process(env))
        with sending(world, url + PATH):
            ended = end_calls(world, given.calls, given.seconds)
            stored = delays(pipeline.engine, ended)
        world.add_fault(Fault("stall", "*", seconds=20))
        answers, statuses = burst(url, world, given.burst)
        world.clear_faults()
        world.stop()
        with sending(world, url + PATH):
            flooded, pages = flood(url, world, given.flood, given.calls)
            survived = delays(pipeline.engine, ended + given.calls)
    sys.stdout.write(
        f"{flooded.total()} worthless messages in {given.flood:.0f} s, {dict(flooded)}: "
        f"{len(survived) - len(stored)} of {given.calls} calls stored meanwhile; a page took "
        f"{statistics.median(pages) * 1000:.0f} ms at the median, {pages[-1] * 1000:.0f} at most\n"
    )
    is_whole = len(survived) >= ended + given.calls
    return _report(stored, ended, answers, statuses) or int(not is_whole)


def _report(
    stored: Sequence[float], ended: int, answers: Sequence[float], statuses: Counter[int]
) -> int:
    median, late = statistics.median(stored), stored[int(len(stored) * 0.95)]
    answer = statistics.median(answers)
    sys.stdout.write(
        f"{len(stored)} of {ended} calls stored; from end to row: median {median:.1f} s, "
        f"95th percentile {late:.1f} s, longest {stored[-1]:.1f} s\n"
        f"{len(answers)} messages over {CONNECTIONS} connections while HighLevel stalls: "
        f"median {answer * 1000:.0f} ms, longest {answers[-1] * 1000:.0f} ms, {dict(statuses)}\n"
    )
    is_met = len(stored) >= ended and median <= GOALS[0] and late <= GOALS[1] and answer <= GOALS[2]
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())

"""The contenders. Each is a process of its own that loads the same calls into its own database.

    python -m benchmarks.contenders     # a job as JSON on stdin, the figures as JSON on stdout

Imports are done before the clock starts; from then on everything counts, including the opening of
connections. docs/performance.md describes each contender, and what was tried to make the others
fast.
"""

import asyncio
import cProfile
import hashlib
import heapq
import io
import json
import logging
import os
import pstats
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import requests
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from benchmarks import lean
from benchmarks.figures import Figures, measured
from benchmarks.server import PATH
from benchmarks.world import PAGE_SIZE, Shape, location_id, request_headers
from voiceai_pipeline.calls.sync import WORKERS
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.days import DAYS_PER_RUN, DayState, day_range
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.tables import call_logs
from voiceai_pipeline.pipeline import open_pipeline

NAMES = {
    "dagster": "ours, through Dagster",
    "ours": "ours, without Dagster",
    "lean": "the leanest loader",
    "bound": "the bound",
    "dlt": "dlt, tuned",
    "plain": "plain loop",
}
TABLES = {"dlt": "bench.call_logs", "lean": lean.TABLE}
"""The tables of contenders that have their own; all others load ``call_logs``."""


@dataclass(frozen=True)
class Job:
    """What to load, from where, and into which database.

    Attributes:
        locations, days: how many of the shape's, counted from the first.
        home: the folder that belongs to this database; a second run gets the same one.
        copy_from: a file of the rows, written by PostgreSQL; None if there is nothing to write.
        profile: print where the CPU time goes, instead of measuring.
    """

    contender: str
    shape: Shape
    locations: int
    days: int
    api_url: str
    database_url: str
    dagster_url: str
    home: str
    copy_from: str | None = None
    profile: bool = False

    @property
    def window(self) -> tuple[date, date]:
        """The first and the last day."""
        return self.shape.first_day, self.shape.first_day + timedelta(days=self.days - 1)

    @property
    def epoch_ms(self) -> tuple[int, int]:
        """The window in epoch milliseconds, both ends inclusive."""
        first, last = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in self.window)
        return (
            round(first.timestamp() * 1000),
            round((last + timedelta(days=1)).timestamp() * 1000) - 1,
        )

    def environment(self) -> dict[str, str]:
        """The pipeline's settings as environment variables; the secrets are invented."""
        return {
            "VOICEAI_HOME": self.home,
            "VOICEAI_DATABASE_URL": self.database_url,
            "VOICEAI_TOKEN_KEYS": "bench:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
            "VOICEAI_START_DATE": self.shape.first_day.isoformat(),
            "DAGSTER_POSTGRES_URL": self.dagster_url,
            "HIGHLEVEL_CLIENT_ID": "65f0c0ffee0000000000c001-bench",
            "HIGHLEVEL_CLIENT_SECRET": "bench",
            "HIGHLEVEL_AUTH_URL": f"{self.api_url}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{self.api_url}/oauth/token",
            "HIGHLEVEL_API_URL": self.api_url,
        }


# Ours ---------------------------------------------------------------------------------------------


def ours(job: Job) -> Figures:
    """Load the range with one call of ``Sync.sync_days``."""
    first, last = job.window
    with measured() as figures, open_pipeline(Settings.load(os.environ)) as pipeline:
        days = day_range(first, last)
        outcomes = pipeline.sync.sync_days(days)
    if unfinished := [o for o in outcomes if o.state is not DayState.COMPLETE]:
        raise RuntimeError(f"{len(unfinished)} days are not complete: {unfinished[0].message}")
    return figures


def dagster(job: Job) -> Figures:
    """Materialize ``call_logs`` by the job ``sync_calls``, with dagster-postgres: one run, or for a
    longer range the runs of a backfill, one after the other."""
    import dagster as dg

    from voiceai_pipeline.definitions import defs
    from voiceai_pipeline.defs import partitions

    first, last = job.window
    with measured() as figures, dg.DagsterInstance.from_config(str(PROJECT)) as instance:
        while first <= last:
            end = min(last, first + timedelta(days=DAYS_PER_RUN - 1))
            defs.resolve_job_def("sync_calls").execute_in_process(
                instance=instance,
                tags=partitions.range_tags(first, end),
            )
            first = end + timedelta(days=1)
    return figures


# The others ---------------------------------------------------------------------------------------


def plain(job: Job) -> Figures:
    """User after user, page after page: a request, then an upsert of its rows in a transaction."""
    start, end = job.epoch_ms
    engine = sa.create_engine(job.database_url)
    fixed = ("location_id", "call_id", "first_seen_at")
    with measured() as figures, requests.Session() as session:
        for number in range(job.locations):
            page = 0
            while True:
                page += 1
                query = _query(number, start, end, page)
                while True:
                    answer = session.get(
                        f"{job.api_url}{PATH}",
                        params=query,
                        headers=request_headers(number),
                        timeout=60,
                    )
                    if answer.status_code != 429:
                        break
                    time.sleep(10)
                answer.raise_for_status()
                items = answer.json()["callLogs"]
                if items:
                    statement = insert(call_logs).values([_row(number, item) for item in items])
                    updates = {
                        column.name: column
                        for column in statement.excluded
                        if column.name not in fixed
                    }
                    with engine.begin() as db:
                        db.execute(
                            statement.on_conflict_do_update(
                                index_elements=["location_id", "call_id"], set_=updates
                            )
                        )
                if len(items) < PAGE_SIZE:
                    break
    engine.dispose()
    return figures


def _query(location: int, start: int, end: int, page: int) -> dict[str, Any]:
    return {
        "locationId": location_id(location),
        "startDate": start,
        "endDate": end,
        "sortBy": "createdAt",
        "sort": "ascend",
        "page": page,
        "pageSize": PAGE_SIZE,
    }


def _row(location: int, item: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "location_id": location_id(location),
        "call_id": item["id"],
        "agent_id": item.get("agentId"),
        "contact_id": item.get("contactId"),
        "from_number": item.get("fromNumber"),
        "started_at": datetime.fromisoformat(item["createdAt"]),
        "duration_seconds": item.get("duration"),
        "is_trial": item.get("trialCall"),
        "is_agent_deleted": item.get("isAgentDeleted"),
        "summary": item.get("summary"),
        "transcript": item.get("transcript"),
        "executed_call_actions": item.get("executedCallActions"),
        "extracted_data": item.get("extractedData"),
        "message_id": item.get("messageId"),
        "raw": item,
        "content_hash": hashlib.sha256(json.dumps(item).encode()).digest(),
        "first_seen_at": now,
        "last_changed_at": now,
    }


def leanest(job: Job) -> Figures:
    """What one would write by hand if only speed mattered: ``lean``."""
    with measured() as figures:
        lean.load(job)
    return figures


def bound(job: Job) -> Figures:
    """The fewest requests, as many of them concurrent as ours, with bodies thrown away; then a COPY
    of the finished rows. With this concurrency nothing can be faster, except by overlapping the
    two."""
    with measured() as figures:
        asyncio.run(_fetch_all(job))
        asked = time.monotonic()
        if job.copy_from:
            _copy(job.database_url, Path(job.copy_from))
        copied = time.monotonic()
    figures.parts = {"requests": figures.seconds - (copied - asked), "COPY": copied - asked}
    return figures


@dataclass(order=True)
class _Walk:
    """A location's progress: when it may be requested next, and which page."""

    ready_at: float
    location: int
    page: int = 1
    sent: deque[float] = field(default_factory=lambda: deque(maxlen=100), compare=False)


async def _fetch_all(job: Job) -> None:
    """Always continue with the location whose limit allows a request soonest, so that no worker
    waits for one limit while another location can be read."""
    host, port = job.api_url.removeprefix("http://").split(":")
    start, end = job.epoch_ms
    last = job.shape.fewest_requests(job.days)
    walks = [_Walk(0.0, number) for number in range(job.locations)]

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        # A worker that finds none left stops; the others continue with theirs.
        while walks:
            walk = heapq.heappop(walks)
            await asyncio.sleep(walk.ready_at - time.monotonic())
            walk.sent.append(time.monotonic())
            writer.write(_request(job, walk.location, start, end, walk.page))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
            status = int(head[9:12])
            if status not in (200, 429):
                raise RuntimeError(head.decode())
            walk.page += status == 200
            # 5 ms more than the limit's 10 s, because the server counts from a request's arrival.
            spent = job.shape.limits and len(walk.sent) == 100
            walk.ready_at = max(time.monotonic(), walk.sent[0] + 10.005 if spent else 0.0)
            if walk.page <= last:
                heapq.heappush(walks, walk)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(worker() for _ in range(min(WORKERS, job.locations))))


def _request(job: Job, location: int, start: int, end: int, page: int) -> bytes:
    request = requests.Request(
        "GET", job.api_url + PATH, params=_query(location, start, end, page)
    ).prepare()
    lines = [f"GET {request.path_url} HTTP/1.1", "Host: bench"]
    lines += [f"{name}: {value}" for name, value in request_headers(location).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _copy(url: str, source: Path) -> None:
    with (
        psycopg.connect(url.replace("+psycopg", "")) as db,
        db.cursor().copy("COPY call_logs FROM STDIN (FORMAT binary)") as copy,
        source.open("rb") as file,
    ):
        while block := file.read(1 << 20):
            copy.write(block)


# A process ----------------------------------------------------------------------------------------


def by_dlt(job: Job) -> Figures:
    """dlt's ``rest_api`` source into a table of its own: ``by_dlt``."""
    os.environ["DLT_DATA_DIR"] = f"{job.home}/dlt"  # read at import; the default is the user's
    from benchmarks.by_dlt import load

    return load(job)


CONTENDERS: dict[str, Callable[[Job], Figures]] = {
    "dagster": dagster,
    "ours": ours,
    "lean": leanest,
    "bound": bound,
    "dlt": by_dlt,
    "plain": plain,
}


def profiled(run: Callable[[Job], Figures], job: Job) -> str:
    """Where the CPU time of all threads goes, without waiting, as text of pstats. Python 3.11 only:
    later versions allow one profile per process."""
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    # Each new thread calls this once: enabling a profile replaces it.
    threading.setprofile(begin)
    begin()
    run(job)
    for profile in profiles:
        profile.disable()
    text = io.StringIO()
    stats = pstats.Stats(profiles[0], stream=text)
    for profile in profiles[1:]:
        stats.add(profile)
    stats.strip_dirs().sort_stats("tottime").print_stats(30)
    stats.sort_stats("cumtime").print_stats("voiceai|sync|calls|client|redact", 30)
    return text.getvalue()


def main() -> None:
    """Run one job."""
    fields = json.load(sys.stdin)
    job = Job(**fields | {"shape": Shape.from_json(fields["shape"])})
    os.environ.update(job.environment())
    logging.disable(logging.CRITICAL)
    run = CONTENDERS[job.contender]
    if job.profile:
        sys.stdout.write(json.dumps({"profile": profiled(run, job)}))
    else:
        sys.stdout.write(json.dumps(asdict(run(job))))


if __name__ == "__main__":
    main()

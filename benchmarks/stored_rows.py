"""What a run left in its database: how many rows, how many of them new, and whether they are
exactly the expected calls.
"""

import hashlib

import psycopg

from benchmarks.contenders import DLT_COLUMNS, Job
from benchmarks.world import call_id, location_id


def connect(job: Job) -> psycopg.Connection:
    return psycopg.connect(job.database_url.replace("+psycopg", ""))


def stored_rows(job: Job, before: int) -> tuple[int, int, bool]:
    """How many rows there are, how many were written since the transaction ``before``, and whether
    they are each expected call once and nothing else."""
    table, key, alive = "call_logs", "call_id", "missing_since IS NULL"
    if job.contender == "dlt":
        table, key, alive = "bench.call_logs", DLT_COLUMNS[1], "true"
    query = (
        f"SELECT location_id, count(*), md5(string_agg({key}, ',' ORDER BY {key} COLLATE \"C\")), "  # noqa: S608 - our own names
        f"count(*) FILTER (WHERE xmin::text::bigint >= {before}) "
        f"FROM {table} WHERE {alive} GROUP BY location_id"
    )
    with connect(job) as db:
        found = db.execute(query).fetchall()
    expected = {
        location_id(place): hashlib.md5(
            ",".join(call_id(place, n) for n in range(job.shape.calls(job.days))).encode(),
            usedforsecurity=False,
        ).hexdigest()
        for place in range(job.locations)
    }
    is_exact = {row[0]: row[2] for row in found} == expected
    return sum(row[1] for row in found), sum(row[3] for row in found), is_exact

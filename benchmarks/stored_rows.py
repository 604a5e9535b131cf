"""What a run left in its database: how many rows, how many of them it wrote, and whether they are
exactly the expected calls.
"""

import hashlib
from dataclasses import dataclass

import psycopg

from benchmarks.contenders import TABLES, Job
from benchmarks.world import call_id, location_id


def connect(job: Job) -> psycopg.Connection:
    return psycopg.connect(job.database_url.replace("+psycopg", ""))


@dataclass(frozen=True)
class Footprint:
    """Bytes: of the table with its indexes and TOAST, and of the WAL written so far."""

    stored: int = 0
    wal: int = 0


def footprint(job: Job) -> Footprint:
    """The size of the contender's table now, and the server's position in the WAL."""
    query = (
        "SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0), "
        "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    )
    with connect(job) as db:
        stored, wal = db.execute(query, [TABLES.get(job.contender, "call_logs")]).fetchall()[0]
    return Footprint(stored, wal)


def stored_rows(job: Job, before: int) -> tuple[int, int, bool]:
    """How many rows there are, how many were written since the transaction ``before``, and whether
    the rows are exactly the expected calls, once each."""
    table = TABLES.get(job.contender, "call_logs")
    key = "id" if job.contender == "dlt" else "call_id"
    alive = "true" if job.contender in TABLES else "missing_since IS NULL"
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
        if job.shape.calls(job.days)
    }
    is_exact = {row[0]: row[2] for row in found} == expected
    return sum(row[1] for row in found), sum(row[3] for row in found), is_exact

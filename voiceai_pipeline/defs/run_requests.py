"""Which runs a sensor requests for what is due. Pure: ``now`` is an argument, nothing is read.

A run key is used up even if its run fails, so each contains the time of the request, rounded.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

import dagster as dg

from voiceai_pipeline.core.days import DAYS_PER_RUN, stretches
from voiceai_pipeline.defs import jobs, partitions

BATCH: Final = 500
"""How many users a run request names; a run for more looks up the users that are due."""

AGAIN: Final = timedelta(minutes=10)
"""A run for the same purpose is requested at most this often."""

RUNS_PER_TICK: Final = 5

COLOURS_EVERY: Final = timedelta(seconds=20)
"""A day may become red, green and red again within a minute, so the same run is due again soon."""


def refresh(user_ids: Collection[UUID], now: datetime) -> dg.RunRequest:
    """One run in ten minutes: a failed refresh is retried, but not at every tick."""
    named = [str(user_id) for user_id in user_ids] if len(user_ids) <= BATCH else []
    return dg.RunRequest(
        run_key=f"refresh {_bucket(now, AGAIN)}",
        run_config={"ops": {"refresh_due_tokens": {"config": {"user_ids": named}}}},
    )


def alerts(pending: Collection[str], now: datetime) -> dg.RunRequest:
    """One run in ten minutes for the same alerts; a new alert is delivered at once."""
    ids = hashlib.sha256(" ".join(sorted(pending)).encode()).hexdigest()[:16]
    return dg.RunRequest(run_key=f"alerts {ids} {_bucket(now, AGAIN)}")


def marts(
    stale: Mapping[date, Collection[str]], fingerprint: str, now: datetime
) -> list[dg.RunRequest]:
    """Runs that build the stale days, newest first; a failed one is retried in ten minutes.

    Args:
        stale: by day, the ids of the locations.
        fingerprint: changes with what is stale, so that something new is built at once.
    """
    requests = []
    for stretch in reversed(stretches(sorted(stale), DAYS_PER_RUN)):
        locations = sorted({location_id for day in stretch for location_id in stale[day]})
        config = {"location_ids": locations if len(locations) <= BATCH else []}
        requests.append(
            dg.RunRequest(
                run_key=f"marts {stretch[0]} {stretch[-1]} {fingerprint} {_bucket(now, AGAIN)}",
                run_config={"ops": {"marts": {"config": config}}},
                tags=partitions.range_tags(stretch[0], stretch[-1]),
            )
        )
    return requests[:RUNS_PER_TICK]


def colours(now: datetime) -> dg.RunRequest:
    """One run for all days whose colour is wrong; the run finds them."""
    return dg.RunRequest(run_key=f"colours {_bucket(now, COLOURS_EVERY)}")


def first_looks(user_ids: list[str]) -> list[dg.RunRequest]:
    """Runs that fill the partitions of new users and read the names of their locations."""
    key = f"{user_ids[0]} and {len(user_ids) - 1} more"
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": user_ids}}}}
    look = dg.RunRequest(f"connect {key}", job_name=jobs.refresh_tokens.name, run_config=config)
    if len(user_ids) > BATCH:
        look = dg.RunRequest(f"connect {key}", job_name=jobs.inspect_connections.name)
    return [look, dg.RunRequest(f"name {key}", job_name=jobs.update_directory.name)]


def resyncs(
    reason: str, due: Iterable[tuple[UUID, date]], now: datetime, every: timedelta
) -> list[dg.RunRequest]:
    """Runs over ranges of days; the ledger decides which users of a range are read.

    Args:
        reason: a word for the run key.
        due: pairs of a user and a day.
        every: a run for the same range and reason is requested at most this often.
    """
    by_day: dict[date, set[UUID]] = {}
    for user_id, day in due:
        if day >= partitions.FIRST_DAY:
            by_day.setdefault(day, set()).add(user_id)
    requests = []
    for stretch in stretches(sorted(by_day), DAYS_PER_RUN)[:RUNS_PER_TICK]:
        users = sorted({str(user_id) for day in stretch for user_id in by_day[day]})
        config = {"user_ids": users if len(users) <= BATCH else [], "only_failed": True}
        requests.append(
            dg.RunRequest(
                run_key=f"{reason} {stretch[0]} {stretch[-1]} {_bucket(now, every)}",
                job_name=jobs.resync_failed_users.name,
                run_config={"ops": {"call_logs": {"config": config}}},
                tags=partitions.range_tags(stretch[0], stretch[-1]),
            )
        )
    return requests


def _bucket(now: datetime, every: timedelta) -> int:
    return int(now.timestamp() // every.total_seconds())

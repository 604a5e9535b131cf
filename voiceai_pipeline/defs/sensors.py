"""What happens when something is due. A sensor reads SQL and asks for a run; it never speaks to
HighLevel, because a tick is killed after 60 seconds (decision 4).

What is due is decided by pure functions of the core, with the time as an argument. A run key is
spent even when its run fails, so each carries the time it was asked for, rounded.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import FIRST_DAYS, RETRIED, RETRY_DELAYS
from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DAYS_PER_RUN, stretches
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import dagster_channel, dagster_internals, jobs, partitions

BATCH: Final = 500
"""How many users a run request names; a run for more finds out itself who is due."""

AGAIN: Final = timedelta(minutes=10)
"""How long a run is left to do its work before another is asked for with the same purpose."""

STUCK: Final = timedelta(hours=1)
"""A run that takes longer hangs, and must not keep the others from what it was to do."""

PATIENCE: Final = timedelta(seconds=12)
"""For one query. A tick makes four at most and is killed at 60 seconds, without a word."""

RUNS_PER_TICK: Final = 5


@dg.sensor(
    job=jobs.refresh_tokens,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a renewal of tokens whose planned time has come or that have expired, of "
    "those whose last renewal is in doubt, and of paused connections whose rest is over.",
)
def expiring_tokens(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.RunRequest | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        due = connections.due_for_refresh(db, now)
    if not due:
        return dg.SkipReason("No token is due for renewal.")
    if _is_under_way(context.instance, jobs.refresh_tokens.name, since=now - STUCK):
        # Two batches at once would be twice as fast as HighLevel is asked at most.
        return dg.SkipReason("Tokens are being renewed; looking again after that.")
    user_ids = [str(connection.user.id) for connection in due] if len(due) <= BATCH else []
    return dg.RunRequest(
        # One run in 10 minutes: a user whose refresh fails is tried again, not hammered.
        run_key=f"refresh {_bucket(now, AGAIN)}",
        run_config={"ops": {"refresh_due_tokens": {"config": {"user_ids": user_ids}}}},
    )


@dg.sensor(
    job=jobs.send_alerts,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has people told that a connection began to need them, or works again: once each "
    "and on every configured channel. What a channel did not take is tried again after 10 minutes.",
)
def connection_alerts(
    context: dg.SensorEvaluationContext,
    database: dg.ResourceParam[sa.Engine],
    settings: dg.ResourceParam[Settings],
) -> dg.RunRequest | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        pending = {
            f"{notice.alert_id}.{notice.moment}"
            for channel in dagster_channel.names(settings.alerts)
            for notice in alerts.pending(db, channel)
        }
    if not pending:
        return dg.SkipReason("Everybody knows; nothing has begun to need a person since.")
    # Two at once would tell people twice. One that hangs must not keep them in the dark.
    if _is_under_way(context.instance, jobs.send_alerts.name, since=now - AGAIN):
        return dg.SkipReason("Notices are being delivered; looking again after that.")
    ids = hashlib.sha256(" ".join(sorted(pending)).encode()).hexdigest()[:16]
    return dg.RunRequest(run_key=f"alerts {ids} {_bucket(now, AGAIN)}")


@dg.sensor(
    job=jobs.resync_failed_users,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks again for days that failed and may pass by themselves, with growing delay "
    "and an end; never for what needs a person.",
)
def failed_user_syncs(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> list[dg.RunRequest] | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        able = {person.user.id for person in connections.all_connections(db) if person.can_sync}
        due = ledger.due_for_retry(db, able, RETRIED, RETRY_DELAYS, now, partitions.FIRST_DAY)
    if not due:
        return dg.SkipReason("No failed day is due for another attempt.")
    # What is being read again is still due by the ledger: nobody is asked for twice.
    if _is_under_way(context.instance, jobs.resync_failed_users.name, since=now - STUCK):
        return dg.SkipReason("Failed days are being read again; looking again after that.")
    return _runs("retry", due, now, timedelta(minutes=15))


@dg.sensor(
    jobs=[
        jobs.resync_failed_users,
        jobs.refresh_tokens,
        jobs.inspect_connections,
        jobs.update_directory,
    ],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Gives every user a partition; fills the days that waited for a user who is back, "
    f"and the last {FIRST_DAYS} days of a user who is new.",
)
def new_users(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.SensorResult:
    with _reading(database) as db:
        now = database_now(db)
        people = connections.all_connections(db)
        able = {person.user.id for person in people if person.can_sync}
        waiting = ledger.waiting(db, able, partitions.FIRST_DAY)
        new = ledger.never_synced(db, able)
    today = now.astimezone(ZoneInfo(partitions.days.timezone)).date()
    last_days = [today - timedelta(days=ago) for ago in range(1, FIRST_DAYS + 1)]
    due = {*waiting, *((user_id, day) for user_id in new for day in last_days)}
    busy = bool(due) and _is_syncing(context.instance)
    listed = set(context.instance.get_dynamic_partitions(partitions.USERS))
    unlisted = sorted({str(person.user.id) for person in people} - listed)
    requests = [] if busy else _runs("fill", due, now, timedelta(minutes=5))
    if unlisted:
        requests += _first_looks(unlisted)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else _why_nothing(busy),
        dynamic_partitions_requests=[partitions.users.build_add_request(unlisted)]
        if unlisted
        else [],
    )


@dg.sensor(
    job=jobs.build_marts,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has the marts computed anew wherever calls were read since, of whatever day and "
    "by whomever, where a location's time zone turned out to be another, or definitions changed.",
)
def stale_marts(
    context: dg.SensorEvaluationContext,
    database: dg.ResourceParam[sa.Engine],
    settings: dg.ResourceParam[Settings],
) -> list[dg.RunRequest] | dg.SkipReason:
    from voiceai_pipeline.marts.build import Marts  # pandas: see Pipeline.marts

    zone = ZoneInfo(partitions.days.timezone)
    since = datetime.fromisoformat(context.cursor) if context.cursor else None
    marts = Marts(database, zone, settings.metrics)
    with _reading(database) as db:
        now = database_now(db)
        stale = marts.stale(since, partitions.FIRST_DAY, now.astimezone(zone).date())
    if not stale.days:
        context.update_cursor(stale.checked_until.isoformat())
        return dg.SkipReason("Every mart has seen the newest calls.")
    if _is_under_way(context.instance, jobs.build_marts.name, since=now - STUCK):
        return dg.SkipReason(f"{len(stale.days)} days are stale; marts are being computed.")
    requests = []
    # The newest days first: those are looked at.
    for stretch in reversed(stretches(sorted(stale.days), DAYS_PER_RUN)):
        places = sorted({place for day in stretch for place in stale.days[day]})
        config = {"location_ids": places if len(places) <= BATCH else []}
        requests.append(
            dg.RunRequest(
                # A build that fails is tried again in 10 minutes, unless there is something new.
                run_key=f"marts {stretch[0]} {stretch[-1]} {stale.fingerprint} "
                f"{_bucket(now, AGAIN)}",
                run_config={"ops": {"marts": {"config": config}}},
                tags=partitions.range_tags(stretch[0], stretch[-1]),
            )
        )
    return requests[:RUNS_PER_TICK]


def _first_looks(user_ids: list[str]) -> list[dg.RunRequest]:
    """Fill the cells of users who have just been listed, and the names of their locations."""
    key = f"{user_ids[0]} and {len(user_ids) - 1} more"
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": user_ids}}}}
    look = dg.RunRequest(f"connect {key}", job_name=jobs.refresh_tokens.name, run_config=config)
    if len(user_ids) > BATCH:
        look = dg.RunRequest(f"connect {key}", job_name=jobs.inspect_connections.name)
    return [look, dg.RunRequest(f"name {key}", job_name=jobs.update_directory.name)]


def _why_nothing(busy: bool) -> str:
    if busy:
        return "A sync is under way; looking again after it."
    return "Nobody is new and nobody has come back."


def _is_syncing(instance: dg.DagsterInstance) -> bool:
    """True while calls are read or about to be: what is under way is not in the ledger yet."""
    syncing = {jobs.sync_calls.name, jobs.sync_users.name, jobs.resync_failed_users.name}
    return dagster_internals.is_backfill_requested(instance) or any(
        run.job_name in syncing or dg.AssetKey("call_logs") in (run.asset_selection or ())
        for run in _under_way(instance)
    )


@contextmanager
def _reading(database: sa.Engine, patience: timedelta = PATIENCE) -> Iterator[sa.Connection]:
    """A transaction in which a slow database ends the tick, with a sentence, before Dagster does.

    Nothing is lost by that: what is due is in the tables, and the next tick finds it.
    """
    try:
        with database.begin() as db:
            milliseconds = str(round(patience / timedelta(milliseconds=1)))
            db.execute(sa.select(sa.func.set_config("statement_timeout", milliseconds, True)))
            yield db
    except sa.exc.OperationalError as error:
        raise dg.Failure(
            f"{cleaned(str(database_error(error)))} The next tick looks again.", allow_retries=False
        ) from None


def _is_under_way(instance: dg.DagsterInstance, job_name: str, since: datetime) -> bool:
    return any(run.job_name == job_name for run in _under_way(instance, since))


def _under_way(
    instance: dg.DagsterInstance, since: datetime | None = None
) -> Sequence[dg.DagsterRun]:
    """Runs that have not ended; only those asked for after ``since``, if it is given."""
    unfinished = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
        ],
        created_after=since,
    )
    return instance.get_runs(unfinished, limit=100)


def _runs(
    reason: str, due: Iterable[tuple[UUID, date]], now: datetime, every: timedelta
) -> list[dg.RunRequest]:
    """Runs over ranges of days: the ledger decides who is read, so a range may be generous."""
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

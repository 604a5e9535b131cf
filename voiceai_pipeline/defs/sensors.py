"""The sensors. A tick reads SQL and requests runs; it never calls HighLevel, because Dagster kills
a tick after 60 seconds (decision 4).

``calls`` and ``connections`` say what is due, ``run_requests.py`` which runs to request for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import FIRST_DAYS, RETRIED, RETRY_DELAYS
from voiceai_pipeline.connections import alerts, pauses
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import (
    colours,
    dagster_channel,
    dagster_internals,
    dead_runs,
    helpers,
    jobs,
    partitions,
    run_requests,
)

STUCK: Final = timedelta(hours=1)
"""A run that takes longer is assumed to hang and no longer holds back others."""

PATIENCE: Final = timedelta(seconds=12)
"""Time-out of each query, so that a slow one fails the tick before Dagster kills it."""


@dg.sensor(
    job=jobs.refresh_tokens,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Refreshes tokens that are due or expired and those whose last refresh is in "
    "doubt, and retries paused connections.",
)
def expiring_tokens(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.RunRequest | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        due = connections.due_for_refresh(db, now)
    if not due:
        return dg.SkipReason("No token is due for refresh.")
    if _is_under_way(context.instance, jobs.refresh_tokens.name, since=now - STUCK):
        # Two batches at once would call HighLevel at twice the rate we allow.
        return dg.SkipReason("A token refresh is running; the next tick looks again.")
    return run_requests.refresh([connection.user.id for connection in due], now)


@dg.sensor(
    job=jobs.send_alerts,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert when a connection needs action, or works again: once each, on "
    "every configured channel. A failed delivery is retried after 10 minutes.",
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
        return dg.SkipReason("No undelivered alerts.")
    # Two runs at once would alert twice; a run that hangs must not hold back later alerts.
    if _is_under_way(context.instance, jobs.send_alerts.name, since=now - run_requests.AGAIN):
        return dg.SkipReason("Alerts are being delivered; the next tick looks again.")
    return run_requests.alerts(pending, now)


@dg.sensor(
    job=jobs.resync_failed_users,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Re-syncs failed days whose cause may be temporary, with growing delays and a "
    "limited number of attempts; never days that need action.",
)
def failed_user_syncs(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> list[dg.RunRequest] | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        # Usually no user. Reading all connections may build 100,000 objects at every tick.
        first = partitions.first_day(now)
        failed = ledger.users_with(db, DayState.FAILED, first)
        able = connections.able(db, failed)
        due = ledger.due_for_retry(db, able, RETRIED, RETRY_DELAYS, now, first)
        paused = pauses.count(db)
    if not due:
        return dg.SkipReason(f"No failed day is due for another attempt.{_left_out(paused)}")
    # Days that are being re-synced are still due in the ledger: they are not requested twice.
    if _is_under_way(context.instance, jobs.resync_failed_users.name, since=now - STUCK):
        return dg.SkipReason("Failed days are being re-synced; the next tick looks again.")
    return run_requests.resyncs("retry", due, now, timedelta(minutes=15))


@dg.sensor(
    jobs=[
        jobs.resync_failed_users,
        jobs.refresh_tokens,
        jobs.inspect_connections,
        jobs.update_directory,
    ],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for every user. Syncs the waiting days of a user whose "
    f"connection works again, and for a new user today and the {FIRST_DAYS} days before it.",
)
def new_users(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.SensorResult:
    with _reading(database) as db:
        now = database_now(db)
        everyone = connections.user_ids(db)
        first = partitions.first_day(now)
        blocked = ledger.users_with(db, DayState.WAITING, first)
        waiting = ledger.waiting(db, connections.able(db, blocked), first)
        new = connections.able(db, ledger.unread_users(db))
        paused = pauses.count(db)
    today = now.astimezone(ZoneInfo(partitions.days.timezone)).date()
    first_days = [today - timedelta(days=ago) for ago in range(FIRST_DAYS + 1)]
    due = {*waiting, *((user_id, day) for user_id in new for day in first_days)}
    busy = bool(due) and _is_syncing(context.instance)
    listed = set(context.instance.get_dynamic_partitions(partitions.USERS))
    unlisted = sorted({str(user_id) for user_id in everyone} - listed)
    requests = [] if busy else run_requests.resyncs("fill", due, now, timedelta(minutes=5))
    if unlisted:
        requests += run_requests.first_looks(unlisted)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else _why_nothing(busy) + _left_out(paused),
        dynamic_partitions_requests=[partitions.users.build_add_request(unlisted)]
        if unlisted
        else [],
    )


@dg.sensor(
    job=jobs.correct_colours,
    minimum_interval_seconds=int(run_requests.COLOURS_EVERY.total_seconds()),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares the colours of the days of call_logs with the ledger, and corrects them, "
    "whatever ran or was cancelled: a day is green only if every connected user is complete.",
)
def wrong_colours(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.RunRequest | dg.SkipReason:
    with _reading(database) as db:
        now = database_now(db)
        turn = int(context.cursor or 0)
        wrong = colours.wrong_days(context.instance, db, now, turn=turn)
    context.update_cursor(str(turn + 1))
    if not wrong:
        return dg.SkipReason("The colour of every day matches the ledger.")
    # Two runs at once would record the same days twice.
    if _is_under_way(context.instance, jobs.correct_colours.name, since=now - STUCK):
        return dg.SkipReason("Colours are being corrected; the next tick looks again.")
    return run_requests.colours(now)


@dg.sensor(
    job=jobs.build_marts,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Recomputes the marts of every day whose calls were synced, whose location's time "
    "zone changed or whose definitions changed since they were built.",
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
        return dg.SkipReason("Every mart is up to date with the newest calls.")
    if _is_under_way(context.instance, jobs.build_marts.name, since=now - STUCK):
        return dg.SkipReason(f"{len(stale.days)} days are stale; marts are being computed.")
    return run_requests.marts(stale.days, stale.fingerprint, now)


@dg.sensor(
    minimum_interval_seconds=20,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails runs that gave no sign of life for a minute, because their process was "
    "killed or their machine was lost, and frees their slots. It does not matter where they were "
    "started.",
)
def silent_runs(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.SkipReason:
    with _reading(database) as db:
        failed, suspected = dead_runs.fail_silent_runs(context.instance, db, context.cursor)
    context.update_cursor(suspected)
    if failed:
        return dg.SkipReason(f"Failed, because their process is gone: {', '.join(failed)}.")
    return dg.SkipReason("Every active run gives signs of life.")


@dg.sensor(
    job=helpers.help_sync,
    minimum_interval_seconds=20,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts helpers for syncs that have many locations still to read, as many as "
    "VOICEAI_HELPERS allows: none by default.",
)
def open_work(
    context: dg.SensorEvaluationContext,
    database: dg.ResourceParam[sa.Engine],
    settings: dg.ResourceParam[Settings],
) -> list[dg.RunRequest] | dg.SkipReason:
    with _reading(database) as db:
        requests = helpers.requests(context.instance, db, settings.helpers)
    return requests or dg.SkipReason("No sync has work that more helpers could share.")


def _why_nothing(busy: bool) -> str:
    if busy:
        return "A sync is running; the next tick looks again."
    return "No new users, and no waiting days that can be synced."


def _left_out(paused: int) -> str:
    return f" Not read, because their syncs are paused: {paused} users." if paused else ""


def _is_syncing(instance: dg.DagsterInstance) -> bool:
    """Whether a sync is running or queued: its days are not in the ledger yet."""
    syncing = {jobs.sync_calls.name, jobs.sync_users.name, jobs.resync_failed_users.name}
    return dagster_internals.is_backfill_requested(instance) or any(
        run.job_name in syncing or dg.AssetKey("call_logs") in (run.asset_selection or ())
        for run in _under_way(instance)
    )


@contextmanager
def _reading(database: sa.Engine, patience: timedelta = PATIENCE) -> Iterator[sa.Connection]:
    """A transaction with a time-out: if the database is slow, the tick fails with a sentence before
    Dagster kills it.

    Nothing is lost: what is due is in the tables, and the next tick finds it.
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
    """Runs that have not ended; only those created after ``since``, if given."""
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

"""Whether every user is up to date: a check on ``sync_status`` that a sensor keeps current.

By the ledger and the clock, user by user. Dagster's own freshness (``FreshnessPolicy``,
``build_time_partition_freshness_checks``) looks at an asset, or at its newest partition: a backfill
of an old day turns the first green, and neither can name a user.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import day_status, ledger
from voiceai_pipeline.calls import queries as call_queries
from voiceai_pipeline.calls.day_status import DEADLINE, StaleUser
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import check_texts, checks, partitions
from voiceai_pipeline.defs.dagster_internals import log_check

NAME: Final = "every_connected_user_is_up_to_date"

_HOURS: Final = DEADLINE // timedelta(hours=1)


@dg.asset_check(
    asset="sync_status",
    name=NAME,
    description=f"Every connected user is complete up to the last day that ended {_HOURS} "
    "hours ago or earlier. Evaluated every five minutes, whatever runs; syncing an older day "
    "does not affect it.",
)
def every_connected_user_is_up_to_date(
    database: dg.ResourceParam[sa.Engine],
) -> dg.AssetCheckResult:
    return _look(database)[0]


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Evaluates whether every user is up to date and records it in the check "
    f"{NAME} of sync_status: when it changes, and once for each new day.",
)
def stale_users(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.SensorResult | dg.SkipReason:
    result, state = _look(database)
    if context.cursor == state:
        return dg.SkipReason("Nothing has changed since the last evaluation.")
    return dg.SensorResult(asset_events=[checks.evaluation(result)], cursor=state)


def record(context: dg.OpExecutionContext | dg.AssetExecutionContext, engine: sa.Engine) -> None:
    """Record it after a sync too: the UI shows a check as unknown if its asset has a newer event.

    Raises:
        dg.Failure: the database does not answer.
    """
    try:
        result, _ = _look(engine)
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    log_check(context, checks.evaluation(result))


def _look(engine: sa.Engine) -> tuple[dg.AssetCheckResult, str]:
    """The check's result now, and a fingerprint of what it names."""
    zone = ZoneInfo(partitions.days.timezone)
    with engine.begin() as db:
        now = database_now(db)
        due = day_status.day_due(now, zone)
        all_connections = connections.all_connections(db)
        places = {p.user.id: p.location_id for p in all_connections if p.can_sync and p.location_id}
        last = call_queries.last_complete_days(db, places, zone)
        behind = [user_id for user_id in places if user_id not in last or last[user_id] < due]
        rows = {row.user.id: row for row in ledger.results(db, days=[due], user_ids=behind)}
    failed = {user_id for user_id, row in rows.items() if row.state is DayState.FAILED}
    found = day_status.stale_users(all_connections, last, failed, due, now)
    return _result(found, rows, len(places), due), _state(found, due)


def _result(
    found: Sequence[StaleUser], rows: Mapping[UUID, DayResult], able: int, due: date
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="sync_status",
        check_name=NAME,
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR,
        description=check_texts.stale_text(found, rows, able, due)
        if found
        else f"All {able} connected users are complete up to {due}, or were connected less "
        f"than {_HOURS} hours ago."
        if able
        else "No user is connected.",
        metadata={
            "stale_users": len(found),
            "users_who_can_be_synced": able,
            "should_be_complete_up_to": str(due),
            "days_behind_at_most": max((one.days_behind or 0 for one in found), default=0),
        },
    )


def _state(found: Sequence[StaleUser], due: date) -> str:
    facts = [f"{one.connection.user.id} {one.last_complete}" for one in found]
    return hashlib.sha256(" ".join([str(due), *facts]).encode()).hexdigest()[:16]

"""Whether every user is up to date: a check on ``sync_status`` that a sensor keeps current.

It compares the ledger with the clock, user by user. Dagster's own ``FreshnessPolicy`` looks at the
whole asset, so a backfill of an old day makes it pass; ``build_time_partition_freshness_checks``
looks at the newest partition. Neither can name a user.
"""

from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls.day_status import DEADLINE
from voiceai_pipeline.calls.staleness import Staleness, staleness
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.database.engine import database_error
from voiceai_pipeline.defs import check_texts, checks, partitions
from voiceai_pipeline.defs.dagster_internals import log_check

NAME: Final = "every_connected_user_is_up_to_date"

_HOURS: Final = DEADLINE // timedelta(hours=1)


@dg.asset_check(
    asset="sync_status",
    name=NAME,
    description=f"Every connected user is complete up to the last day that ended {_HOURS} "
    "hours ago or earlier. Evaluated every five minutes, even if nothing runs; syncing an older "
    "day does not affect it.",
)
def every_connected_user_is_up_to_date(
    database: dg.ResourceParam[sa.Engine],
) -> dg.AssetCheckResult:
    return _evaluate(database)[0]


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Evaluates whether every user is up to date. Records the result in the check "
    f"{NAME} of sync_status when it changes, and once for each new day.",
)
def stale_users(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[sa.Engine]
) -> dg.SensorResult | dg.SkipReason:
    result, state = _evaluate(database)
    if context.cursor == state:
        return dg.SkipReason("Nothing has changed since the last evaluation.")
    return dg.SensorResult(asset_events=[checks.evaluation(result)], cursor=state)


def record(context: dg.OpExecutionContext | dg.AssetExecutionContext, engine: sa.Engine) -> None:
    """Evaluate the check and record its result, for use after a sync: the UI shows a check as
    unknown if its asset has a newer event.

    Raises:
        dg.Failure: the database does not answer.
    """
    try:
        result, _ = _evaluate(engine)
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    log_check(context, checks.evaluation(result))


def _evaluate(engine: sa.Engine) -> tuple[dg.AssetCheckResult, str]:
    """The check's result now, and a fingerprint of what it names."""
    found = staleness(engine, ZoneInfo(partitions.days.timezone))
    return _result(found), found.fingerprint


def _result(found: Staleness) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="sync_status",
        check_name=NAME,
        passed=not found.users,
        severity=dg.AssetCheckSeverity.ERROR,
        description=check_texts.stale_text(found.users, found.results, found.can_sync, found.due)
        if found.users
        else f"All {found.can_sync} connected users are complete up to {found.due}, or were "
        f"connected less than {_HOURS} hours ago."
        if found.can_sync
        else "No user is connected.",
        metadata={
            "stale_users": len(found.users),
            "users_who_can_be_synced": found.can_sync,
            "should_be_complete_up_to": str(found.due),
            "days_behind_at_most": max((one.days_behind or 0 for one in found.users), default=0),
        },
    )

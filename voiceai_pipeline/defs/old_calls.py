"""Deletes calls that are no longer kept, and records their days as neither missing nor failed.

``calls/deleted_months.py`` decides what is deleted.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls.deleted_months import ClockError, Deletion, OldCalls
from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.kept_days import next_month
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.database.engine import database_error
from voiceai_pipeline.defs import numbers, partitions
from voiceai_pipeline.defs.colours import CALL_LOGS
from voiceai_pipeline.defs.dagster_internals import AssetPartitionStatus, statuses_by_partition
from voiceai_pipeline.defs.recording import log_materialization, observe, read_statuses
from voiceai_pipeline.pipeline import Pipeline

OFF: Final = "VOICEAI_KEEP_CALLS_DAYS is not set: all calls are kept."

_SHOWN_EVERY: Final = 100_000
"""Calls between two log lines: Dagster keeps every line."""


def delete(context: dg.OpExecutionContext, pipeline: Pipeline, page: PageSettings) -> None:
    """Delete what is no longer kept, and log what was deleted.

    Raises:
        dg.Failure: the database failed, or a month stays because its marts are not built.
    """
    if pipeline.keep_days is None:
        context.log.info(OFF)
        return
    old = OldCalls(
        pipeline.engine, pipeline.zone, pipeline.keep_days,
        show=_progress(context), machine=datetime.now(UTC),
    )  # fmt: skip
    try:
        found = old.delete(lambda first, before: _are_built(pipeline, first, before))
    except ClockError as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    for month, calls in found.months:
        context.log.info(f"{month:%Y-%m}: {calls:,} calls deleted.")
        _record(context, pipeline, page, _days_of(month))
    context.add_output_metadata(
        {
            "kept_since": str(found.since),
            "calls_deleted": found.calls,
            "months": ", ".join(f"{month:%Y-%m}" for month, _ in found.months) or "none",
        }
    )
    _fail_if_a_month_waits(found)


def _are_built(pipeline: Pipeline, first: date, before: date) -> bool:
    """Whether all marts are built that can be; days before the first partition have none."""
    return pipeline.marts.unbuilt(max(first, partitions.FIRST_DAY), before) == 0


def _record(
    context: dg.OpExecutionContext, pipeline: Pipeline, page: PageSettings, days: list[date]
) -> None:
    """Record for each day that it is no longer kept. A red or missing day becomes green."""
    shown = statuses_by_partition(context.instance, CALL_LOGS, partitions.days)
    for status in read_statuses(context, pipeline, page, days) if days else ():
        is_green = shown.get(status.day) is AssetPartitionStatus.MATERIALIZED
        if status.report.is_green and not is_green:
            facts = numbers.of_calls(status.report, status.talk, pipeline.zone)
            log_materialization(context, "call_logs", status.day, facts)
        else:
            # Another materialization would make the day's marts look out of date.
            observe(context, status)
        log_materialization(context, "sync_status", status.day, status.facts)


def _days_of(month: date) -> list[date]:
    days = day_range(month, next_month(month) - timedelta(days=1))
    return [day for day in days if day >= partitions.FIRST_DAY]


def _progress(context: dg.OpExecutionContext) -> Callable[[date, int], None]:
    shown: dict[date, int] = {}

    def show(month: date, calls: int) -> None:
        if calls // _SHOWN_EVERY > shown.get(month, 0):
            shown[month] = calls // _SHOWN_EVERY
            context.log.info(f"{month:%Y-%m}: {calls:,} calls deleted so far.")

    return show


def _fail_if_a_month_waits(found: Deletion) -> None:
    if found.waits is not None:
        raise dg.Failure(
            f"The calls of {found.waits:%Y-%m} and of the months after it are not deleted yet: not "
            "all marts of that month are built by today's definitions, which needs its calls. The "
            "next run looks again. If the runs of build_marts fail, they say why.",
            allow_retries=False,
        )

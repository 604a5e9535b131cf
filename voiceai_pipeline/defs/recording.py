"""Records the state of days and connections in Dagster's event log, partition by partition: as
materializations, observations and check evaluations. HighLevel is not called.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import freshness
from voiceai_pipeline.calls import queries as call_queries
from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.queries import Talk
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import checks, numbers, texts
from voiceai_pipeline.defs.dagster_internals import log_check
from voiceai_pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class DayStatus:
    """The state of a day, and what ``sync_status`` shows of it."""

    report: DayReport
    talk: Talk
    facts: Mapping[str, Any]

    @property
    def day(self) -> str:
        return self.report.day.isoformat()


def read_statuses(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    pipeline: Pipeline,
    page: PageSettings,
    days: Collection[date],
) -> list[DayStatus]:
    """The state of days for all users, in order. The last one also answers for yesterday, because
    the page of an asset shows what was recorded last.

    Raises:
        dg.Failure: the ledger or the calls cannot be read.
    """
    try:
        with pipeline.engine.begin() as db:
            now = database_now(db)
        yesterday = now.astimezone(pipeline.zone).date() - timedelta(days=1)
        reports = {one.day: one for one in pipeline.sync.report({*days, yesterday})}
        windows = {day: Window.of_day(day, pipeline.zone) for day in sorted(days)}
        places = {row.location_id for day in windows for row in reports[day].complete}
        with pipeline.engine.begin() as db:
            talk = call_queries.talk(db, windows, pipeline.zone, places)
            arrivals = freshness.of_connected(db)
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    except PipelineError as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    return [
        DayStatus(
            reports[day],
            talk[day],
            numbers.of_status(
                reports[day],
                page,
                talk[day],
                is_open=window.end > now,
                hours_until_complete=_lateness(context, reports[day], window, now),
                yesterday=reports[yesterday] if day == max(windows) else None,
                arrivals=arrivals if day == max(windows) else (),
            ),
        )
        for day, window in windows.items()
    ]


def _lateness(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    report: DayReport,
    window: Window,
    now: datetime,
) -> float | None:
    """How many hours after its end a day became complete; None if it is not complete or not over.

    The ledger holds only the last read, and later nights re-sync the day. So the value recorded
    when the day became complete is kept.
    """
    if window.end > now or not report.is_green or not report.complete:
        return None
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey("sync_status"), asset_partitions=[report.day.isoformat()]
    )
    for record in context.instance.fetch_materializations(wanted, limit=1).records:
        recorded = record.asset_materialization
        known = recorded.metadata.get("hours_until_complete") if recorded else None
        if known is not None and isinstance(known.value, float):
            return known.value
    read_at = max((row.finished_at for row in report.complete if row.finished_at), default=now)
    return max(0.0, (read_at - window.end) / timedelta(hours=1))


def record_connections(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    engine: sa.Engine,
    page: PageSettings,
    user_ids: Sequence[UUID] | None,
) -> Mapping[UUID, Mapping[str, Any]]:
    """Record the state of these connections (None: all) in ``user_tokens``, and the result of the
    check on connections. Return the metadata by user id; unknown users are absent."""
    with engine.begin() as db:
        all_connections = connections.all_connections(db)
        wanted = None if user_ids is None else set(user_ids)
        cells = {
            one.user.id: numbers.of_connection(
                one, history.of_user(db, one.user.id, texts.EVENTS), page
            )
            for one in all_connections
            if wanted is None or one.user.id in wanted
        }
    for user_id, facts in cells.items():
        log_materialization(context, "user_tokens", str(user_id), facts)
    log_check(context, checks.evaluation(checks.outcome(all_connections)))
    return cells


def log_materialization(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    asset: str,
    partition: str,
    facts: Mapping[str, Any],
) -> None:
    """Record a materialization of one partition only: a run over many partitions must not turn all
    of them green."""
    context.log_event(dg.AssetMaterialization(asset, partition=partition, metadata=facts))


def observe(context: dg.OpExecutionContext | dg.AssetExecutionContext, status: DayStatus) -> None:
    """Record in ``call_logs`` that a day is not complete, and why."""
    # ``sync_status`` also answers for yesterday and for now, which is not about this day.
    facts = {key: value for key, value in status.facts.items() if key not in numbers.OF_NOW}
    context.log_event(dg.AssetObservation("call_logs", partition=status.day, metadata=facts))

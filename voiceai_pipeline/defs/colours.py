"""Corrects the colours of days of ``call_logs`` that disagree with the ledger (decision 24).

Dagster colours a day by its events. Red: the run of the latest *planned* materialization failed.
Green: the day was materialized, and is not red. So a cancelled run, a job for some users or a later
change of the ledger leaves the old colour, and a rebuilt cache loses a red one. This module decides
from the ledger which events to record.

A red day that was never materialized has the right colour but shows no reason: the UI shows a day's
observations only once it was materialized. So we record a materialization that says who is missing
and why, and after it a planned one of a run that fails, which keeps the day red.
"""

from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from math import ceil
from typing import Final
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import completeness, deleted_months
from voiceai_pipeline.calls.completeness import Completeness
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DAYS_PER_RUN, DayResult
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import freshness_check, numbers, partitions, texts
from voiceai_pipeline.defs.dagster_internals import (
    AssetPartitionStatus,
    never_materialized,
    plan_materialization,
    statuses_by_partition,
)
from voiceai_pipeline.defs.recording import log_materialization, observe, read_statuses
from voiceai_pipeline.pipeline import Pipeline

CALL_LOGS: Final = dg.AssetKey("call_logs")

_SHOWN_AS: Final = {
    AssetPartitionStatus.MATERIALIZED: Completeness.COMPLETE,
    AssetPartitionStatus.FAILED: Completeness.INCOMPLETE,
}
"""The completeness that each colour stands for. Days in progress or without a status have none."""


ROWS_PER_TICK: Final = 1_000_000
"""Ledger rows that a tick reads, in about two seconds. With more, each tick checks some days."""

_LATELY: Final = timedelta(minutes=5)


def wrong_days(
    instance: dg.DagsterInstance,
    db: sa.Connection,
    now: datetime,
    *,
    turn: int | None = None,
    rows: int = ROWS_PER_TICK,
) -> dict[date, Completeness]:
    """The completeness of the days whose colour is wrong, or that are red without showing a reason,
    in order.

    Args:
        now: aware UTC.
        turn: the number of the tick. With very many days, a tick checks a part of them and those
            synced in the last five minutes. None: check all days.
        rows: about how many rows of the ledger a tick reads.
    """
    shown = statuses_by_partition(instance, CALL_LOGS, partitions.days)
    said = {date.fromisoformat(key): _SHOWN_AS[s] for key, s in shown.items() if s in _SHOWN_AS}
    users = connections.all_connections(db)
    if turn is not None and (turns := ceil(len(said) * len(users) / rows)) > 1:
        due = {*sorted(said)[turn % turns :: turns], *completeness.synced_since(db, now - _LATELY)}
        said = {day: colour for day, colour in said.items() if day in due}
    zone = ZoneInfo(partitions.days.timezone)
    since = deleted_months.kept_since(db, zone, partitions.KEEP_DAYS, now)
    found = completeness.of_days(db, said, users, zone, now, since)
    mute = mute_days(instance, [day for day, it in said.items() if it is Completeness.INCOMPLETE])
    return {
        day: found[day]
        for day in sorted(said)
        if found[day] is not Completeness.FILLING and (found[day] is not said[day] or day in mute)
    }


def mute_days(instance: dg.DagsterInstance, days: Collection[date]) -> set[date]:
    """Which of these days were never materialized."""
    found = never_materialized(instance, CALL_LOGS, [day.isoformat() for day in days])
    return {date.fromisoformat(key) for key in found}


def correct(context: dg.OpExecutionContext, pipeline: Pipeline, page: PageSettings) -> None:
    """Give every day the colour that matches the ledger, without calling HighLevel.

    Raises:
        dg.Failure: days are not complete, and this run's failure makes them red; or the ledger
            cannot be read.
    """
    try:
        with pipeline.engine.begin() as db:
            wrong = wrong_days(context.instance, db, database_now(db))
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    mute = mute_days(context.instance, wrong)
    days, failed = list(wrong), list[DayResult]()
    unread: dict[User, list[date]] = {}
    incomplete: list[date] = []
    # A few days at a time: with very many users, each takes memory.
    for start in range(0, len(days), DAYS_PER_RUN):
        batch = days[start : start + DAYS_PER_RUN]
        for status in read_statuses(context, pipeline, page, batch):
            report = status.report
            is_green = wrong[report.day] is Completeness.COMPLETE
            if report.is_green is not is_green:
                continue  # it has changed meanwhile; the next run corrects it
            if is_green:
                facts = numbers.of_calls(report, status.talk, pipeline.zone)
                log_materialization(context, "call_logs", status.day, facts)
            else:
                observe(context, status)
                if report.day in mute:
                    facts = numbers.of_red_day(report, page)
                    # Without a run: if a run has materialized a day, the UI hides that it failed.
                    context.instance.report_runless_asset_event(
                        dg.AssetMaterialization(CALL_LOGS, partition=status.day, metadata=facts)
                    )
                incomplete.append(report.day)
                failed += report.failed
                for user in report.unread:
                    unread.setdefault(user, []).append(report.day)
            log_materialization(context, "sync_status", status.day, status.facts)
    if days:
        freshness_check.record(context, pipeline.engine)
    if incomplete:
        plan(context, incomplete)
        raise dg.Failure(texts.failure_text(failed, cleaned, unread), allow_retries=False)


def plan(context: dg.OpExecutionContext, days: Sequence[date]) -> None:
    """Record that this run plans to materialize ``days``. The caller must then fail the run, which
    makes them red."""
    for day in days:
        plan_materialization(context, CALL_LOGS, day.isoformat())

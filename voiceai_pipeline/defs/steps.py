"""What assets and jobs both do: run the pipeline, record the result, and fail with a sentence."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

import dagster as dg

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.day_status import DayReport, span
from voiceai_pipeline.calls.reconciliation import LocationComparison, Verdict
from voiceai_pipeline.calls.sync import Mode, SyncRequestError
from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.connections.alert_delivery import Delivery
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.kept_days import refusal
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import freshness_check, numbers, texts
from voiceai_pipeline.defs.recording import (
    log_materialization,
    observe,
    read_statuses,
    record_connections,
)
from voiceai_pipeline.pipeline import Pipeline


def parse_users(keys: Iterable[str]) -> list[UUID]:
    """User ids from partition keys or run config; anything else never reaches a query."""
    try:
        return [UUID(key) for key in keys]
    except ValueError:
        raise dg.Failure(
            "A user is named by id, such as 00000000-0000-4000-8000-000000000001. List the users "
            "with: voiceai-pipeline users",
            allow_retries=False,
        ) from None


_AUTOMATIC: Final = frozenset(
    {"dagster/schedule_name", "dagster/sensor_name", "dagster/retry_number"}
)
"""Tags of runs that no operator asked for."""


def _asked_by(tags: Mapping[str, str]) -> str:
    """What asked for a run, for the users' history."""
    for tag, what in _ASKERS.items():
        if tag in tags:
            return what or tags[tag]
    return "Dagster's UI"


_ASKERS: Final = {
    "dagster/retry_number": "automatic retry",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
    "dagster/backfill": "backfill",
    "voiceai/launched_by": "",
}
"""Who asked for a run, by the tag that tells; empty: the tag's value names it."""


def sync_and_record(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    pipeline: Pipeline,
    days: Sequence[date],
    user_ids: Sequence[UUID] | None,
    mode: Mode,
    page: PageSettings,
) -> tuple[list[DayResult], list[DayReport]]:
    """Sync days of some users (None: of all) and record the state of each day for all users. Days
    that are no longer kept are recorded but not synced.

    Raises:
        dg.Failure: the request is invalid, or the ledger cannot be read.
    """
    try:
        wanted = _kept(context, pipeline, days)
        outcomes = (
            []
            if days and not wanted
            else pipeline.sync.sync_days(
                wanted,
                user_ids=user_ids,
                mode=mode,
                run_id=context.run.run_id,
                at_once=not _AUTOMATIC & context.run.tags.keys(),
            )
        )
    except (UnknownUserError, SyncRequestError, PipelineError) as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    if paused := {one.user for one in outcomes if one.failure is FailureClass.SYNC_PAUSED}:
        names = texts.some_names(sorted(paused, key=lambda user: user.name), cleaned)
        context.log.info(f"Not read, because an operator has paused their syncs: {names}.")
    with pipeline.engine.begin() as db:
        users = {outcome.user.id for outcome in outcomes}
        user_syncs.attribute(db, users, context.run.run_id, _asked_by(context.run.tags))
    statuses = read_statuses(context, pipeline, page, days)
    for status in statuses:
        if status.report.is_green:
            facts = numbers.of_calls(status.report, status.talk, pipeline.zone)
            log_materialization(context, "call_logs", status.day, facts)
        else:
            # So the day's own events say why it is red, not only those of the run.
            observe(context, status)
        log_materialization(context, "sync_status", status.day, status.facts)
    freshness_check.record(context, pipeline.engine)
    return outcomes, [status.report for status in statuses]


def _kept(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    pipeline: Pipeline,
    days: Sequence[date],
) -> list[date]:
    """The days that may be synced; the log says which ones are no longer kept."""
    since = pipeline.sync.first_day()
    gone = [day for day in days if since is not None and day < since]
    if since is not None and pipeline.keep_days is not None and gone:
        context.log.warning(
            f"Not synced: {span(gone)}. {refusal(min(gone), since, pipeline.keep_days)}"
        )
    return [day for day in days if day not in set(gone)]


def refuse_if_none_is_kept(pipeline: Pipeline, days: Sequence[date]) -> None:
    """Fail the run if none of the days that an operator asked for is still kept.

    Raises:
        dg.Failure: saying what to change.
    """
    since = pipeline.sync.first_day()
    if since is not None and pipeline.keep_days is not None and days and max(days) < since:
        raise dg.Failure(refusal(min(days), since, pipeline.keep_days), allow_retries=False)


def fail_if_any_user_failed(outcomes: Sequence[DayResult], reports: Sequence[DayReport]) -> None:
    """Fail the run if one of its own syncs failed.

    Raises:
        dg.Failure: naming the users that failed, why and what to do.
    """
    if any(outcome.state is DayState.FAILED for outcome in outcomes):
        raise dg.Failure(
            texts.failure_text(outcomes, cleaned),
            metadata={
                str(report.day): dg.MetadataValue.md(texts.users_table(report))
                for report in reports
                if report.failed
            },
            allow_retries=False,  # failed_user_syncs retries, by the ledger
        )


def reconcile_and_record(
    context: dg.AssetExecutionContext, pipeline: Pipeline, page: PageSettings
) -> tuple[Sequence[LocationComparison], Mapping[str, Any]]:
    """Compare HighLevel's totals with the table, and record the days that this reopened.

    Returns:
        The comparison of each location, and the numbers that sum it up.

    Raises:
        dg.Failure: the ledger or the table cannot be read.
    """
    try:
        locations = pipeline.reconciliation.reconcile(run_id=context.run.run_id)
    except PipelineError as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    days = {day.day for one in locations for day in one.days if day.verdict is Verdict.OPENED}
    for status in read_statuses(context, pipeline, page, days) if days else ():
        log_materialization(context, "sync_status", status.day, status.facts)
        observe(context, status)
    if days:
        freshness_check.record(context, pipeline.engine)
    facts = numbers.of_reconciliation(locations)
    context.log_event(dg.AssetMaterialization("reconciliation", metadata=facts))
    return locations, facts


def report_deliveries(context: dg.OpExecutionContext, deliveries: Sequence[Delivery]) -> None:
    """Log what each channel accepted; fail the run if one of them did not accept everything.

    Raises:
        dg.Failure: naming the channels and the reasons. What they did not accept is retried.
    """
    for one in deliveries:
        if one.delivered:
            context.log.info(f"Delivered to {one.channel}: {one.delivered}.")
    kept = [
        f"- {one.channel}, {one.kept} kept: {cleaned(' '.join(one.reasons))}"
        for one in deliveries
        if one.kept
    ]
    if kept:
        text = "Some alerts could not be delivered and are retried; all others were delivered:"
        raise dg.Failure("\n".join([text, *kept]), allow_retries=False)


def fail_if_totals_are_missing(locations: Sequence[LocationComparison]) -> None:
    """Fail the run if totals of a location could not be read and a rerun can help.

    Raises:
        dg.Failure: naming the locations and the reasons.
    """
    red = {
        one.name: one.failure
        for one in locations
        if one.failure is not None and not one.failure.failure.needs_action
    }
    if red:
        lines = [
            f"- {cleaned(name, NAME_LENGTH)}: {cleaned(str(why))}" for name, why in red.items()
        ]
        text = f"Totals could not all be read for {len(red)} of {len(locations)} locations:"
        raise dg.Failure("\n".join([text, *lines]), allow_retries=False)


def refresh(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    pipeline: Pipeline,
    page: PageSettings,
    user_ids: Sequence[UUID],
) -> None:
    """Ensure a valid token for each user; a failure does not affect other users.

    Raises:
        dg.Failure: naming the users for which a rerun can help.
    """
    outcomes = pipeline.tokens.refresh_due(user_ids)
    cells = record_connections(context, pipeline.engine, page, user_ids)
    failed: dict[User, PipelineError] = {}
    for user_id, error in outcomes.items():
        if user_id not in cells:
            unknown = PipelineError(FailureClass.NO_CONNECTION, "there is no such user")
            failed[User(user_id, str(user_id))] = unknown
        elif error is None:
            log_materialization(context, "refreshed_credentials", str(user_id), cells[user_id])
        elif not error.failure.needs_action:
            failed[User(user_id, cells[user_id]["user"])] = error
    if failed:
        with pipeline.engine.begin() as db:
            suspended = circuit_breaker.read(db)
        raise dg.Failure(
            texts.refresh_failure_text(failed, len(outcomes), suspended), allow_retries=False
        )

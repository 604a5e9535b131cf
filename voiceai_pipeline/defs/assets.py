"""The assets: connections, calls, the status of every sync, and the directory.

An asset calls the pipeline and records the result; it returns neither tokens nor calls, because
Dagster pickles what an asset returns.

Green: every connected user is complete. Red: a sync failed and a rerun can help. Warning: a user
needs action; the check names the user and the fix.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from voiceai_pipeline.calls.reconciliation import LocationComparison
from voiceai_pipeline.calls.sync import Mode
from voiceai_pipeline.core.days import DAYS_PER_RUN
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database import tables
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.defs import check_texts, checks, columns, freshness_check, partitions
from voiceai_pipeline.defs.recording import (
    log_materialization,
    read_statuses,
    record_connections,
)
from voiceai_pipeline.defs.steps import (
    fail_if_any_user_failed,
    fail_if_totals_are_missing,
    parse_users,
    reconcile_and_record,
    refresh,
    sync_and_record,
)
from voiceai_pipeline.pipeline import Pipeline

OWNERS = ["team:data-platform"]
POOL = "highlevel"
_BY_RANGE = dg.BackfillPolicy.multi_run(DAYS_PER_RUN)

TOTALS_AGREE = "stored_calls_equal_highlevels_totals"


# Calls are read with credentials, but a refreshed token makes no day stale, and days do not map to
# users. With any other mapping, each refresh would mark every day "unsynced" or block backfills.
CREDENTIALS = dg.AssetDep(
    "refreshed_credentials", partition_mapping=dg.SpecificPartitionsPartitionMapping([])
)


# New calls of this morning do not make last night's comparison stale.
CALLS = dg.AssetDep("call_logs", partition_mapping=dg.SpecificPartitionsPartitionMapping([]))


class SyncConfig(dg.Config):
    """Which users of the day to sync. By default a red day is resumed (only the users that failed
    are read), and a green day is re-synced for all users."""

    user_ids: list[str] = Field(default=[], description="Only these users; empty: all.")
    only_failed: bool = Field(
        default=False,
        description="Only users whose day is not complete; if there are none, nothing is synced.",
    )
    reread: bool = Field(
        default=False,
        description="All users, including those already complete: finds late summaries and "
        "vanished calls.",
    )

    @property
    def mode(self) -> Mode:
        if self.only_failed and self.reread:
            raise dg.Failure(
                "only_failed and reread contradict each other: set one of them.",
                allow_retries=False,
            )
        if self.only_failed:
            return Mode.ONLY_FAILED
        return Mode.REREAD if self.reread else Mode.RESUME


@dg.asset(
    partitions_def=partitions.users,
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    group_name="connections",
    kinds={"postgres"},
    owners=OWNERS,
    metadata=columns.of_table(tables.api_keys),
)
def user_tokens(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[Any]:
    """The state of every user's HighLevel connection (connected, paused, needs reconnection,
    disconnected or never connected), since when, what to do, and its history. No token material."""
    user_ids = parse_users(context.partition_keys)
    record_connections(context, pipeline.engine, settings.page, user_ids)
    yield from ()


@dg.asset(
    partitions_def=partitions.users,
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    deps=[user_tokens],
    group_name="connections",
    kinds={"postgres", "oauth"},
    owners=OWNERS,
    pool=POOL,
    metadata=columns.of_table(tables.api_keys),
)
def refreshed_credentials(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[Any]:
    """A valid access token for each user, refreshed if it was about to expire. A user that must
    reconnect is not red here: ``user_tokens`` shows it."""
    refresh(context, pipeline, settings.page, parse_users(context.partition_keys))
    yield from ()


@dg.asset(
    partitions_def=partitions.days,
    backfill_policy=_BY_RANGE,
    output_required=False,
    deps=[CREDENTIALS],
    check_specs=checks.OF_CALLS,
    group_name="calls",
    kinds={"postgres"},
    owners=OWNERS,
    pool=POOL,
    metadata=columns.of_table(tables.call_logs),
)
def call_logs(
    context: dg.AssetExecutionContext,
    config: SyncConfig,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult]:
    """Every Voice AI call of every connected user, by day. A green day holds exactly the calls that
    HighLevel lists for it. A red day names the users that failed and why; materialize it again to
    retry only these users."""
    days = [date.fromisoformat(key) for key in context.partition_keys]
    users = parse_users(config.user_ids) or None
    outcomes, reports = sync_and_record(context, pipeline, days, users, config.mode, settings.page)
    try:
        yield from checks.of_calls(pipeline.engine, pipeline.zone, reports, _today(pipeline))
    except sa.exc.SQLAlchemyError as error:
        raise dg.Failure(cleaned(str(database_error(error))), allow_retries=False) from None
    fail_if_any_user_failed(outcomes, reports)


@dg.asset(
    partitions_def=partitions.days,
    backfill_policy=_BY_RANGE,
    output_required=False,
    deps=[call_logs],
    group_name="calls",
    kinds={"postgres"},
    owners=OWNERS,
    # No columns here: the UI would show them before the recorded metadata, and push the answer to
    # "is yesterday complete" below the first screen. The database has comments on them.
    metadata={"dagster/table_name": tables.sync_status.name},
)
def sync_status(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[Any]:
    """Is a day complete, which users are missing, why, and what to do? *Metadata* starts with the
    answer for yesterday, who needs action, and the last synced day; other days are under
    *Partitions*. Recorded at the end of every sync, even a failed one; materialize it alone to show
    the current state. To re-sync red days: [call_logs](/assets/call_logs?view=partitions),
    *Materialize*, *Failed and missing*."""
    days = [date.fromisoformat(key) for key in context.partition_keys]
    for status in read_statuses(context, pipeline, settings.page, days):
        log_materialization(context, "sync_status", status.day, status.facts)
    freshness_check.record(context, pipeline.engine)
    yield from ()


@dg.asset(
    output_required=False,
    deps=[CALLS],
    check_specs=[
        dg.AssetCheckSpec(
            TOTALS_AGREE,
            asset="reconciliation",
            description="For every complete day of the last 30, the stored calls equal "
            "HighLevel's current total.",
        )
    ],
    group_name="calls",
    kinds={"postgres"},
    owners=OWNERS,
    pool=POOL,
    metadata=columns.of_table(tables.drifting_days, {"stored": ["call_logs.call_id"]}),
)
def reconciliation(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult]:
    """Whether the last 30 complete days still hold as many calls as HighLevel counts, for each
    location. A day that differs is reopened: ``sync_status`` shows it as failed, and it is
    re-synced automatically. The table holds the days that differ."""
    locations, facts = reconcile_and_record(context, pipeline, settings.page)
    yield _totals_check(locations, facts)
    fail_if_totals_are_missing(locations)


@dg.asset(
    deps=[CREDENTIALS],
    group_name="directory",
    kinds={"postgres"},
    owners=OWNERS,
    pool=POOL,
    metadata=columns.of_table(tables.agents),
)
def agents(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """The Voice AI agents of every connected location: names and time zones. An agent that was
    deleted in HighLevel keeps its row."""
    return _directory(pipeline.directory.sync_agents(), "agents")


@dg.asset(
    deps=[CREDENTIALS],
    group_name="directory",
    kinds={"postgres"},
    owners=OWNERS,
    pool=POOL,
    metadata=columns.of_table(tables.locations),
)
def locations(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Name and time zone of every connected location."""
    return _directory(pipeline.directory.sync_locations(), "locations")


def _today(pipeline: Pipeline) -> date:
    with pipeline.engine.begin() as db:
        return database_now(db).astimezone(pipeline.zone).date()


def _totals_check(
    places: Sequence[LocationComparison], facts: Mapping[str, Any]
) -> dg.AssetCheckResult:
    """Only a warning: a reopened day is red in ``call_logs`` and is re-synced within minutes, while
    this result stays until the next night. If HighLevel contradicts itself, no rerun helps."""
    passed = facts["days_that_differ"] == 0
    return dg.AssetCheckResult(
        check_name=TOTALS_AGREE,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=check_texts.reconciliation_text(places, facts),
        metadata={
            name: facts[name]
            for name in (
                "days_checked",
                "days_that_differ",
                "days_without_total",
                "locations_not_asked",
            )
        },
    )


def _directory(found: Mapping[str, int | PipelineError], noun: str) -> dg.MaterializeResult[None]:
    errors = {place: e for place, e in found.items() if isinstance(e, PipelineError)}
    red = [
        f"- {cleaned(place, NAME_LENGTH)}: {cleaned(str(e))}"
        for place, e in errors.items()
        if not e.failure.needs_action
    ]
    if red:
        text = f"Reading {noun} failed for {len(red)} of {len(found)} locations:"
        raise dg.Failure("\n".join([text, *red]), allow_retries=False)
    return dg.MaterializeResult(
        metadata={
            noun: sum(count for count in found.values() if isinstance(count, int)),
            "locations_read": len(found) - len(errors),
            "locations_waiting": len(errors),
        }
    )

"""The marts as assets: one step computes all from one read of the calls.

What the UI shows of a mart's day is in ``mart_numbers`` and ``mart_texts``.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.core.days import DAYS_PER_RUN
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.settings import PageSettings, Settings
from voiceai_pipeline.database.mart_tables import FIRST_DAY, LAST_DAY
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.defs import columns, partitions
from voiceai_pipeline.defs.markdown import shown
from voiceai_pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from voiceai_pipeline.marts.build import BuildResult

OWNERS = ["team:data-platform"]
THEY_ADD_UP = "the_marts_add_up_to_the_calls"
NAMES: Final = [table.name for table in ALL_MARTS]

# A late call changes the marts of other days too: they count a week's callers, compare with the
# week before, look for calls that follow within a day, and time zones differ by up to a day.
CALLS = dg.AssetDep(
    "call_logs",
    partition_mapping=dg.TimeWindowPartitionMapping(
        start_offset=-FIRST_DAY, end_offset=LAST_DAY, allow_nonexistent_upstream_partitions=True
    ),
)


class MartConfig(dg.Config):
    """Which locations of the day to compute; by default all."""

    location_ids: list[str] = []
    """Only these locations; empty: all."""


def _meaning(column: sa.Column[Any]) -> str:
    """A column's comment and where it comes from, because Dagster's UI shows no column lineage."""
    origins = [f"`{origin}`" for origin in _origins(column)]
    return f"{column.comment} From {', '.join(origins)}." if origins else str(column.comment)


def _origins(column: sa.Column[Any]) -> list[str]:
    """The ``asset.column`` names that it is computed from; a bare name is a column of
    ``call_logs``."""
    return [name if "." in name else f"call_logs.{name}" for name in column.info["from"]]


def _of_table(table: sa.Table) -> Mapping[str, Any]:
    lineage = {column.name: _origins(column) for column in table.columns if column.info["from"]}
    return columns.of_table(table, lineage, _meaning)


@dg.multi_asset(
    name="marts",
    specs=[
        dg.AssetSpec(
            table.name,
            deps=[CALLS],
            skippable=True,  # recorded day by day, see below
            description=table.comment,
            group_name="marts",
            kinds={"postgres", "pandas"},
            owners=OWNERS,
            metadata=_of_table(table),
        )
        for table in ALL_MARTS
    ],
    partitions_def=partitions.days,
    backfill_policy=dg.BackfillPolicy.multi_run(DAYS_PER_RUN),
    check_specs=[
        dg.AssetCheckSpec(
            THEY_ADD_UP,
            asset="daily_call_metrics",
            blocking=True,
            description="The calls, seconds and actions of every location's day are the same in "
            "the marts and in the table of calls, where the database counts them independently. A "
            "location that does not add up keeps its old numbers.",
        )
    ],
)
def marts(
    context: dg.AssetExecutionContext,
    config: MartConfig,
    pipeline: dg.ResourceParam[Pipeline],
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.AssetCheckResult]:
    days = [date.fromisoformat(key) for key in context.partition_keys]
    try:
        built = pipeline.marts.build(days, config.location_ids or None)
    except PipelineError as error:
        raise dg.Failure(cleaned(str(error)), allow_retries=False) from None
    yield _check(built)
    _fail_if_any_failed(built)
    _record(context, pipeline, settings.page, days)


def _fail_if_any_failed(built: "BuildResult") -> None:
    parts = []
    if built.failures:
        parts.append(_listed("These marts could not be built; all others were", built.failures))
    if built.disagreements:
        parts.append(
            _listed(
                "These marts would not have added up to the calls and were left unchanged",
                built.disagreements,
            )
        )
    if parts:
        raise dg.Failure("\n".join(parts), allow_retries=False)


def _listed(heading: str, texts: Sequence[str]) -> str:
    more = [f"- and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return "\n".join([f"{heading}:", *(f"- {cleaned(text)}" for text in texts[:_SHOWN]), *more])


_SHOWN: Final = 50


def _record(
    context: dg.AssetExecutionContext, pipeline: Pipeline, page: PageSettings, days: Sequence[date]
) -> None:
    from voiceai_pipeline.defs import mart_numbers  # pandas: see Pipeline.marts

    shown = mart_numbers.of_days(pipeline.engine, days)
    for table in ALL_MARTS:
        for day, facts in sorted(shown[table.name].items()):
            url = dg.MetadataValue.url(f"{page.url}/insights?from={day}&to={day}")
            facts = {**facts, "insights": url}
            context.log_event(
                dg.AssetMaterialization(table.name, partition=str(day), metadata=facts)
            )


def _check(built: "BuildResult") -> dg.AssetCheckResult:
    wrong = built.disagreements
    return dg.AssetCheckResult(
        asset_key="daily_call_metrics",
        check_name=THEY_ADD_UP,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(wrong)} sums differ:\n\n"
        + "\n".join(f"- {shown(text)}" for text in wrong[:50])
        if wrong
        else f"Every sum agrees: {len(built.days)} days, {built.locations} locations.",
        metadata={"sums_that_differ": len(wrong), "locations": built.locations},
    )

"""Deletes old runs, except those with the last word on what an asset or check shows. ``Memory`` in
``jobs.py`` says after how many days.

Dagster purges ticks (``dagster.yaml``, retention) but neither runs nor events. The UI reads events
to show an asset: for each partition, the last materialization, the last planned one (red if its run
failed) and the last observation; for each check, the last execution. A run that wrote one of these
has the last word on something, and is kept until a later run has it.

Dagster's own methods find the last events and delete runs. They leave two things behind, which this
module deletes: the rows of executed checks, and what the run's process printed.

With 100 users and the default schedules and sensors, a day leaves about 92 runs, 2,500 rows and
5 MB in Dagster's database. A run of ``sync_calls`` writes 40 to 60 rows and 45 to 70 KB; one of
``refresh_tokens`` writes 24 rows and 24 KB, 76 times a day. 90 days take 0.5 GB. After that, one
nightly sync a day is kept, 50 MB a year: 1 GB is enough for ten years. Measured by
``benchmarks/dagster_growth.py``. PostgreSQL reuses freed space but does not give it back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Final

import dagster as dg

from voiceai_pipeline.defs.dagster_internals import (
    FINISHED_STATUSES,
    delete_run_completely,
    latest_check_runs,
    latest_event_ids,
)

_OF_ASSETS: Final = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_OBSERVATION,
}
_OF_CHECKS: Final = {
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
}
_PAGE: Final = 100
"""Runs read at a time; each is a few kilobytes."""


@dataclass(frozen=True)
class Purged:
    """What a purge did, in runs.

    Attributes:
        kept: old runs that still have the last word on something.
        is_complete: False if there was more to delete than was allowed at once.
    """

    deleted: int
    kept: int
    is_complete: bool


def purge(
    instance: dg.DagsterInstance,
    tags: Iterable[Mapping[str, str]],
    untouched_since: datetime,
    at_most: int,
) -> Purged:
    """Delete runs that ended and last changed before a time, oldest first.

    It may be interrupted at any time, and repeated.

    Args:
        tags: delete only runs that have one of these sets of tags, because the instance may serve
            other code locations.
        untouched_since: the time, aware UTC. A run last changes when it ends or gets another tag.
        at_most: how many runs to delete.
    """
    last_words = _LastWords(instance)
    deleted = kept = 0
    for ours in tags:
        old = dg.RunsFilter(tags=ours, statuses=FINISHED_STATUSES, updated_before=untouched_since)
        # Dagster looks up the run that a page starts after, so it must be one that is kept.
        last_kept: str | None = None
        while page := instance.get_run_records(old, limit=_PAGE, cursor=last_kept, ascending=True):
            for record in page:
                run_id = record.dagster_run.run_id
                if last_words.are_in(run_id):
                    kept += 1
                    last_kept = run_id
                elif deleted == at_most:
                    return Purged(deleted, kept, is_complete=False)
                else:
                    delete_run_completely(instance, run_id)
                    deleted += 1
    return Purged(deleted, kept, is_complete=True)


class _LastWords:
    """Which events are the last of their kind, asked once per asset and check.

    A later event can only make an older one deletable, so an answer that is out of date keeps too
    many runs at worst.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._last_ids = cache(partial(latest_event_ids, instance))
        self._last_runs = cache(partial(latest_check_runs, instance))

    def are_in(self, run_id: str) -> bool:
        """True if an asset or a check would show something else without this run."""
        records = self._instance.get_records_for_run(run_id, of_type=_OF_ASSETS | _OF_CHECKS)
        for record in records.records:
            event = record.event_log_entry.get_dagster_event()
            if event.event_type in _OF_CHECKS:
                if run_id in self._last_runs(_check_key(event)):
                    return True
            elif event.asset_key and record.storage_id in self._last_ids(
                event.asset_key, event.event_type
            ):
                return True
        return False


def _check_key(event: dg.DagsterEvent) -> dg.AssetCheckKey:
    if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return event.asset_check_evaluation_data.asset_check_key
    return event.asset_check_planned_data.asset_check_key

"""Launches a user's sync as Dagster runs, for the page's buttons and ``/functions/v1`` alike, and
waits for its end.

Consent, tests and refreshes are functions of ``voiceai_pipeline.connections``.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DAYS_PER_RUN, TRAILING_DAYS, days_to_sync, stretches
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.site import Site


@dataclass(frozen=True)
class Launched:
    """Runs that sync the days ``first`` to ``last`` of the pipeline's time zone, inclusive."""

    run_ids: tuple[str, ...]
    first: date
    last: date


class PartlyLaunchedError(DagsterError):
    """Dagster failed after some of the runs had been launched; these continue.

    Attributes:
        run_ids: the launched runs.
    """

    def __init__(self, run_ids: Sequence[str], cause: DagsterError) -> None:
        count = f"{len(run_ids)} run{'s' if len(run_ids) > 1 else ''}"
        super().__init__(f"{cause} Before that, {count} had been launched; they continue.")
        self.run_ids = tuple(run_ids)


def launch(
    site: Site,
    user_id: UUID,
    launched_by: str,
    first: date | None = None,
    last: date | None = None,
) -> Launched:
    """Launch the runs that sync or re-sync a user's days.

    Args:
        launched_by: for the runs' tags.
        first: None: ``TRAILING_DAYS`` before ``last``, as the nightly schedule does.
        last: inclusive; None: today.

    Raises:
        UnknownUserError: there is no such user.
        PipelineError: the user needs action first; nothing was launched.
        DaysError: ``first`` is before the first partition or after ``last``, or ``last`` is in the
            future.
        DagsterError: Dagster does not respond, or refuses.
    """
    connection = site.connection(user_id)
    # A pause may be over: a sync that names the user finds out.
    if connection.obstacle is not None and connection.state is not ConnectionState.PAUSED:
        raise PipelineError(connection.obstacle)
    earliest, today = site.dagster.first_day(), site.today()
    last = last or today
    if first is None:
        first = max(earliest, last - timedelta(days=TRAILING_DAYS))
    days = days_to_sync(first, last, earliest=earliest, today=today)
    run_ids: list[str] = []
    for stretch in stretches(days, DAYS_PER_RUN):
        try:
            run_ids.append(site.dagster.launch_sync(stretch, [user_id], launched_by))
        except DagsterError as error:
            if not run_ids:
                raise
            raise PartlyLaunchedError(run_ids, error) from error
    return Launched(tuple(run_ids), first, last)


_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two looks at a run, doubled each time."""


async def have_ended(site: Site, run_ids: Sequence[str], seconds: float) -> bool:
    """Whether all of these runs have ended, within some seconds at most. No thread waits meanwhile;
    while Dagster does not respond, they count as running."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not await run_in_threadpool(_have_ended_by_now, site, run_ids):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


def _have_ended_by_now(site: Site, run_ids: Sequence[str]) -> bool:
    try:
        runs = [site.dagster.run(run_id) for run_id in run_ids]
    except DagsterError:
        return False
    return all(run is None or run.has_ended for run in runs)

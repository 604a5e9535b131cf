"""What a person on the page, or a program at ``/functions/v1``, can have done to a user.

One path for both. Consent is ``voiceai_pipeline.connections.consent``'s, testing and renewing are
``tokens``'s; what is here is how a sync is launched: as Dagster runs, which do the work and show
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from voiceai_pipeline.connections.queries import stored_connection
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DAYS_PER_RUN, TRAILING_DAYS, day_range, stretches
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.site import Site


class DaysError(ValueError):
    """The days cannot be synced; the text says why and what to do."""


@dataclass(frozen=True)
class Launched:
    """Runs that will sync ``first`` to ``last``, days of the pipeline's time zone."""

    run_ids: tuple[str, ...]
    first: date
    last: date


class PartlyLaunchedError(DagsterError):
    """Dagster stopped answering after some of the runs; they go on.

    Attributes:
        run_ids: those that were launched.
    """

    def __init__(self, run_ids: Sequence[str], cause: DagsterError) -> None:
        super().__init__(f"{cause} The first {len(run_ids)} runs were launched and go on.")
        self.run_ids = tuple(run_ids)


def find(site: Site, user_id: UUID) -> Connection:
    """A user's connection as it stands.

    Raises:
        UnknownUserError: there is no such user.
    """
    return stored_connection(site.pipeline.engine, user_id)


def today(site: Site) -> date:
    """Today in the pipeline's time zone, whose days are the partitions."""
    return datetime.now(site.pipeline.zone).date()


def sync(
    site: Site,
    user_id: UUID,
    launched_by: str,
    first: date | None = None,
    last: date | None = None,
) -> Launched:
    """Launch the runs that read a user's days again.

    Args:
        launched_by: for the tags of the runs.
        first: None: today and the days before that the nightly schedule reads, too.
        last: included; None: today.

    Raises:
        UnknownUserError: there is no such user.
        PipelineError: the user cannot be synced before a person has acted; nothing was launched.
        DaysError: ``first`` lies before the first day that Dagster knows, or after ``last``, or
            ``last`` in the future.
        DagsterError: it does not answer, or refuses.
    """
    obstacle = find(site, user_id).obstacle
    if obstacle is not None:
        raise PipelineError(obstacle)
    earliest = site.dagster.first_day()
    last = last or today(site)
    if last > today(site):
        raise DaysError(
            f"{last} lies in the future; today is {today(site)}. Ask for an earlier one."
        )
    if first is None:
        first = max(earliest, last - timedelta(days=TRAILING_DAYS))
    if first < earliest:
        raise DaysError(
            f"{first} lies before {earliest}, the first day that can be synced. Ask for a later "
            "one, or set VOICEAI_START_DATE to an earlier one and start again."
        )
    if last < first:
        raise DaysError(f"{last} lies before {first}. Ask for the earlier day first.")
    days = day_range(first, last)
    run_ids: list[str] = []
    for stretch in stretches(days, DAYS_PER_RUN):
        try:
            run_ids.append(site.dagster.launch_sync(stretch, [user_id], launched_by))
        except DagsterError as error:
            if not run_ids:
                raise
            raise PartlyLaunchedError(run_ids, error) from error
    return Launched(tuple(run_ids), first, last)

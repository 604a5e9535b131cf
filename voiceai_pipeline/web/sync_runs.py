"""Launches users' syncs as Dagster runs, for the page's buttons and ``/functions/v1`` alike, and
waits for their end.

Consent, tests and refreshes are functions of ``voiceai_pipeline.connections``.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.days import DAYS_PER_RUN, TRAILING_DAYS, days_to_sync, stretches
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.kept_days import kept_since
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.site import Site


@dataclass(frozen=True)
class Launched:
    """Runs that sync the days ``first`` to ``last`` of the pipeline's time zone, inclusive.

    Attributes:
        was_under_way: nothing was launched: these runs sync the user already.
    """

    run_ids: tuple[str, ...]
    first: date
    last: date
    was_under_way: bool = False


@dataclass(frozen=True)
class LaunchedForMany(Launched):
    """The same for several users.

    Attributes:
        users: how many are synced by these runs.
        busy: how many were being synced already.
        blocked: how many need action first.
        paused: how many syncs an operator has paused.
    """

    users: int = 0
    busy: int = 0
    blocked: int = 0
    paused: int = 0


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
    """Launch the runs that sync or re-sync a user's days, unless a run that includes them is under
    way.

    Args:
        launched_by: for the runs' tags and the user's history.
        first: None: ``TRAILING_DAYS`` before ``last``, as the nightly schedule does.
        last: inclusive; None: today.

    Raises:
        UnknownUserError: there is no such user.
        PipelineError: the user needs action first, or the syncs are paused; nothing was launched.
        DaysError: ``first`` is before the first partition, no longer kept, or after ``last``, or
            ``last`` is in the future.
        DagsterError: Dagster does not respond, or refuses.
    """
    connection = site.connection(user_id)
    if connection.pause is not None:
        raise connection.pause.error
    if not _may_try(connection):
        assert connection.obstacle is not None  # noqa: S101 - why it may not be tried
        raise PipelineError(connection.obstacle)
    days = _days(site, first, last)
    run_ids, busy = _launch_once(site, [user_id], days, launched_by)
    if run_ids:
        return Launched(run_ids, days[0], days[-1])
    return Launched(
        tuple(one.run_id for one in busy),
        min(one.first_day for one in busy),
        max(one.last_day for one in busy),
        was_under_way=True,
    )


def launch_for_many(
    site: Site,
    connections: Collection[Connection],
    launched_by: str,
    days: Sequence[date] = (),
) -> LaunchedForMany:
    """Launch one run for each stretch of consecutive days, for several users. Users who need action
    first, whose syncs are paused or who are being synced already are left out.

    Args:
        days: oldest first, and none in the future; empty: the days that ``launch`` syncs by
            default.

    Raises:
        DagsterError: as ``launch``.
    """
    able = [one.user.id for one in connections if _may_try(one)]
    earliest, keep_days = site.dagster.first_day(), site.pipeline.keep_days
    earliest = max(earliest, kept_since(site.today(), keep_days) or earliest)
    days = [day for day in days if day >= earliest] or _days(site, None, None)
    run_ids, busy = _launch_once(site, able, days, launched_by) if able else ((), [])
    busy_users = len({one.user_id for one in busy})
    paused = sum(one.pause is not None for one in connections)
    return LaunchedForMany(
        run_ids,
        days[0],
        days[-1],
        users=len(able) - busy_users,
        busy=busy_users,
        blocked=len(connections) - len(able) - paused,
        paused=paused,
    )


def _may_try(connection: Connection) -> bool:
    """Whether a sync of the user can succeed. A location that HighLevel has paused is tried, as it
    may be active again."""
    if connection.pause is not None:
        return False
    return connection.obstacle is None or connection.state is ConnectionState.PAUSED


def _days(site: Site, first: date | None, last: date | None) -> list[date]:
    earliest, today = site.dagster.first_day(), site.today()
    last = last or today
    if first is None:
        # Not before the first day that Python has.
        before = min(TRAILING_DAYS, max(0, (last - earliest).days))
        first = last - timedelta(days=before)
    return days_to_sync(
        first, last, earliest=earliest, today=today, keep_days=site.pipeline.keep_days
    )


def _launch_once(
    site: Site, user_ids: Sequence[UUID], days: Sequence[date], launched_by: str
) -> tuple[tuple[str, ...], list[user_syncs.UserSync]]:
    """Launch runs for those of these users whose days no run syncs yet.

    Returns:
        The launched runs, and what was under way before.
    """
    run_ids: list[str] = []
    wanted = set(user_ids)
    failed: PartlyLaunchedError | None = None
    # The lock is held while Dagster answers: a second click waits, and then finds this sync.
    with site.pipeline.engine.begin() as db:
        user_syncs.lock(db)
        busy = [
            one
            for one in user_syncs.under_way(db)
            if one.user_id in wanted and one.first_day <= days[0] and one.last_day >= days[-1]
        ]
        idle = [one for one in user_ids if one not in {sync.user_id for sync in busy}]
        for stretch in stretches(days, DAYS_PER_RUN) if idle else ():
            try:
                run_id = site.dagster.launch_sync(stretch, idle, launched_by)
            except DagsterError as error:
                if not run_ids:
                    raise
                failed = PartlyLaunchedError(run_ids, error)
                break
            run_ids.append(run_id)
            user_syncs.ask(
                db,
                idle,
                run_id,
                (stretch[0], stretch[-1]),
                asked_by=launched_by,
                now=datetime.now(UTC),
            )
    site.watch.wake()
    if failed is not None:
        raise failed
    return tuple(run_ids), busy


_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two polls of a run; the pause doubles each time up to this."""


async def have_ended(site: Site, run_ids: Sequence[str], seconds: float) -> bool:
    """Wait until all of these runs have ended, for some seconds at most; return whether they have.
    No thread is blocked meanwhile. While Dagster does not respond, runs count as running."""
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

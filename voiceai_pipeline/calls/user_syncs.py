"""``user_syncs``: what syncs did for each user, and which ones operators wait for.

A sync that an operator asks for has a row from then on, and the web process writes its end
(``finish``). Any other sync gets a row only if a day failed, or if it found new, changed or missing
calls, so that the thousands of syncs that only confirm what is stored write nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.database.conditions import is_one_of
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.tables import user_syncs


class SyncState(StrEnum):
    """The progress of a user's sync, or how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    CANCELED = "canceled"
    LOST = "lost"


@dataclass(frozen=True)
class UserSync:
    """A sync of a user's days ``first_day`` to ``last_day``, inclusive, by one Dagster run.

    Attributes:
        asked_by: who or what asked for it; None if unknown.
        started_at: when an operator asked for it; otherwise, when its first read started (UTC).
        ended_at: UTC; None while it is under way.
        days: how many of the days have a result so far.
        message: why days are not complete, with the fix.
    """

    user_id: UUID
    run_id: str
    state: SyncState
    asked_by: str | None
    started_at: datetime
    ended_at: datetime | None
    first_day: date
    last_day: date
    days: int
    incomplete_days: int
    new_calls: int
    changed_calls: int
    missing_calls: int
    message: str

    @property
    def is_under_way(self) -> bool:
        return self.ended_at is None

    @property
    def all_days(self) -> int:
        """How many days it covers."""
        return (self.last_day - self.first_day).days + 1


def together(syncs: Sequence[UserSync]) -> UserSync:
    """A user's syncs by one or several runs, combined into one."""
    started = [one for one in syncs if one.state is not SyncState.QUEUED]
    return replace(
        (started or syncs)[0],
        first_day=min(one.first_day for one in syncs),
        last_day=max(one.last_day for one in syncs),
        days=sum(one.days for one in syncs),
        new_calls=sum(one.new_calls for one in syncs),
    )


def by_user(syncs: Iterable[UserSync]) -> dict[UUID, list[UserSync]]:
    """The syncs of each user who has one, in their order."""
    found: defaultdict[UUID, list[UserSync]] = defaultdict(list)
    for one in syncs:
        found[one.user_id].append(one)
    return dict(found)


def ask(
    db: sa.Connection,
    user_ids: Iterable[UUID],
    run_id: str,
    days: tuple[date, date],
    *,
    asked_by: str,
    now: datetime,
) -> None:
    """Record that an operator requested a run that syncs the days from the first to the last."""
    rows = [
        {
            "user_id": user_id,
            "run_id": run_id,
            "state": SyncState.QUEUED.value,
            "asked_by": asked_by,
            "asked_at": now,
            "started_at": now,
            "first_day": days[0],
            "last_day": days[1],
        }
        for user_id in user_ids
    ]
    if rows:
        db.execute(sa.insert(user_syncs), rows)


def lock(db: sa.Connection) -> None:
    """Let one transaction at a time request syncs, so that a second click sees what the first
    one started."""
    db.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('voiceai: ask for a sync'))"))


def add(db: sa.Connection, outcomes: Iterable[DayResult], run_id: str) -> None:
    """Add results of a run's days to its users' rows."""
    by_user: defaultdict[UUID, list[DayResult]] = defaultdict(list)
    for outcome in outcomes:
        by_user[outcome.user.id].append(outcome)
    if by_user:
        sums = [_sum(found) for _, found in sorted(by_user.items(), key=lambda one: str(one[0]))]
        db.execute(_ADD, {"run_id": run_id, **{k: [one[k] for one in sums] for k in sums[0]}})


def _sum(outcomes: list[DayResult]) -> dict[str, object]:
    incomplete = [one for one in outcomes if one.state is not DayState.COMPLETE]
    new, changed, missing = (
        sum(getattr(one, name) for one in outcomes) for name in ("new", "changed", "missing")
    )
    started = [one.started_at for one in outcomes if one.started_at]
    ended = [one.finished_at for one in outcomes if one.finished_at]
    return {
        "users": outcomes[0].user.id,
        "firsts": min(one.day for one in outcomes),
        "lasts": max(one.day for one in outcomes),
        "starts": min(started, default=None),
        "ends": max(ended, default=None),
        "days": len(outcomes),
        "incompletes": len(incomplete),
        "news": new,
        "changes": changed,
        "misses": missing,
        "messages": incomplete[-1].message if incomplete else "",
        "are_news": bool(new or changed or missing)
        or any(one.state is DayState.FAILED for one in incomplete),
    }


_ADD: Final = sa.text(
    """
    INSERT INTO user_syncs AS s (user_id, run_id, state, started_at, ended_at, first_day, last_day,
        days, incomplete_days, new_calls, changed_calls, missing_calls, message)
    SELECT u, :run_id, CASE WHEN i > 0 THEN 'incomplete' ELSE 'complete' END, coalesce(s, now()),
        coalesce(e, now()), f, l,
        d, i, n, c, m, t
    FROM unnest(:users, :firsts, :lasts, :starts, :ends, :days, :incompletes, :news, :changes,
        :misses, :messages, :are_news) AS given(u, f, l, s, e, d, i, n, c, m, t, is_news)
    WHERE is_news
       OR EXISTS (SELECT FROM user_syncs k WHERE (k.user_id, k.run_id) = (u, :run_id))
    ON CONFLICT (user_id, run_id) DO UPDATE SET
        state = CASE WHEN s.asked_at IS NOT NULL THEN 'running'
                     WHEN s.incomplete_days + excluded.incomplete_days > 0 THEN 'incomplete'
                     ELSE 'complete' END,
        ended_at = CASE WHEN s.asked_at IS NULL THEN greatest(s.ended_at, excluded.ended_at) END,
        first_day = least(s.first_day, excluded.first_day),
        last_day = greatest(s.last_day, excluded.last_day),
        days = s.days + excluded.days,
        incomplete_days = s.incomplete_days + excluded.incomplete_days,
        new_calls = s.new_calls + excluded.new_calls,
        changed_calls = s.changed_calls + excluded.changed_calls,
        missing_calls = s.missing_calls + excluded.missing_calls,
        message = coalesce(nullif(excluded.message, ''), s.message)
    """
).bindparams(
    sa.bindparam("users", type_=ARRAY(sa.Uuid)),
    sa.bindparam("firsts", type_=ARRAY(sa.Date)),
    sa.bindparam("lasts", type_=ARRAY(sa.Date)),
    sa.bindparam("starts", type_=ARRAY(UtcDateTime)),
    sa.bindparam("ends", type_=ARRAY(UtcDateTime)),
    *(
        sa.bindparam(name, type_=ARRAY(sa.Integer))
        for name in ("days", "incompletes", "news", "changes", "misses")
    ),
    sa.bindparam("messages", type_=ARRAY(sa.Text)),
    sa.bindparam("are_news", type_=ARRAY(sa.Boolean)),
    sa.bindparam("run_id", type_=sa.Text),
)


def attribute(db: sa.Connection, user_ids: Collection[UUID], run_id: str, asked_by: str) -> None:
    """Record what requested a run in these users' rows of it, unless an operator requested them."""
    db.execute(_ATTRIBUTE, {"users": list(user_ids), "run_id": run_id, "asked_by": asked_by})


_ATTRIBUTE: Final = sa.text(
    "UPDATE user_syncs SET asked_by = :asked_by WHERE user_id = ANY(:users) "
    "AND run_id = :run_id AND asked_by IS NULL AND ended_at IS NOT NULL"
).bindparams(sa.bindparam("users", type_=ARRAY(sa.Uuid)))


def begin(db: sa.Connection, run_ids: Collection[str]) -> None:
    """Mark queued syncs of these runs as running."""
    db.execute(
        sa.update(user_syncs)
        .where(
            is_one_of(user_syncs.c.run_id, run_ids),
            user_syncs.c.ended_at.is_(None),
            user_syncs.c.state == SyncState.QUEUED.value,
        )
        .values(state=SyncState.RUNNING.value)
    )


def finish(db: sa.Connection, run_id: str, end: SyncState, now: datetime) -> None:
    """Record that a run has ended, and with it the syncs of it that operators wait for.

    Args:
        end: how the run ended. A run of many users fails if one of them does, but a user whose
            days are all complete still has a complete sync.
        now: UTC.
    """
    are_complete = user_syncs.c.incomplete_days == 0
    if end is not SyncState.COMPLETE:
        are_complete &= user_syncs.c.days > user_syncs.c.last_day - user_syncs.c.first_day
    otherwise = SyncState.INCOMPLETE if end is SyncState.COMPLETE else end
    state = sa.case((are_complete, SyncState.COMPLETE.value), else_=otherwise.value)
    db.execute(
        sa.update(user_syncs)
        .where(user_syncs.c.run_id == run_id, user_syncs.c.ended_at.is_(None))
        .values(state=state, ended_at=now)
    )


def under_way(db: sa.Connection) -> list[UserSync]:
    """The syncs that operators wait for, oldest first."""
    query = (
        sa.select(user_syncs)
        .where(user_syncs.c.ended_at.is_(None))
        .order_by(user_syncs.c.started_at, user_syncs.c.run_id)
    )
    return [_sync(row) for row in db.execute(query).mappings()]


def of_user(db: sa.Connection, user_id: UUID, limit: int) -> list[UserSync]:
    """A user's last syncs, newest first."""
    query = (
        sa.select(user_syncs)
        .where(user_syncs.c.user_id == user_id)
        .order_by(user_syncs.c.started_at.desc(), user_syncs.c.run_id)
        .limit(limit)
    )
    return [_sync(row) for row in db.execute(query).mappings()]


def asked_for(db: sa.Connection, limit: int) -> list[UserSync]:
    """The last syncs that operators requested, newest first."""
    query = (
        sa.select(user_syncs)
        .where(user_syncs.c.asked_at.is_not(None))
        .order_by(user_syncs.c.asked_at.desc(), user_syncs.c.run_id, user_syncs.c.user_id)
        .limit(limit)
    )
    return [_sync(row) for row in db.execute(query).mappings()]


def purge(db: sa.Connection, before: datetime) -> None:
    """Delete syncs that have ended and started before this time (UTC)."""
    old = (user_syncs.c.started_at < before) & user_syncs.c.ended_at.is_not(None)
    db.execute(sa.delete(user_syncs).where(old))


def _sync(row: sa.RowMapping) -> UserSync:
    values: Mapping[str, object] = {key: row[key] for key in UserSync.__dataclass_fields__}
    return UserSync(**{**values, "state": SyncState(row["state"])})  # type: ignore[arg-type]

"""``sync_ledger`` and ``sync_status``: which days of which users are synced, and if not, why.

The ledger has a row per user, location and day. ``sync_status`` has one per user, derived from the
same results in the same transaction, with the source system's columns and meaning.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.core.connection import SERVICE, User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.conditions import is_one_of
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.tables import NAME, sync_ledger, sync_status, users


@dataclass(frozen=True)
class UserStatus:
    """A row of ``sync_status``: the result of a user's last sync; ``last_sync_at`` is UTC."""

    last_sync_at: datetime | None
    status: str | None
    message: str | None
    records_synced: int | None


def results(
    db: sa.Connection, *, days: Sequence[date], user_ids: Sequence[UUID] | None = None
) -> list[DayResult]:
    """The ledger's rows for ``days``, ordered by user name and day."""
    query = _RESULTS.where(sync_ledger.c.day.in_(days))
    if user_ids is not None:
        query = query.where(is_one_of(sync_ledger.c.user_id, user_ids))
    return [_result(row) for row in db.execute(query).mappings()]


def due_for_retry(
    db: sa.Connection,
    user_ids: Collection[UUID],
    failures: Collection[FailureClass],
    delays: Sequence[timedelta],
    now: datetime,
    first: date,
) -> list[tuple[UUID, date]]:
    """Failed days of these users that are due for a retry, oldest first; at most ``AT_MOST``.

    A day is due if it failed for one of ``failures``, this was its n-th failure in a row, and the
    n-th of ``delays`` has passed since.

    Args:
        now: aware UTC.
        first: days before it are not retried.
    """
    query = sa.text(
        "SELECT user_id, day FROM sync_ledger WHERE state = 'failed' AND day >= :first "
        "AND user_id = ANY(:users) AND failure_class = ANY(:failures) "
        "AND attempt BETWEEN 1 AND cardinality(:delays) "
        "AND finished_at + (:delays)[attempt] <= :now "
        "ORDER BY day, user_id LIMIT :at_most"
    ).bindparams(
        sa.bindparam("users", list(user_ids), ARRAY(sa.Uuid)),
        sa.bindparam("failures", [one.value for one in failures], ARRAY(sa.Text)),
        sa.bindparam("delays", list(delays), ARRAY(sa.Interval)),
        sa.bindparam("now", now),
        sa.bindparam("first", first),
        sa.bindparam("at_most", AT_MOST),
    )
    return [(row.user_id, row.day) for row in db.execute(query)]


def waiting(db: sa.Connection, user_ids: Collection[UUID], first: date) -> list[tuple[UUID, date]]:
    """Days of these users that wait until their connection works again, from ``first`` on, oldest
    first; at most ``AT_MOST``."""
    query = sa.text(
        "SELECT user_id, day FROM sync_ledger WHERE state = 'waiting' AND day >= :first "
        "AND user_id = ANY(:users) ORDER BY day, user_id LIMIT :at_most"
    ).bindparams(
        sa.bindparam("users", list(user_ids), ARRAY(sa.Uuid)),
        sa.bindparam("first", first),
        sa.bindparam("at_most", AT_MOST),
    )
    return [(row.user_id, row.day) for row in db.execute(query)]


AT_MOST: Final = 50_000
"""The most rows that a query over all users' days returns."""


def users_with(db: sa.Connection, state: DayState, first: date) -> set[UUID]:
    """The users with a day in this state, from ``first`` on."""
    query = sa.select(sync_ledger.c.user_id).where(
        # The predicate of the partial index on unfinished days; complete days are millions.
        sync_ledger.c.state != sa.literal_column("'complete'"),
        sync_ledger.c.state != sa.literal_column("'not_kept'"),
        sync_ledger.c.state == state.value,
        sync_ledger.c.day >= first,
    )
    return set(db.execute(query.distinct()).scalars())


def unread_users(db: sa.Connection) -> set[UUID]:
    """All users of whom no day was ever read or tried, including those who cannot be synced."""
    query = sa.text(
        "SELECT u.id FROM users u WHERE NOT EXISTS ("
        "SELECT FROM sync_ledger l WHERE l.user_id = u.id AND l.state <> 'waiting')"
    )
    return set(db.execute(query).scalars())


def failed_days(db: sa.Connection, user_ids: Collection[UUID]) -> list[date]:
    """The days that failed for any of these users, oldest first."""
    query = sa.text(
        "SELECT DISTINCT day FROM sync_ledger "
        "WHERE state = 'failed' AND user_id = ANY(:users) ORDER BY day"
    ).bindparams(sa.bindparam("users", list(user_ids), ARRAY(sa.Uuid)))
    return list(db.execute(query).scalars())


def never_synced(db: sa.Connection, user_ids: Collection[UUID]) -> set[UUID]:
    """Those of ``user_ids`` of whom no day was ever read or tried."""
    query = sa.text(
        "SELECT u.id FROM unnest(:users) AS u(id) WHERE NOT EXISTS ("
        "SELECT FROM sync_ledger l WHERE l.user_id = u.id AND l.state <> 'waiting')"
    ).bindparams(sa.bindparam("users", list(user_ids), ARRAY(sa.Uuid)))
    return set(db.execute(query).scalars())


def completed_since(
    db: sa.Connection,
    users_at: Collection[tuple[UUID, str]],
    days: Collection[date],
    since: datetime,
) -> list[DayResult]:
    """The results of ``days`` that were read completely after ``since`` (UTC).

    Args:
        users_at: the users to include and their locations, as pairs of ids.
    """
    if not users_at or not days:
        return []
    user_ids, location_ids = zip(*users_at, strict=True)
    values = {
        "users": list(user_ids),
        "locations": list(location_ids),
        "first": min(days),
        "last": max(days),
        "since": since,
    }
    wanted = set(days)
    rows = db.execute(_COMPLETED_SINCE, values).mappings()
    return [row for row in map(_result, rows) if row.day in wanted]


_RESULTS = (
    sa.select(sync_ledger, NAME.label("user_name"))
    .join(users, users.c.id == sync_ledger.c.user_id)
    .order_by(NAME, sync_ledger.c.user_id, sync_ledger.c.day)
)


_USERS_AT: Final = (
    sa.func.unnest(
        sa.bindparam("users", type_=ARRAY(sa.Uuid)),
        sa.bindparam("locations", type_=ARRAY(sa.Text)),
    )
    .table_valued(sa.column("user_id", sa.Uuid), sa.column("location_id", sa.Text))
    .render_derived()
)

_COMPLETED_SINCE: Final = _RESULTS.join(
    _USERS_AT,
    (_USERS_AT.c.user_id == sync_ledger.c.user_id)
    & (_USERS_AT.c.location_id == sync_ledger.c.location_id),
).where(
    sync_ledger.c.day.between(sa.bindparam("first"), sa.bindparam("last")),
    sync_ledger.c.state == DayState.COMPLETE.value,
    sync_ledger.c.finished_at > sa.bindparam("since"),
)

_user: Final = lru_cache(maxsize=20_000)(User)
"""Cached, so that all days of a user share one object."""


def _result(row: sa.RowMapping) -> DayResult:
    return DayResult(
        user=_user(row["user_id"], row["user_name"]),
        location_id=sys.intern(row["location_id"]),
        day=row["day"],
        state=DayState(row["state"]),
        failure=FailureClass.stored(row["failure_class"]),
        message=row["message"],
        read_until=row["read_until"],
        api_total=row["api_total"],
        stored=row["stored"],
        new=row["new_calls"],
        changed=row["changed_calls"],
        missing=row["missing_calls"],
        set_aside=row["set_aside_calls"],
        unknown_actions=row["unknown_actions"],
        pages=row["pages"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def lock_users(db: sa.Connection, user_ids: Collection[UUID]) -> None:
    """Lock these users' rows. Every transaction locks users first and in this order, so that none
    can deadlock."""
    db.execute(_LOCK_USERS, {"users": list(user_ids)})


_LOCK_USERS: Final = sa.text(
    "SELECT id FROM users WHERE id = ANY(:users) ORDER BY id FOR NO KEY UPDATE"
).bindparams(sa.bindparam("users", type_=ARRAY(sa.Uuid)))


def record(db: sa.Connection, outcomes: Iterable[DayResult], run_id: str | None) -> None:
    """Write the results of days in one statement. It counts ``attempt`` (failures in a row) from
    the stored rows; the ``attempt`` of ``outcomes`` is ignored."""
    # A fixed order of rows, so that two transactions cannot deadlock.
    rows = sorted(outcomes, key=lambda outcome: (str(outcome.user.id), outcome.day))
    if not rows:
        return
    columns = {
        "user_id": [row.user.id for row in rows],
        "location_id": [row.location_id for row in rows],
        "day": [row.day for row in rows],
        "state": [row.state.value for row in rows],
        "failure_class": [row.failure.value if row.failure else None for row in rows],
        "message": [row.message for row in rows],
        "read_until": [row.read_until for row in rows],
        "api_total": [row.api_total for row in rows],
        "stored": [row.stored for row in rows],
        "new_calls": [row.new for row in rows],
        "changed_calls": [row.changed for row in rows],
        "missing_calls": [row.missing for row in rows],
        "set_aside_calls": [row.set_aside for row in rows],
        "unknown_actions": [row.unknown_actions for row in rows],
        "pages": [row.pages for row in rows],
        "started_at": [row.started_at for row in rows],
        "finished_at": [row.finished_at for row in rows],
    }
    db.execute(_RECORD, columns | {"run_id": run_id})


_GIVEN: Final = tuple(
    column for column in sync_ledger.columns if column.name not in ("run_id", "attempt")
)


def _record_statement() -> sa.TextClause:
    dialect: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    names = ", ".join(column.name for column in _GIVEN)
    arrays = ", ".join(
        f"CAST(:{column.name} AS {column.type.compile(dialect)}[])" for column in _GIVEN
    )
    updates = ", ".join(
        f"{column.name} = excluded.{column.name}"
        for column in _GIVEN
        if not column.primary_key and column.name != "read_until"
    )
    return sa.text(
        f"INSERT INTO sync_ledger AS l ({names}, run_id, attempt) "  # noqa: S608 - our own names
        f"SELECT {names}, CAST(:run_id AS text), CASE state WHEN 'failed' THEN 1 ELSE 0 END "
        f"FROM unnest({arrays}) WITH ORDINALITY AS given({names}, ordinal) ORDER BY ordinal "
        f"ON CONFLICT (user_id, location_id, day) DO UPDATE SET {updates}, "
        "run_id = excluded.run_id, "
        "attempt = CASE excluded.state WHEN 'failed' THEN l.attempt + 1 ELSE 0 END, "
        # A read of today that started earlier and finishes later must not move read_until back.
        "read_until = CASE excluded.state WHEN 'complete' "
        "THEN greatest(l.read_until, excluded.read_until) ELSE excluded.read_until END"
    )


_RECORD: Final = _record_statement()


def record_with_statuses(
    db: sa.Connection,
    outcomes: Sequence[DayResult],
    so_far: Iterable[DayResult],
    run_id: str | None,
) -> None:
    """Write the ledger rows of ``outcomes`` and their users' ``sync_status``; for a run, also
    ``user_syncs``. A user whose syncs are paused keeps their ``sync_status``: nothing was synced.

    Args:
        so_far: all results of this sync, ``outcomes`` included: a user's status covers them all.
    """
    lock_users(db, {outcome.user.id for outcome in outcomes})
    record(db, outcomes, run_id)
    by_user: defaultdict[UUID, list[DayResult]] = defaultdict(list)
    for outcome in so_far:
        by_user[outcome.user.id].append(outcome)
    paused = {one.user.id for one in outcomes if one.failure is FailureClass.SYNC_PAUSED}
    concerned = {outcome.user.id for outcome in outcomes} - paused
    record_statuses(db, {user: status_of(by_user[user]) for user in concerned})
    if run_id is not None:
        user_syncs.add(db, outcomes, run_id)


def status_of(outcomes: Sequence[DayResult]) -> UserStatus:
    """A user's ``sync_status`` after these days: success only if every one is complete."""
    unfinished = [outcome for outcome in outcomes if outcome.state is not DayState.COMPLETE]
    stored = sum(outcome.stored or 0 for outcome in outcomes)
    span = f"{len(outcomes)} day{'s' if len(outcomes) != 1 else ''}"
    if unfinished:
        message = unfinished[-1].message
        if len(unfinished) < len(outcomes):
            message = f"{message} ({len(unfinished)} of {span}, latest {unfinished[-1].day})"
    else:
        new, changed = (sum(getattr(o, name) for o in outcomes) for name in ("new", "changed"))
        message = f"Synced {span}: {stored} calls, {new} new, {changed} changed"
        odd = [outcome for outcome in outcomes if outcome.message]
        if odd:
            message += f"; {odd[-1].message}" + (f" ({odd[-1].day})" if len(outcomes) > 1 else "")
    return UserStatus(
        last_sync_at=max((o.finished_at for o in outcomes if o.finished_at), default=None),
        status="failure" if unfinished else "success",
        message=message,
        records_synced=stored,
    )


def record_statuses(db: sa.Connection, statuses: Mapping[UUID, UserStatus]) -> None:
    """Write the ``sync_status`` rows of users, one per service and user.

    Lock the users first (``lock_users``): the source system's table may have no unique key.
    """
    values = {
        "service": SERVICE,
        "users": list(statuses),
        "times": [status.last_sync_at for status in statuses.values()],
        "states": [status.status for status in statuses.values()],
        "messages": [status.message for status in statuses.values()],
        "counts": [status.records_synced for status in statuses.values()],
    }
    known = set(db.execute(_UPDATE_STATUSES, values).scalars())
    if new := [
        {
            "id": uuid4(),
            "service": SERVICE,
            "user_id": user_id,
            "last_sync_at": status.last_sync_at,
            "last_sync_status": status.status,
            "last_sync_message": status.message,
            "records_synced": status.records_synced,
            "created_at": status.last_sync_at,
            "updated_at": status.last_sync_at,
        }
        for user_id, status in statuses.items()
        if user_id not in known
    ]:
        db.execute(sa.insert(sync_status), new)


_UPDATE_STATUSES: Final = sa.text(
    "UPDATE sync_status s SET last_sync_at = t, updated_at = t, last_sync_status = state, "
    "last_sync_message = message, records_synced = n "
    "FROM unnest(:users, :times, :states, :messages, :counts) AS new(u, t, state, message, n) "
    "WHERE s.user_id = u AND s.service = :service RETURNING u"
).bindparams(
    sa.bindparam("users", type_=ARRAY(sa.Uuid)),
    sa.bindparam("times", type_=ARRAY(UtcDateTime)),
    sa.bindparam("states", type_=ARRAY(sa.Text)),
    sa.bindparam("messages", type_=ARRAY(sa.Text)),
    sa.bindparam("counts", type_=ARRAY(sa.Integer)),
)


def statuses(db: sa.Connection, user_ids: Collection[UUID] | None = None) -> dict[UUID, UserStatus]:
    """The last sync of all users, or of ``user_ids``; users without one are absent."""
    query = sa.select(sync_status).where(
        sync_status.c.service == SERVICE, sync_status.c.user_id.is_not(None)
    )
    if user_ids is not None:
        query = query.where(is_one_of(sync_status.c.user_id, user_ids))
    return {
        row["user_id"]: UserStatus(
            row["last_sync_at"],
            row["last_sync_status"],
            row["last_sync_message"],
            row["records_synced"],
        )
        for row in db.execute(query).mappings()
    }

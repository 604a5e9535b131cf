"""``sync_ledger`` and ``sync_status``: what was synced for whom, and if not, why.

The ledger has a row per user, location and day; ``sync_status`` one per user, derived from the same
results in the same transaction, with the source system's columns and meaning.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from voiceai_pipeline.models import (
    SERVICE,
    DayResult,
    DayState,
    FailureClass,
    User,
)
from voiceai_pipeline.storage.tables import NAME, sync_ledger, sync_status, users


@dataclass(frozen=True)
class UserStatus:
    """A row of ``sync_status``: the outcome of a user's last sync."""

    last_sync_at: datetime | None
    status: str | None
    message: str | None
    records_synced: int | None


def results(
    db: sa.Connection, *, days: Sequence[date], user_ids: Sequence[UUID] | None = None
) -> list[DayResult]:
    """The ledger's rows for some days, by user name and day."""
    query = _RESULTS.where(sync_ledger.c.day.in_(days))
    if user_ids is not None:
        query = query.where(sync_ledger.c.user_id.in_(user_ids))
    return [_result(row) for row in db.execute(query).mappings()]


def unfinished(db: sa.Connection, state: DayState, user_ids: Collection[UUID]) -> list[DayResult]:
    """These users' rows in ``state`` (FAILED or WAITING), by user name and day."""
    query = _RESULTS.where(sync_ledger.c.state == state.value, sync_ledger.c.user_id.in_(user_ids))
    return [_result(row) for row in db.execute(query).mappings()]


def users_synced_before(db: sa.Connection) -> set[UUID]:
    """Users of whom at least one day was read, or tried to be."""
    query = (
        sa.select(sync_ledger.c.user_id)
        .where(sync_ledger.c.state != DayState.WAITING.value)
        .distinct()
    )
    return set(db.execute(query).scalars())


_RESULTS = (
    sa.select(sync_ledger, NAME.label("user_name"))
    .join(users, users.c.id == sync_ledger.c.user_id)
    .order_by(NAME, sync_ledger.c.user_id, sync_ledger.c.day)
)


def _result(row: sa.RowMapping) -> DayResult:
    return DayResult(
        user=User(row["user_id"], row["user_name"]),
        location_id=row["location_id"],
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
    """Wait for whoever changes these users, in the order in which everybody does: users first."""
    db.execute(
        sa.select(users.c.id)
        .where(users.c.id.in_(user_ids))
        .order_by(users.c.id)
        .with_for_update(key_share=True)
    )


def record(db: sa.Connection, outcomes: Iterable[DayResult], run_id: str | None) -> None:
    """Write the outcome of days, in one statement however many. ``attempt`` counts failures in a
    row, whatever is passed."""
    # A fixed order of rows: two transactions never wait for each other in a circle.
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
        f"FROM unnest({arrays}) WITH ORDINALITY AS given({names}, place) ORDER BY place "
        f"ON CONFLICT (user_id, location_id, day) DO UPDATE SET {updates}, "
        "run_id = excluded.run_id, "
        "attempt = CASE excluded.state WHEN 'failed' THEN l.attempt + 1 ELSE 0 END, "
        # A read of today that began earlier and ends later does not make the day shorter.
        "read_until = CASE excluded.state WHEN 'complete' "
        "THEN greatest(l.read_until, excluded.read_until) ELSE excluded.read_until END"
    )


_RECORD: Final = _record_statement()


def record_statuses(db: sa.Connection, statuses: Mapping[UUID, UserStatus]) -> None:
    """Write the ``sync_status`` rows of users; there is one per service and user.

    The source system may have a unique key here or not; none is needed while the users are locked
    (``lock_users``).
    """
    rows = {
        user_id: {
            "last_sync_at": status.last_sync_at,
            "last_sync_status": status.status,
            "last_sync_message": status.message,
            "records_synced": status.records_synced,
            "updated_at": status.last_sync_at,
        }
        for user_id, status in statuses.items()
    }
    here = (sync_status.c.service == SERVICE, sync_status.c.user_id.in_(rows))
    known = set(db.execute(sa.select(sync_status.c.user_id).where(*here)).scalars())
    if old := [{"user": user_id, **row} for user_id, row in rows.items() if user_id in known]:
        mine = (sync_status.c.user_id == sa.bindparam("user")) & (sync_status.c.service == SERVICE)
        db.execute(sa.update(sync_status).where(mine), old)
    if new := [
        {
            "id": uuid4(),
            "service": SERVICE,
            "user_id": user_id,
            "created_at": row["updated_at"],
            **row,
        }
        for user_id, row in rows.items()
        if user_id not in known
    ]:
        db.execute(sa.insert(sync_status), new)


def statuses(db: sa.Connection, user_ids: Collection[UUID] | None = None) -> dict[UUID, UserStatus]:
    """The last sync of every user, or of ``user_ids``; users who never had one are absent."""
    query = sa.select(sync_status).where(
        sync_status.c.service == SERVICE, sync_status.c.user_id.is_not(None)
    )
    if user_ids is not None:
        query = query.where(sync_status.c.user_id.in_(user_ids))
    return {
        row["user_id"]: UserStatus(
            row["last_sync_at"],
            row["last_sync_status"],
            row["last_sync_message"],
            row["records_synced"],
        )
        for row in db.execute(query).mappings()
    }

"""``work_units``: the locations that a sync still has to read, for its leader and its helpers.

A worker takes units under a lease, by the database's clock, and extends it while it works on them;
units of a worker that died are taken by another when their lease expires. Only its holder deletes a
unit that is done: a worker that lost a unit to another can no longer change it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.database.tables import work_units

_AT_ONCE: Final = 2_000
"""Units that are inserted at once."""


@dataclass(frozen=True)
class Unit:
    """A location to read for some users.

    Attributes:
        known: as in ``Task``.
        since: when the leader's run was requested (UTC).
    """

    location_id: str
    user_ids: list[UUID]
    days: list[date]
    known: Collection[tuple[UUID, date]] | None
    since: datetime


def post(db: sa.Connection, leader: str, tasks: Iterable[Task], since: datetime) -> None:
    """Offer tasks to helpers."""
    rows = map(_row, tasks)
    # A hundred thousand at once would take a hundred MB.
    while batch := list(islice(rows, _AT_ONCE)):
        names = ("locations", "users", "days", "known_users", "known_days")
        values = dict(zip(names, map(list, zip(*batch, strict=True)), strict=True))
        db.execute(_POST, {"leader": leader, "since": since, **values})


# Arrays of arrays have to be of one length, so each of the inner ones is a text.
_POST: Final = sa.text(
    "INSERT INTO work_units "
    "(leader, location_id, user_ids, days, known_users, known_days, since) "
    "SELECT :leader, l, CAST(u AS uuid[]), CAST(d AS date[]), CAST(ku AS uuid[]), "
    "CAST(kd AS date[]), :since "
    "FROM unnest(:locations, :users, :days, :known_users, :known_days) AS given(l, u, d, ku, kd)"
).bindparams(
    *(
        sa.bindparam(name, type_=ARRAY(sa.Text))
        for name in ("locations", "users", "days", "known_users", "known_days")
    )
)


def _row(task: Task) -> tuple[str, str, str, str | None, str | None]:
    user_ids = [one.user.id for one in task.connections]
    users, days = _array(user_ids), _array(task.days)
    if task.known is None:
        return task.location_id, users, days, None, None
    of_task = ((user, day) for user in user_ids for day in task.days)
    known = [pair for pair in of_task if pair in task.known]
    known_users, known_days = (_array(pair[part] for pair in known) for part in (0, 1))
    return task.location_id, users, days, known_users, known_days


def _array(values: Iterable[UUID | date]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def take(
    db: sa.Connection, leader: str, holder: UUID, at_most: int, duration: timedelta, after: str
) -> list[Unit]:
    """Take units that no worker holds, in order of location ids after ``after``."""
    values = {
        "leader": leader,
        "holder": holder,
        "at_most": at_most,
        "duration": duration,
        "after": after,
    }
    units = map(_unit, db.execute(_TAKE, values).mappings())
    return sorted(units, key=lambda unit: unit.location_id)


_TAKE: Final = sa.text(
    "UPDATE work_units u SET holder = :holder, expires_at = clock_timestamp() + :duration FROM ("
    "  SELECT location_id FROM work_units WHERE leader = :leader AND location_id > :after "
    "  AND (expires_at IS NULL OR expires_at <= clock_timestamp()) "
    # Skip units that another worker is taking right now.
    "  ORDER BY location_id LIMIT :at_most FOR UPDATE SKIP LOCKED) AS free "
    "WHERE u.leader = :leader AND u.location_id = free.location_id "
    "RETURNING u.location_id, u.user_ids, u.days, u.known_users, u.known_days, u.since"
).bindparams(
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("duration", type_=sa.Interval),
)


def _unit(row: Mapping[Any, Any]) -> Unit:
    users, days = row["known_users"], row["known_days"]
    known = None if users is None else set(zip(users, days, strict=True))
    return Unit(row["location_id"], row["user_ids"], row["days"], known, row["since"])


def keep(
    db: sa.Connection, leader: str, holder: UUID, locations: Collection[str], duration: timedelta
) -> None:
    """Extend the leases of units that are still ours."""
    db.execute(_KEEP, _ours(leader, holder, locations) | {"duration": duration})


_OURS: Final = (
    "leader = :leader AND location_id IN (SELECT location_id FROM work_units "
    "WHERE leader = :leader AND holder = :holder AND location_id = ANY(:locations) "
    "ORDER BY location_id FOR UPDATE)"
)

_KEEP: Final = sa.text(
    f"UPDATE work_units SET expires_at = clock_timestamp() + :duration WHERE {_OURS}"  # noqa: S608
).bindparams(
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("duration", type_=sa.Interval),
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
)


def finish(db: sa.Connection, leader: str, holder: UUID, locations: Collection[str]) -> None:
    """Delete units that are done, if they are still ours."""
    db.execute(_FINISH, _ours(leader, holder, locations))


_FINISH: Final = sa.text(
    f"DELETE FROM work_units WHERE {_OURS}"  # noqa: S608 - our own text
).bindparams(
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
)


def give_back(db: sa.Connection, leader: str, holder: UUID, locations: Collection[str]) -> None:
    """Let others take units that are still ours."""
    db.execute(_GIVE_BACK, _ours(leader, holder, locations))


_GIVE_BACK: Final = sa.text(
    f"UPDATE work_units SET holder = NULL, expires_at = NULL WHERE {_OURS}"  # noqa: S608
).bindparams(
    sa.bindparam("holder", type_=sa.Uuid),
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
)


def _ours(leader: str, holder: UUID, locations: Collection[str]) -> dict[str, Any]:
    return {"leader": leader, "holder": holder, "locations": sorted(locations)}


def since(db: sa.Connection, leader: str) -> datetime | None:
    """When the leader's run was requested (UTC); None if no unit of it is left."""
    query = sa.select(work_units.c.since).where(work_units.c.leader == leader).limit(1)
    return db.execute(query).scalar_one_or_none()


def free(db: sa.Connection) -> dict[str, int]:
    """By leader: how many units no worker holds. Leaders without units are absent."""
    return {row.leader: row.free for row in db.execute(_FREE)}


_FREE: Final = sa.text(
    "SELECT leader, count(*) FILTER (WHERE expires_at IS NULL OR expires_at <= clock_timestamp()) "
    "AS free FROM work_units GROUP BY leader ORDER BY min(since)"
)


def forget(db: sa.Connection, leader: str) -> None:
    """Delete all units of a leader that has ended."""
    db.execute(sa.delete(work_units).where(work_units.c.leader == leader))

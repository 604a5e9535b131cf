"""Which users are missing on a red day, and why. Like ``day_counts``, this works in the database,
for a page that must respond quickly: it groups the users by cause there."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.core.connection import Connection, User
from voiceai_pipeline.core.failures import FailureClass

NAMED: Final = 3
"""The most users that a cause names."""


@dataclass(frozen=True)
class Cause:
    """One reason why users are missing on a day.

    Attributes:
        users: the first ``NAMED`` of them, by name.
        more: how many others there are.
    """

    failure: FailureClass
    users: tuple[User, ...]
    more: int


def causes_of_days(
    db: sa.Connection, connections: Sequence[Connection], days: Collection[date]
) -> dict[date, list[Cause]]:
    """Why syncs failed on these days, the most frequent cause first; days without one are absent.

    Args:
        connections: all users; only those who can be synced make a day red.
    """
    able = {one.user.id: one for one in connections if one.can_sync}
    values = {
        "users": list(able),
        "locations": [one.location_id for one in able.values()],
        "names": [one.user.name for one in able.values()],
        "days": sorted(days),
        "named": NAMED,
    }
    found: dict[date, list[Cause]] = {}
    for row in db.execute(_CAUSES, values):
        failure = FailureClass.stored(row.failure_class) or FailureClass.INTERNAL
        users = tuple(able[user_id].user for user_id in row.users)
        found.setdefault(row.day, []).append(Cause(failure, users, row.total - len(users)))
    return found


_CAUSES: Final = sa.text(
    "SELECT l.day, l.failure_class, count(*) AS total, "
    "       (array_agg(u.user_id ORDER BY u.name, u.user_id))[1:CAST(:named AS int)] AS users "
    "FROM unnest(CAST(:users AS uuid[]), CAST(:locations AS text[]), CAST(:names AS text[])) "
    "     AS u(user_id, location_id, name) "
    "JOIN sync_ledger l USING (user_id, location_id) "
    "WHERE l.state = 'failed' AND l.day = ANY(CAST(:days AS date[])) "
    "GROUP BY l.day, l.failure_class ORDER BY l.day DESC, total DESC, l.failure_class"
)

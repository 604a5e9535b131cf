"""Reads what pages show beside the users themselves. What cannot be read is shown as unavailable,
and the page works without it."""

from collections.abc import Callable, Mapping
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger, user_syncs
from voiceai_pipeline.calls.user_syncs import UserSync
from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import Site

T = TypeVar("T")


def read_or_none(site: Site, read: Callable[[sa.Connection], T]) -> T | None:
    """What ``read`` returns; None if the database cannot provide it."""
    try:
        with site.pipeline.engine.begin() as db:
            return read(db)
    except sa.exc.SQLAlchemyError:
        return None


def last_syncs(site: Site, *user_ids: UUID) -> dict[UUID, ledger.UserStatus] | None:
    """The last sync of these users, or of all if none is given; None if it cannot be read."""
    return read_or_none(site, lambda db: ledger.statuses(db, user_ids or None))


def under_way(site: Site) -> Mapping[UUID, UserSync]:
    """The syncs that operators asked for and that have not ended, by user."""
    found = user_syncs.by_user(read_or_none(site, user_syncs.under_way) or ())
    return {user_id: user_syncs.together(syncs) for user_id, syncs in found.items()}


def row_of(site: Site, user_id: UUID) -> tuple[Row, bool]:
    """A user as the pages show one, and whether the last sync is known.

    Raises:
        UnknownUserError: there is no such user.
    """
    statuses = last_syncs(site, user_id)
    row = Row(site.connection(user_id), (statuses or {}).get(user_id), under_way(site).get(user_id))
    return row, statuses is not None


def open_circuit(site: Site) -> circuit_breaker.Circuit | None:
    """The circuit breaker if it suspends all refreshes now, else None."""
    circuit = read_or_none(site, circuit_breaker.read)
    return circuit if circuit is not None and circuit.is_open else None

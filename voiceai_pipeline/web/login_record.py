"""Records logins and failed attempts in PostgreSQL, and opens an alert if failures repeat.

``throttle.py`` locks out the address that fails; what is counted here locks out no one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts
from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.database.tables import page_logins

log = logging.getLogger(__name__)

ALERT_AFTER: Final = 10
WITHIN: Final = timedelta(minutes=10)
"""An alert opens after ``ALERT_AFTER`` failures within this time, from any addresses."""

QUIET: Final = timedelta(hours=1)
"""After this long without a failure, the next attempt closes the alert."""

RECORDED: Final = 30
"""Maximum failures recorded within ``WITHIN``: an attack of a year then takes 100 MB."""

_SHOWN: Final = 100


@dataclass(frozen=True)
class Login:
    """An attempt to log in; ``role`` is None if it failed, ``at`` is UTC."""

    at: datetime
    address: str
    role: Role | None


def record(engine: sa.Engine, address: str, role: Role | None) -> None:
    """Record an attempt; if the database is unavailable, the login works anyway.

    Args:
        role: None: the password was wrong.
    """
    try:
        with engine.begin() as db:
            _record(db, address, role, database_now(db))
    except sa.exc.SQLAlchemyError as error:
        log.warning("a login from %s is not recorded: %s", address, type(error).__name__)


def _record(db: sa.Connection, address: str, role: Role | None, now: datetime) -> None:
    last, failures = db.execute(
        sa.select(
            sa.func.max(page_logins.c.at), sa.func.count().filter(page_logins.c.at > now - WITHIN)
        ).where(page_logins.c.role.is_(None), page_logins.c.at > now - QUIET)
    ).one()
    if last is None:
        alerts.close(db, None, now, subject=alerts.LOGINS)
    if role is not None or failures < RECORDED:
        db.execute(sa.insert(page_logins).values(at=now, address=address, role=role))
    if role is None and failures + 1 >= ALERT_AFTER:
        alerts.open_(db, None, FailureClass.LOGINS_FAILING, now, subject=alerts.LOGINS)


def newest(db: sa.Connection, limit: int = _SHOWN) -> Sequence[Login]:
    """The last attempts, the newest first."""
    query = sa.select(page_logins.c.at, page_logins.c.address, page_logins.c.role)
    rows = db.execute(query.order_by(page_logins.c.id.desc()).limit(limit))
    return [Login(row.at, row.address, Role(row.role) if row.role else None) for row in rows]

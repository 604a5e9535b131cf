"""``connection_alerts``: opens and closes problems that need attention.

There is one row per problem, and one open problem per subject. So each channel is notified once
when a problem opens and once when it closes, however often it is reported. Rows are written in the
transaction of the change they report; ``alert_delivery.py`` delivers them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import FailureClass, Remedy
from voiceai_pipeline.database.tables import alerts, sync_pauses, users

APP: Final = "app"
"""The subject of problems that affect all users: our configuration, or HighLevel as a whole."""

_BUSINESS: Final = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""), sa.cast(users.c.id, sa.Text)
)
"""Notices leave our systems, so they name a business, never a private name."""

DAEMON: Final = "daemon"
"""The subject of problems with Dagster's daemon."""

LOGINS: Final = "logins"
"""The subject of failed logins to the pages."""

_IS_PAUSED: Final = sa.exists().where(sync_pauses.c.user_id == alerts.c.user_id)
"""An operator has paused the user's syncs, and hears of the user's problems after resuming them."""

Moment = Literal["opened", "closed"]


@dataclass(frozen=True)
class Notice:
    """The opening or closing of an alert, to be delivered on one channel.

    Attributes:
        user: None for a problem that affects all users.
        moment: whether the problem opened or closed.
        at: when it did (UTC).
    """

    alert_id: int
    moment: Moment
    user: User | None
    reason: FailureClass
    at: datetime


@dataclass(frozen=True)
class Problem:
    """An open alert; ``opened_at`` is UTC."""

    subject: str
    opened_at: datetime


def open_problems(db: sa.Connection) -> list[Problem]:
    """The open alerts, oldest first; without those of users whose syncs are paused."""
    query = (
        sa.select(alerts.c.subject, alerts.c.opened_at)
        .where(alerts.c.closed_at.is_(None), sa.not_(_IS_PAUSED))
        .order_by(alerts.c.id)
    )
    return [Problem(row.subject, row.opened_at) for row in db.execute(query)]


def subject_of(user_id: UUID | None) -> str:
    return f"user:{user_id}" if user_id else APP


def rotation_of(user_id: UUID) -> str:
    """The subject of alerts about a private integration token's age, which do not exclude the
    connection's own problems."""
    return f"rotation:{user_id}"


def open_(
    db: sa.Connection,
    user_id: UUID | None,
    reason: FailureClass,
    now: datetime,
    *,
    subject: str | None = None,
) -> bool:
    """Open an alert; False if the subject already has an open one.

    A lasting problem replaces an open temporary one, which is closed without a notice.

    Args:
        subject: None: the user's connection, or the refreshes of all users.
    """
    subject = subject or subject_of(user_id)
    if not _is_temporary(reason):
        temporary = [one.value for one in FailureClass if _is_temporary(one)]
        db.execute(
            sa.update(alerts)
            .where(
                alerts.c.subject == subject,
                alerts.c.closed_at.is_(None),
                alerts.c.reason.in_(temporary),
            )
            .values(closed_at=now, closed_quietly=True)
        )
    opened = db.execute(
        insert(alerts)
        .values(subject=subject, user_id=user_id, reason=reason.value, opened_at=now)
        .on_conflict_do_nothing()
        .returning(alerts.c.id)
    )
    return opened.one_or_none() is not None


def close(
    db: sa.Connection,
    user_id: UUID | None,
    now: datetime,
    *,
    quietly: bool = False,
    subject: str | None = None,
) -> bool:
    """Close an alert; False if none is open.

    Args:
        quietly: send no notice, because an operator resolved it.
        subject: as for ``open_``.
    """
    closed = db.execute(
        sa.update(alerts)
        .where(alerts.c.subject == (subject or subject_of(user_id)), alerts.c.closed_at.is_(None))
        .values(closed_at=now, closed_quietly=quietly)
    )
    return closed.rowcount > 0


def pending(db: sa.Connection, channel: str) -> list[Notice]:
    """The notices that ``channel`` has not received yet, oldest first.

    A problem resolved before its alert was delivered is left out, and so is, for now, one of a user
    whose syncs are paused.
    """
    opening_delivered = _delivered(alerts.c.opened_told, channel)
    closing_delivered = _delivered(alerts.c.closed_told, channel)
    is_open = alerts.c.closed_at.is_(None)
    opened = sa.and_(is_open, sa.not_(opening_delivered), sa.not_(_IS_PAUSED))
    closed = sa.and_(
        sa.not_(is_open),
        opening_delivered,
        sa.not_(closing_delivered),
        alerts.c.closed_quietly.is_(False),
    )
    query = (
        sa.select(alerts, _BUSINESS.label("user_name"))
        .outerjoin(users, users.c.id == alerts.c.user_id)
        .where(sa.or_(opened, closed))
        .order_by(alerts.c.id)
    )
    return [_notice(row) for row in db.execute(query).mappings()]


def lock_channel(db: sa.Connection, channel: str) -> None:
    """Lock ``channel`` until the end of the transaction, so that one delivery runs at a time.

    No row is locked, so a refresh that closes a problem does not wait for a mail server.
    """
    key = sa.func.hashtextextended(f"alerts on {channel}", 0)
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def is_delivered(db: sa.Connection, notice: Notice, channel: str) -> bool:
    """Whether ``channel`` has received the notice."""
    delivered = _delivered(_column(notice), channel)
    return bool(db.execute(sa.select(delivered).where(alerts.c.id == notice.alert_id)).scalar_one())


def mark_delivered(db: sa.Connection, notice: Notice, channel: str) -> None:
    """Record that ``channel`` has received the notice."""
    column = _column(notice)
    db.execute(
        sa.update(alerts)
        .where(alerts.c.id == notice.alert_id, sa.not_(_delivered(column, channel)))
        .values({column: sa.func.array_append(column, channel)})
    )


def _column(notice: Notice) -> sa.Column[Any]:
    return alerts.c.opened_told if notice.moment == "opened" else alerts.c.closed_told


def _is_temporary(reason: FailureClass) -> bool:
    return reason.explanation.remedy is Remedy.RERUN


def _delivered(column: sa.Column[Any], channel: str) -> sa.ColumnElement[bool]:
    return sa.literal(channel) == sa.any_(column)


def _notice(row: sa.RowMapping) -> Notice:
    moment: Moment = "opened" if row["closed_at"] is None else "closed"
    return Notice(
        alert_id=row["id"],
        moment=moment,
        user=User(row["user_id"], row["user_name"]) if row["user_id"] else None,
        reason=FailureClass.stored(row["reason"]) or FailureClass.INTERNAL,
        at=row["opened_at"] if moment == "opened" else row["closed_at"],
    )

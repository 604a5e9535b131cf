"""``connection_alerts``: whom to tell that something began to need a person, and that it ended.

One row per problem, one open problem per subject: however often it is reported, it is told once at
its beginning and once at its end. Rows are written in the transaction of the change they tell of;
``alert_delivery.py`` delivers them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.failures import FailureClass, Remedy
from voiceai_pipeline.database.tables import alerts, users

APP: Final = "app"
"""The subject of what concerns every user: our configuration, or HighLevel as a whole."""

_BUSINESS: Final = sa.func.coalesce(
    sa.func.nullif(users.c.business_name, ""), sa.cast(users.c.id, sa.Text)
)
"""A notice leaves the house: it names a business, never a person."""

DAEMON: Final = "daemon"
"""The subject of whether anything is scheduled at all."""

Moment = Literal["opened", "closed"]


@dataclass(frozen=True)
class Notice:
    """One thing to tell on one channel.

    Attributes:
        user: None for what concerns the whole app.
        moment: the problem began, or it ended.
        at: when (UTC).
    """

    alert_id: int
    moment: Moment
    user: User | None
    reason: FailureClass
    at: datetime


def subject_of(user_id: UUID | None) -> str:
    return f"user:{user_id}" if user_id else APP


def open_(
    db: sa.Connection,
    user_id: UUID | None,
    reason: FailureClass,
    now: datetime,
    *,
    subject: str | None = None,
) -> bool:
    """A problem began; True if it is news.

    It is none while a problem of the same subject is open, unless that one would have passed by
    itself and this one does not.

    Args:
        subject: None: the user's connection, or the renewals of everybody.
    """
    subject = subject or subject_of(user_id)
    if not _passes(reason):
        passing = [one.value for one in FailureClass if _passes(one)]
        db.execute(
            sa.update(alerts)
            .where(
                alerts.c.subject == subject,
                alerts.c.closed_at.is_(None),
                alerts.c.reason.in_(passing),
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
    """A problem ended; False, and nothing happens, if there was none.

    Args:
        quietly: a person ended it by hand and knows.
        subject: as for ``open_``.
    """
    closed = db.execute(
        sa.update(alerts)
        .where(alerts.c.subject == (subject or subject_of(user_id)), alerts.c.closed_at.is_(None))
        .values(closed_at=now, closed_quietly=quietly)
    )
    return closed.rowcount > 0


def pending(db: sa.Connection, channel: str) -> list[Notice]:
    """What ``channel`` has not been told yet, oldest first.

    A problem that ended before anybody could be told of it is not told of.
    """
    open_delivered_at = _told(alerts.c.opened_told, channel)
    closed_delivered_at = _told(alerts.c.closed_told, channel)
    is_open = alerts.c.closed_at.is_(None)
    began = sa.and_(is_open, sa.not_(open_delivered_at))
    ended = sa.and_(
        sa.not_(is_open),
        open_delivered_at,
        sa.not_(closed_delivered_at),
        alerts.c.closed_quietly.is_(False),
    )
    query = (
        sa.select(alerts, _BUSINESS.label("user_name"))
        .outerjoin(users, users.c.id == alerts.c.user_id)
        .where(sa.or_(began, ended))
        .order_by(alerts.c.id)
    )
    return [_notice(row) for row in db.execute(query).mappings()]


def lock_channel(db: sa.Connection, channel: str) -> None:
    """Wait until nobody else tells ``channel`` anything, and be the one until the transaction ends.

    No row is locked: a renewal that closes a problem meanwhile does not wait for a mail server.
    """
    key = sa.func.hashtextextended(f"alerts on {channel}", 0)
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def is_delivered(db: sa.Connection, notice: Notice, channel: str) -> bool:
    """Whether ``channel`` knows by now."""
    told = _told(_column(notice), channel)
    return bool(db.execute(sa.select(told).where(alerts.c.id == notice.alert_id)).scalar_one())


def mark_delivered(db: sa.Connection, notice: Notice, channel: str) -> None:
    """Never tell ``channel`` of this again."""
    column = _column(notice)
    db.execute(
        sa.update(alerts)
        .where(alerts.c.id == notice.alert_id, sa.not_(_told(column, channel)))
        .values({column: sa.func.array_append(column, channel)})
    )


def _column(notice: Notice) -> sa.Column[Any]:
    return alerts.c.opened_told if notice.moment == "opened" else alerts.c.closed_told


def _passes(reason: FailureClass) -> bool:
    return reason.explanation.remedy is Remedy.RERUN


def _told(column: sa.Column[Any], channel: str) -> sa.ColumnElement[bool]:
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

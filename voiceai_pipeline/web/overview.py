"""The overview on top of the first page: yesterday, the last days, what is running, where to go.

It reads our database only, so it also works while Dagster is starting or down. Texts only; their
layout is in ``templates/overview.html``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.calls.day_counts import DayCounts, day_counts
from voiceai_pipeline.calls.red_days import Cause, causes_of_days
from voiceai_pipeline.connections import alerts, circuit_breaker
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.database.engine import database_now
from voiceai_pipeline.web.site import Site

DAYS: Final = 7
"""Days that are shown: today so far, and the six before."""

DELIVERY: Final = timedelta(minutes=15)
"""An alert that a channel has not received after this long counts as not delivered."""


@dataclass(frozen=True)
class Day:
    """A day as it is shown.

    Attributes:
        tone: ``good``, ``warn``, ``bad`` or ``plain``.
        answer: whether it is complete, in a few words.
        detail: for how many of how many users.
    """

    day: date
    tone: str
    answer: str
    detail: str


@dataclass(frozen=True)
class Sign:
    """Whether a part of the system works."""

    name: str
    tone: str
    text: str


@dataclass(frozen=True)
class Overview:
    """What the first page answers at a glance.

    Attributes:
        days: the newest last; the last but one is yesterday.
        red: the days on which a sync failed, the newest first, and why.
    """

    days: tuple[Day, ...]
    red: Mapping[date, Sequence[Cause]]
    signs: tuple[Sign, ...]

    @property
    def yesterday(self) -> Day:
        return self.days[-2]


def read(db: sa.Connection, site: Site, connections: Sequence[Connection]) -> Overview:
    """The overview now.

    Args:
        connections: all users.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot provide it.
    """
    now = database_now(db)
    today = now.astimezone(site.pipeline.zone).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    counts = day_counts(db, connections, days, site.pipeline.zone, now)
    problems = alerts.open_problems(db)
    return Overview(
        tuple(day_of(one) for one in counts),
        causes_of_days(db, connections, days) if any(one.failed for one in counts) else {},
        (
            _daemon(problems, now),
            _refreshes(circuit_breaker.read(db)),
            _alerts(db, site.channels, problems, now),
            *_logins(problems),
        ),
    )


def day_of(counts: DayCounts) -> Day:
    """A day's colour and answer. Red only where a sync failed: an untried day may be on its way."""
    of = f"complete for {counts.complete} of {counts.able + counts.waiting} users"
    if needing := counts.waiting - counts.paused:
        of += f"; {needing} need{'s' if needing == 1 else ''} action"
    if counts.paused:
        of += f"; {counts.paused} paused"
    if counts.failed:
        return Day(counts.day, "bad", "No", f"{of}. {counts.failed} failed")
    if not counts.able:
        return Day(counts.day, "warn" if counts.waiting else "plain", "No user can be synced", of)
    if not counts.is_complete:
        return Day(counts.day, "plain", "Not yet", f"{of}. {counts.unread} not synced yet")
    answer = "Yes, so far" if counts.is_open else "Yes"
    return Day(counts.day, "warn" if counts.waiting else "good", answer, of)


def _daemon(problems: Sequence[alerts.Problem], now: datetime) -> Sign:
    silent = next((one for one in problems if one.subject == alerts.DAEMON), None)
    if silent is None:
        return Sign("Schedules and sensors", "good", "Running")
    return Sign(
        "Schedules and sensors",
        "bad",
        f"No sign of life for {_hours(now - silent.opened_at)}. Check Dagster's daemon.",
    )


def _logins(problems: Sequence[alerts.Problem]) -> list[Sign]:
    if any(one.subject == alerts.LOGINS for one in problems):
        return [Sign("Logins", "bad", "Ten failed within ten minutes. See who logged in.")]
    return []


def _refreshes(circuit: circuit_breaker.Circuit) -> Sign:
    if circuit.is_open:
        return Sign("Token refreshes", "bad", "Suspended for all users; see above.")
    if circuit.failures:
        return Sign("Token refreshes", "warn", f"{circuit.failures} failures in a row")
    return Sign("Token refreshes", "good", "Working")


def _alerts(
    db: sa.Connection, channels: Sequence[str], problems: Sequence[alerts.Problem], now: datetime
) -> Sign:
    late = [
        name
        for name in channels
        if any(now - notice.at > DELIVERY for notice in alerts.pending(db, name))
    ]
    text = f"{len(problems)} open" if problems else "None open"
    if late:
        return Sign("Alerts", "bad", f"{text}; not delivered by {', '.join(late)}. See the log.")
    if not channels:
        return Sign("Alerts", "warn", f"{text}; shown in Dagster only, no other channel is set")
    return Sign("Alerts", "warn" if problems else "good", f"{text}; sent to {', '.join(channels)}")


def _hours(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"

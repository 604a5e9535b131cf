"""``webhook_messages`` and ``call_hints``: what HighLevel's messages say, and which locations to
read because of it.

A message that arrives again while it is kept is ignored. A message about a location that no user is
connected to is stored, and has no consequence. ``highlevel/webhook.py`` checks signatures,
``hinted_sync`` reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.core.connection import SERVICE
from voiceai_pipeline.core.settings import HighLevelSettings
from voiceai_pipeline.core.webhook import MessageType, Refusal, WebhookMessage
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.tables import webhook_messages
from voiceai_pipeline.highlevel.webhook import SIGNATURE_HEADER, is_signed, message_of

REREADS: Final = (timedelta(minutes=2), timedelta(minutes=10), timedelta(minutes=60))
"""A call is read at once, and again this long after its message: summary, transcript and actions
can come later (CONTRACT 13.5)."""

GIVE_UP: Final = timedelta(hours=2)
"""A hint that could not be read for this long is dropped; the next sync finds the call."""

RETRY: Final = timedelta(minutes=1)
SPACING: Final = timedelta(seconds=2)
"""The least time between two reads of a location, so that the hints of a busy one share a read."""

KEPT: Final = timedelta(days=30)
"""How long a repeated message is recognized; HighLevel retries for hours."""

UNKNOWN_START: Final = timedelta(hours=2)
"""A call whose message does not say when it started is looked for this far back."""

LOOK_BACK: Final = timedelta(hours=24)
"""A hinted read goes back this far at most: the trailing days are re-synced every night anyway."""


@dataclass(frozen=True)
class HintedLocation:
    """A location to read now, because calls that started at ``since`` (UTC) or later have ended."""

    location_id: str
    since: datetime


def verified(
    body: bytes, headers: Mapping[str, str], highlevel: HighLevelSettings
) -> WebhookMessage | Refusal:
    """The message if HighLevel signed it and it names no other app; else why it is refused.

    One key signs the messages of all apps, so a signature proves only that HighLevel sent the
    message, not that it is for our app (CONTRACT 13.3).

    Args:
        body: as received.
        headers: of the request; names are case-insensitive.
    """
    if not is_signed(body, headers.get(SIGNATURE_HEADER), highlevel.webhook_keys):
        return Refusal.UNSIGNED
    message = message_of(body)
    if message is None:
        return Refusal.UNREADABLE
    if message.app_id is not None and message.app_id != highlevel.app_id:
        return Refusal.OTHER_APP
    return message


def record(db: sa.Connection, messages: Sequence[WebhookMessage]) -> bool:
    """Store the messages that are new, and schedule reads of the calls that have ended.

    Returns:
        Whether there is work: for a location or company with a connected user, a call has ended or
        the app was uninstalled.
    """
    columns = {
        "ids": [one.message_id for one in messages],
        "types": [one.type.value for one in messages],
        "locations": [one.location_id for one in messages],
        "companies": [one.company_id for one in messages],
        "calls": [one.call_id for one in messages],
        "starts": [one.call_started_at for one in messages],
    }
    return bool(db.execute(_RECORD, columns | {"service": SERVICE}).scalar_one())


_TEXTS: Final = ARRAY(sa.Text)
_RECORD: Final = sa.text(
    f"""
    WITH given AS (
        SELECT DISTINCT ON (message_id) * FROM unnest(:ids, :types, :locations, :companies, :calls,
            :starts) AS g (message_id, type, location_id, company_id, call_id, started_at)
    ), fresh AS (
        INSERT INTO webhook_messages
            (message_id, type, location_id, company_id, is_ours, received_at)
        SELECT message_id, type, location_id, company_id,
            EXISTS (SELECT FROM api_keys k WHERE k.service = :service AND k.location_id =
                    given.location_id)
            OR EXISTS (SELECT FROM api_keys k WHERE k.service = :service AND k.company_id =
                       given.company_id),
            clock_timestamp()
        FROM given ORDER BY message_id
        ON CONFLICT (message_id) DO NOTHING
        RETURNING message_id, type, is_ours
    ), hinted AS (
        INSERT INTO call_hints AS h (location_id, call_id, started_at, hinted_at, due_at)
        SELECT DISTINCT ON (location_id, call_id)
            location_id, call_id, started_at, clock_timestamp(), clock_timestamp()
        FROM given JOIN fresh USING (message_id, type)
        WHERE is_ours AND type = '{MessageType.CALL_ENDED}'
            AND location_id IS NOT NULL AND call_id IS NOT NULL
        ORDER BY location_id, call_id
        ON CONFLICT (location_id, call_id) DO UPDATE SET hinted_at = excluded.hinted_at,
            due_at = excluded.due_at, reads = 0,
            started_at = least(h.started_at, excluded.started_at)
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM hinted)
        OR EXISTS (SELECT FROM fresh WHERE is_ours AND type = '{MessageType.UNINSTALLED}')
    """  # noqa: S608 - our own names
).bindparams(
    *(sa.bindparam(name, type_=_TEXTS) for name in ("ids", "types", "locations", "companies")),
    sa.bindparam("calls", type_=_TEXTS),
    sa.bindparam("starts", type_=ARRAY(UtcDateTime)),
)


def due(db: sa.Connection, limit: int) -> list[HintedLocation]:
    """Locations to read now, those that have waited longest first."""
    found = db.execute(_DUE, {"limit": limit})
    return [HintedLocation(location_id, since) for location_id, since in found]


_DUE: Final = sa.text(
    """
    SELECT h.location_id, greatest(
        min(coalesce(h.started_at, h.hinted_at - :unknown)), clock_timestamp() - :look_back)
    FROM call_hints h LEFT JOIN hinted_reads r USING (location_id)
    WHERE h.due_at <= clock_timestamp()
        AND (r.read_at IS NULL OR r.read_at <= clock_timestamp() - :spacing)
    GROUP BY h.location_id ORDER BY min(h.due_at) LIMIT :limit
    """
).bindparams(
    sa.bindparam("unknown", UNKNOWN_START, sa.Interval),
    sa.bindparam("look_back", LOOK_BACK, sa.Interval),
    sa.bindparam("spacing", SPACING, sa.Interval),
)


def start(db: sa.Connection, location_id: str, read_at: datetime) -> None:
    """Record that a read of the location started at ``read_at`` (UTC)."""
    values = {"location": location_id, "read_at": read_at}
    db.execute(_START, values)


_START: Final = sa.text(
    "INSERT INTO hinted_reads (location_id, read_at) VALUES (:location, :read_at) "
    "ON CONFLICT (location_id) DO UPDATE SET read_at = excluded.read_at"
)


def finish(
    db: sa.Connection,
    location_id: str,
    read_at: datetime,
    seen_until: datetime,
    changed_days: Sequence[date],
) -> None:
    """Record a complete read: schedule the next read for its hints, or delete those that are done.

    Args:
        read_at: when the read started (UTC); hints that came due later stay due.
        seen_until: the end of the window (UTC).
        changed_days: days, in the pipeline's zone, on which the read changed calls.
    """
    values = {
        "location": location_id,
        "read_at": read_at,
        "seen_until": seen_until,
        "days": list(changed_days),
        "rereads": list(REREADS),
    }
    for statement in _FINISH:
        db.execute(statement, values)


_FINISH: Final = tuple(
    sa.text(text).bindparams(*parameters)
    for text, *parameters in (
        (
            "DELETE FROM call_hints WHERE location_id = :location AND due_at <= :read_at "
            "AND reads >= cardinality(:rereads)",
            sa.bindparam("rereads", type_=ARRAY(sa.Interval)),
        ),
        (
            "UPDATE call_hints SET reads = reads + 1, due_at = hinted_at + (:rereads)[reads + 1] "
            "WHERE location_id = :location AND due_at <= :read_at",
            sa.bindparam("rereads", type_=ARRAY(sa.Interval)),
        ),
        (
            "UPDATE hinted_reads SET seen_until = greatest(seen_until, :seen_until) "
            "WHERE location_id = :location",
        ),
        (
            "INSERT INTO hinted_days (location_id, day, finished_at) "
            "SELECT :location, day, clock_timestamp() FROM unnest(:days) AS day "
            "ON CONFLICT (location_id, day) DO UPDATE SET finished_at = excluded.finished_at",
            sa.bindparam("days", type_=ARRAY(sa.Date)),
        ),
    )
)


def postpone(db: sa.Connection, location_id: str) -> None:
    """Schedule a retry, after ``RETRY``, of a read that failed or that a pause forbids; drop hints
    older than ``GIVE_UP``."""
    values = {"location": location_id}
    db.execute(_DROP, values)
    db.execute(_POSTPONE, values)


_DROP: Final = sa.text(
    "DELETE FROM call_hints WHERE location_id = :location "
    "AND hinted_at <= clock_timestamp() - :give_up"
).bindparams(sa.bindparam("give_up", GIVE_UP, sa.Interval))
_POSTPONE: Final = sa.text(
    "UPDATE call_hints SET due_at = clock_timestamp() + :retry "
    "WHERE location_id = :location AND due_at <= clock_timestamp()"
).bindparams(sa.bindparam("retry", RETRY, sa.Interval))


def drop(db: sa.Connection, location_id: str) -> None:
    """Forget the hints of a location that no user can read now; a later sync finds its calls."""
    db.execute(sa.text("DELETE FROM call_hints WHERE location_id = :location"),
               {"location": location_id})  # fmt: skip


def uninstalled(db: sa.Connection) -> list[tuple[str, str | None, str | None]]:
    """The oldest unhandled messages that the app was uninstalled: id, location and company."""
    table = webhook_messages
    query = (
        sa.select(table.c.message_id, table.c.location_id, table.c.company_id)
        .where(
            table.c.type == MessageType.UNINSTALLED,
            table.c.handled_at.is_(None),
            table.c.is_ours,
        )
        .order_by(table.c.received_at)
        .limit(100)
    )
    return [(row.message_id, row.location_id, row.company_id) for row in db.execute(query)]


def handled(db: sa.Connection, message_id: str) -> None:
    """Mark a message as handled."""
    db.execute(
        sa.update(webhook_messages)
        .where(webhook_messages.c.message_id == message_id)
        .values(handled_at=sa.func.clock_timestamp())
    )


def count_refusals(db: sa.Connection, refusals: Mapping[Refusal, int]) -> None:
    """Add refused messages, by reason, to the counts of today (UTC)."""
    for reason, messages in refusals.items():
        db.execute(_REFUSED, {"reason": reason.value, "messages": messages})


_REFUSED: Final = sa.text(
    "INSERT INTO webhook_refusals AS r (day, reason, messages, last_at) "
    "VALUES ((clock_timestamp() AT TIME ZONE 'UTC')::date, :reason, :messages, clock_timestamp()) "
    "ON CONFLICT (day, reason) DO UPDATE SET messages = r.messages + excluded.messages, "
    "last_at = excluded.last_at"
)


def purge(db: sa.Connection) -> None:
    """Delete messages, counts of refusals and hinted days that are older than ``KEPT``."""
    for text in (
        "DELETE FROM webhook_messages WHERE received_at < clock_timestamp() - :kept",
        "DELETE FROM webhook_refusals WHERE last_at < clock_timestamp() - :kept",
        "DELETE FROM hinted_days WHERE finished_at < clock_timestamp() - :kept",
    ):
        db.execute(sa.text(text).bindparams(sa.bindparam("kept", KEPT, sa.Interval)))

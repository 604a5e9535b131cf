"""How fresh each location's calls are, and whether HighLevel's webhook messages arrive.

With messages, calls are stored within seconds; without them, the next sync finds the same calls. So
nothing here is a failure: it only shows which of the two finds the calls.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.core.connection import SERVICE, ConnectionState
from voiceai_pipeline.core.webhook import MessageType

SETTLED: Final = timedelta(minutes=15)
"""A call this old should have been announced; retries of a message take minutes."""

RECENT: Final = timedelta(hours=24)


@dataclass(frozen=True)
class Freshness:
    """How a location's calls arrive.

    Attributes:
        last_message_at: when a message last announced a call (UTC); None if none did in 30 days.
        seen_until: up to when calls have been read, by a sync or because of a message (UTC); None
            if not lately.
        is_polled: no message announced the newest call of the last day, although messages had
            arrived before it, for this location or others: delivery is paused or switched off in
            HighLevel's portal.
    """

    last_message_at: datetime | None
    seen_until: datetime | None
    is_polled: bool


def of_connected(db: sa.Connection) -> list[tuple[str, Freshness]]:
    """Name and freshness of each location that is synced. Locations whose calls only syncs find
    come first, then those that were read longest ago."""
    names = {row.location_id: row.name for row in db.execute(_CONNECTED, {"service": SERVICE})}
    found = [(names[key], one) for key, one in of_locations(db, names).items()]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: (not one[1].is_polled, one[1].seen_until or never, one[0]))


def of_locations(db: sa.Connection, location_ids: Collection[str]) -> dict[str, Freshness]:
    """The freshness of each of these locations."""
    values = {"locations": sorted(set(location_ids))}
    return {
        row.location_id: Freshness(row.last_message_at, row.seen_until, row.is_polled)
        for row in db.execute(_FRESHNESS, values)
    }


_FRESHNESS: Final = sa.text(
    f"""
    WITH told AS (
        SELECT location_id, max(received_at) AS at FROM webhook_messages
        WHERE type = '{MessageType.CALL_ENDED}' AND location_id = ANY (:locations)
        GROUP BY location_id
    ), synced AS (
        SELECT s.location_id, max(s.read_until) AS until
        FROM api_keys k JOIN sync_ledger s USING (user_id, location_id)
        WHERE k.location_id = ANY (:locations) AND s.day >= current_date - 2
        GROUP BY s.location_id
    ), first AS (
        SELECT min(received_at) AS told_at FROM webhook_messages
        WHERE type = '{MessageType.CALL_ENDED}' AND is_ours
    )
    SELECT l.location_id, told.at AS last_message_at,
        greatest(r.seen_until, synced.until) AS seen_until,
        coalesce(newest.started_at > coalesce(told.at, '-infinity')
                 AND newest.started_at > first.told_at, false) AS is_polled
    FROM unnest(:locations) AS l (location_id) CROSS JOIN first
    LEFT JOIN told USING (location_id)
    LEFT JOIN synced USING (location_id)
    LEFT JOIN hinted_reads r USING (location_id)
    CROSS JOIN LATERAL (
        SELECT max(c.started_at) AS started_at FROM call_logs c
        WHERE c.location_id = l.location_id AND c.missing_since IS NULL
          AND c.started_at BETWEEN clock_timestamp() - :recent AND clock_timestamp() - :settled
    ) AS newest
    """  # noqa: S608 - our own names
).bindparams(
    sa.bindparam("locations", type_=ARRAY(sa.Text)),
    sa.bindparam("recent", RECENT, sa.Interval),
    sa.bindparam("settled", SETTLED, sa.Interval),
)


@dataclass(frozen=True)
class Delivery:
    """Whether messages arrive.

    Attributes:
        last_message_at: when the last verified message arrived (UTC); None if none in 30 days.
        messages: verified messages in the last 24 hours.
        refused: refusals by reason, of the UTC days whose last one is less than 24 hours ago.
        polled: names of the locations whose calls only syncs find, sorted.
    """

    last_message_at: datetime | None
    messages: int
    refused: Mapping[str, int]
    polled: tuple[str, ...]


def delivery(db: sa.Connection) -> Delivery:
    """Whether messages have arrived lately, and for which locations they have not."""
    last, messages = db.execute(_MESSAGES).one()
    refused = {row.reason: row.messages for row in db.execute(_REFUSED)}
    polled = sorted(name for name, one in of_connected(db) if one.is_polled)
    return Delivery(last, messages, refused, tuple(polled))


_MESSAGES: Final = sa.text(
    "SELECT max(received_at), count(*) FILTER (WHERE received_at > clock_timestamp() - :recent) "
    "FROM webhook_messages"
).bindparams(sa.bindparam("recent", RECENT, sa.Interval))
_REFUSED: Final = sa.text(
    "SELECT reason, sum(messages)::bigint AS messages FROM webhook_refusals "
    "WHERE last_at > clock_timestamp() - :recent GROUP BY reason ORDER BY reason"
).bindparams(sa.bindparam("recent", RECENT, sa.Interval))
_CONNECTED: Final = sa.text(
    "SELECT location_id, coalesce(max(location_name), location_id) AS name FROM api_keys "
    "WHERE service = :service AND is_active AND location_id <> '' "
    "AND coalesce(connection_state, '') <> ALL (:blocked) "
    "AND user_id NOT IN (SELECT user_id FROM sync_pauses) GROUP BY location_id"
).bindparams(
    sa.bindparam(
        "blocked", [ConnectionState.PAUSED, ConnectionState.NEEDS_RECONNECT], ARRAY(sa.Text)
    )
)

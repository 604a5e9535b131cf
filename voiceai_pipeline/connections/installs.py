"""Locations that installed the app, as HighLevel announced, and that no user is connected to yet.

They are only offered: a message, even if signed, connects nothing. An operator chooses the user,
and a consent in HighLevel gives the tokens, as for any other connection.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.core.connection import LIVE_STATES, Connection
from voiceai_pipeline.core.webhook import MessageType

AT_MOST: Final = 20
"""How many offers are shown at most: the newest."""


@dataclass(frozen=True)
class Install:
    """A location of a connected agency that has the app and no user.

    Attributes:
        agency: a connection of its agency.
        announced_at: when HighLevel announced the installation (UTC).
    """

    location_id: str
    agency: Connection
    announced_at: datetime


def offered(db: sa.Connection, connections: Collection[Connection]) -> list[Install]:
    """The locations to offer, the newest first.

    Args:
        connections: those of all users.
    """
    agencies = {
        one.company_id: one
        for one in connections
        if one.user_type == "Company" and one.company_id and one.state in LIVE_STATES
    }
    held = {one.location_id for one in connections if one.location_id}
    if not agencies:
        return []
    found = db.execute(_INSTALLED, {"agencies": list(agencies), "held": sorted(held)})
    return [Install(row.location_id, agencies[row.company_id], row.at) for row in found]


_INSTALLED: Final = sa.text(
    f"""
    SELECT i.location_id, max(i.company_id) AS company_id, max(i.received_at) AS at
    FROM webhook_messages i
    WHERE i.type = '{MessageType.INSTALLED}' AND i.handled_at IS NULL
        AND i.company_id = ANY(:agencies) AND i.location_id <> ALL(:held)
        AND NOT EXISTS (
            SELECT FROM webhook_messages u WHERE u.location_id = i.location_id
            AND u.type = '{MessageType.UNINSTALLED}' AND u.received_at > i.received_at)
    GROUP BY i.location_id ORDER BY at DESC LIMIT {AT_MOST}
    """  # noqa: S608 - our own names
).bindparams(
    sa.bindparam("agencies", type_=ARRAY(sa.Text)), sa.bindparam("held", type_=ARRAY(sa.Text))
)


def ignore(db: sa.Connection, location_id: str) -> None:
    """Stop offering a location until it installs the app again."""
    db.execute(_IGNORE, {"location": location_id})


_IGNORE: Final = sa.text(
    "UPDATE webhook_messages SET handled_at = clock_timestamp() "
    "WHERE location_id = :location AND type = :installed AND handled_at IS NULL"
).bindparams(installed=MessageType.INSTALLED.value)

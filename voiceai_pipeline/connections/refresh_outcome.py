"""What a refused, lost or successful token exchange means for the connection and for all users."""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, circuit_breaker, history
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import OUR_FAILURES, FailureClass

PAUSE: Final = timedelta(hours=6)
"""How long a paused location is left alone (REQUIREMENTS, 6-24 h)."""

DOUBT_REST: Final = timedelta(hours=1)
"""How long a connection in doubt is left alone after its replay was answered with nothing that
tells, a server error say."""

REPLAYS_REST: Final = timedelta(hours=24)
"""How long replays wait for somebody else's success after an exchange was lost although the
endpoint was answering: half an outage, which would use up one replay after the other."""

OUTAGE: Final = timedelta(hours=1)
"""An outage of HighLevel's that lasts longer is worth telling somebody."""

STATE_AFTER: Final = {
    FailureClass.REFRESH_REJECTED: ConnectionState.NEEDS_RECONNECT,
    FailureClass.SCOPE_MISSING: ConnectionState.NEEDS_RECONNECT,
    FailureClass.WRONG_LOCATION: ConnectionState.NEEDS_RECONNECT,
    FailureClass.LOCATION_PAUSED: ConnectionState.PAUSED,
}
"""What an answer makes of a connection; every other one leaves it as it is. An API that refuses a
token says nothing about the refresh token, so only the token endpoint's answer revokes."""

NO_ATTEMPT: Final = OUR_FAILURES | STATE_AFTER.keys()
"""What does not count as an attempt that failed for a passing reason of the user's: our own faults,
and what has a state of its own."""


def note_success(db: sa.Connection, actor: Actor, now: datetime, *, granted: bool) -> None:
    """Note that the token endpoint has accepted our client, and with it end what everybody suffered
    from.

    Args:
        granted: it gave new tokens.
    """
    if circuit_breaker.count_success(db, granted=granted):
        history.record(db, TokenEvent.CIRCUIT_CLOSED, at=now, actor=actor)
        alerts.close(db, None, now)

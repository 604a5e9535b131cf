"""When a token is refreshed: too close to its expiry to be used, or at its planned time.

Pure functions of a row and a time; how a refresh is done is in ``refresh.py``.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from voiceai_pipeline.connections.token_row import LIFELESS_REST, TokenRow
from voiceai_pipeline.core.connection import PROACTIVE_MARGIN, REFRESH_MARGIN
from voiceai_pipeline.core.secret import Secret

ALWAYS: Final = timedelta.max
"""A margin that no token's lifetime exceeds: always refresh."""

SPREAD: Final = 0.2
"""The largest share of a token's lifetime by which a refresh is brought forward. Each user has a
fixed jitter below it, so that tokens granted in the same minute drift apart (REQUIREMENTS T11)."""


def needs_refresh(
    expires_at: datetime | None, now: datetime, margin: timedelta = REFRESH_MARGIN
) -> bool:
    """Whether at most ``margin`` is left before a token expires, or its expiry is unknown."""
    return expires_at is None or expires_at - now <= margin


def is_due(row: TokenRow) -> bool:
    """Whether the row's planned refresh has come, or its exchange is in doubt."""
    if row.lease_expires_at is not None and row.lease_expires_at <= row.now:
        return True  # in doubt
    planned = row.connection.refresh_at
    if planned is None:
        return needs_refresh(row.connection.token_expires_at, row.now, PROACTIVE_MARGIN)
    return planned <= row.now


def planned_refresh(user_id: UUID, granted_at: datetime, lifetime: timedelta) -> datetime:
    """When a token is refreshed automatically (UTC): half an hour before it expires, or a tenth of
    a short lifetime, and earlier by the user's fixed jitter. A token without a lifetime is left
    alone for ``LIFELESS_REST``."""
    if not lifetime:
        return granted_at + LIFELESS_REST
    jitter = int.from_bytes(hashlib.sha256(user_id.bytes).digest()[:8]) / 2**64
    return granted_at + lifetime - min(PROACTIVE_MARGIN, lifetime / 10) - lifetime * SPREAD * jitter


@dataclass(frozen=True)
class Need:
    """What a caller needs of a token: the arguments of ``Tokens.get_valid_token``.

    Attributes:
        to_read: it is for a request, which a pause of the user's syncs forbids.
    """

    margin: timedelta = REFRESH_MARGIN
    rejected: Secret | None = None
    when_planned: bool = False
    force: bool = False
    to_read: bool = False

    @property
    def always(self) -> bool:
        return self.margin == ALWAYS

    def at(self, row: TokenRow) -> "Need":
        """This need; with ``when_planned`` and if the row is due, its margin is ``ALWAYS``."""
        return replace(self, margin=ALWAYS) if self.when_planned and is_due(row) else self


ANY_LIFETIME: Final = Need(margin=timedelta())
"""Any token that has not expired yet."""

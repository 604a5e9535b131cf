"""When a token is refreshed: too close to its expiry to be used, or at its planned time.

Pure functions of a row and a time; how a refresh is done is in ``refresh.py``.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from voiceai_pipeline.connections import token_row
from voiceai_pipeline.connections.token_row import TokenRow
from voiceai_pipeline.core.connection import PROACTIVE_MARGIN, REFRESH_MARGIN


def needs_refresh(
    expires_at: datetime | None, now: datetime, margin: timedelta = REFRESH_MARGIN
) -> bool:
    """True from the moment the margin begins: exactly 5 minutes left is too little."""
    return expires_at is None or expires_at - now <= margin


def is_due(row: TokenRow) -> bool:
    if row.lease_expires_at is not None and row.lease_expires_at <= row.now:
        return True  # in doubt
    planned = row.connection.refresh_at
    if planned is None:
        return needs_refresh(row.connection.token_expires_at, row.now, PROACTIVE_MARGIN)
    return planned <= row.now


SPREAD: Final = 0.2
"""Renewals are planned this part of a token's life ahead at most, by a jitter that is each user's
own: tokens that were granted in the same minute drift apart (REQUIREMENTS T11)."""


def planned_refresh(user_id: UUID, granted_at: datetime, lifetime: timedelta) -> datetime:
    """When a token is refreshed automatically (UTC): half an hour before it expires, or a tenth of
    a short life, and earlier by a stable jitter of the user's own. One without a lifetime is left
    alone for ``LIFELESS_REST``."""
    if not lifetime:
        return granted_at + token_row.LIFELESS_REST
    jitter = int.from_bytes(hashlib.sha256(user_id.bytes).digest()[:8]) / 2**64
    return granted_at + lifetime - min(PROACTIVE_MARGIN, lifetime / 10) - lifetime * SPREAD * jitter

"""Tries paused things at once when an operator asks for a sync (REQUIREMENTS T22).

After failures the pipeline pauses: an open circuit sends a probe every few minutes, a paused
connection waits for hours, a lost exchange waits for its replay. An operator who reruns a sync may
have fixed the cause, so before that sync each of these is tried once.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.refresh_plan import ALWAYS
from voiceai_pipeline.connections.tokens import WORKERS, Tokens
from voiceai_pipeline.core.connection import REFRESH_MARGIN, Connection, ConnectionState
from voiceai_pipeline.core.failures import PipelineError

_PROBES: Final = 3
"""How many users' exchanges probe an open circuit at most: one may fail for a reason of its own."""


def probe(
    engine: sa.Engine, tokens: Tokens, connections: Sequence[Connection], *, paused: bool
) -> None:
    """Probe an open circuit by up to ``_PROBES`` exchanges, then replay every lost exchange.

    The results are stored, so the caller must read the connections again. Failures are not raised:
    they show in the sync.

    Args:
        paused: also try connections that HighLevel has paused.
    """

    def attempt(user_id: UUID, margin: timedelta = REFRESH_MARGIN) -> None:
        with contextlib.suppress(PipelineError, UnknownUserError):
            tokens.get_valid_token(user_id, margin=margin, force=True)

    if _is_suspended(engine):
        able = [one for one in connections if one.obstacle is None and not one.is_private]
        # Any exchange shows whether the endpoint works; refresh tokens that expire first.
        for one in sorted(able, key=_expiry)[:_PROBES]:
            attempt(one.user.id, ALWAYS)
            if not _is_suspended(engine):
                break
        if _is_suspended(engine):
            return  # further attempts would be refused too
    rests = {ConnectionState.IN_DOUBT, *([ConnectionState.PAUSED] if paused else [])}
    resting = [one.user.id for one in connections if one.status in rests]
    with (
        ThreadPoolExecutor(WORKERS, thread_name_prefix="probe") as pool,
        tokens.reads.interruptible(),
    ):
        list(pool.map(attempt, resting))


def _is_suspended(engine: sa.Engine) -> bool:
    with engine.begin() as db:
        return circuit_breaker.read(db).is_open


def _expiry(connection: Connection) -> float:
    return connection.token_expires_at.timestamp() if connection.token_expires_at else 0.0

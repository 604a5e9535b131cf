"""``token_circuit``: a circuit breaker for the token endpoint, shared by all processes in one row.

Consecutive failures that affect all users (our client secret, an outage) are counted. The fifth
opens the circuit: then only one probe at a time is sent, and the first success closes it. Repeated
outage failures of the same user count once, so that one user's problem does not stop the others.
``refresh.py`` decides which request is a probe.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.core.connection import SERVICE
from voiceai_pipeline.core.failures import OUR_FAILURES, FailureClass
from voiceai_pipeline.database.tables import token_circuit

THRESHOLD: Final = 5
"""Consecutive failures that open the circuit (REQUIREMENTS T9)."""

PROBE_EVERY: Final = {True: timedelta(minutes=5), False: timedelta(minutes=1)}
"""Time between probes. The key: whether the failure is our own."""

PROBE_SPENT_EVERY: Final = timedelta(hours=1)
"""Time between probes while the refresh tokens seem to be spent: each may cost a connection."""

_MINE: Final = token_circuit.c.service == SERVICE


@dataclass(frozen=True)
class Circuit:
    """The circuit as stored.

    Attributes:
        reason: the failure class of the last failure; None after a success.
        detail: facts about it (status, path template, trace id).
        failing_since: when the consecutive failures started (UTC).
        opened_at: since when only probes are sent (UTC); None while it is closed.
        next_probe_at: when the next probe may be sent (UTC).
        replays_rest_until: no lost exchange is replayed before this (UTC); None: no such pause.
    """

    failures: int
    reason: FailureClass | None
    detail: str
    failing_since: datetime | None
    opened_at: datetime | None
    next_probe_at: datetime | None
    replays_rest_until: datetime | None

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None


def read(db: sa.Connection) -> Circuit:
    """The circuit now."""
    row = db.execute(sa.select(token_circuit).where(_MINE)).mappings().one()
    return Circuit(
        failures=row["failures"],
        reason=FailureClass.stored(row["reason"]),
        detail=row["detail"],
        failing_since=row["failing_since"],
        opened_at=row["opened_at"],
        next_probe_at=row["next_probe_at"],
        replays_rest_until=row["replays_rest_until"],
    )


def claim_probe(
    db: sa.Connection, circuit: Circuit, now: datetime, *, at_once: bool = False
) -> bool:
    """True for the one caller that may probe an open circuit now.

    Args:
        at_once: an operator asked for it: probe before the next probe is due.
    """
    pause = PROBE_EVERY[circuit.reason in OUR_FAILURES]
    if circuit.reason is FailureClass.TOKENS_SPENT:
        pause = PROBE_SPENT_EVERY
    due = sa.true() if at_once else token_circuit.c.next_probe_at <= now
    claimed = db.execute(
        sa.update(token_circuit)
        .where(_MINE, token_circuit.c.opened_at.is_not(None), due)
        .values(next_probe_at=now + pause)
    )
    return claimed.rowcount == 1


def count_failure(
    db: sa.Connection, reason: FailureClass, detail: str, now: datetime, user_id: UUID | None
) -> bool:
    """Count a failure that affects all users; True if it opened the circuit.

    Args:
        user_id: whose exchange failed; None if it was not a user's: then it always counts.
    """
    probe_at = now + PROBE_EVERY[reason in OUR_FAILURES]
    # The first UPDATE locks the row, so the second one sees its count.
    again = token_circuit.c.last_user_id == user_id
    if user_id is None or reason in OUR_FAILURES:
        again = sa.false()
    spent = token_circuit.c.reason.is_not_distinct_from(FailureClass.TOKENS_SPENT.value)
    db.execute(
        sa.update(token_circuit)
        .where(_MINE, sa.not_(spent))  # a graver reason, which an outage must not replace
        .values(
            failures=token_circuit.c.failures + sa.case((again, 0), else_=1),
            last_user_id=user_id,
            reason=reason.value,
            detail=detail,
            failing_since=sa.func.coalesce(token_circuit.c.failing_since, now),
        )
    )
    opens = sa.and_(token_circuit.c.opened_at.is_(None), token_circuit.c.failures >= THRESHOLD)
    opened = db.execute(
        sa.update(token_circuit).where(_MINE, opens).values(opened_at=now, next_probe_at=probe_at)
    )
    return opened.rowcount == 1


def open_for_spent_tokens(db: sa.Connection, detail: str, now: datetime) -> bool:
    """Suspend all refreshes: the stored refresh tokens seem to be spent. False if the circuit was
    open already."""
    opened = db.execute(
        sa.update(token_circuit)
        .where(_MINE, token_circuit.c.opened_at.is_(None))
        .values(
            opened_at=now,
            failures=THRESHOLD,
            reason=FailureClass.TOKENS_SPENT.value,
            detail=detail,
            failing_since=now,
            next_probe_at=now + PROBE_SPENT_EVERY,
        )
    )
    return opened.rowcount == 1


def pause_replays(db: sa.Connection, until: datetime) -> None:
    """Replay no lost exchange until ``until`` (UTC) or the next grant."""
    db.execute(sa.update(token_circuit).where(_MINE).values(replays_rest_until=until))


def count_success(db: sa.Connection, *, granted: bool, refreshed: bool) -> bool:
    """Record that HighLevel accepted our client; True if that closed an open circuit.

    Args:
        granted: it granted new tokens, so replays may resume.
        refreshed: it granted them for a stored refresh token, so not all of those are spent.
    """
    if granted:
        paused = token_circuit.c.replays_rest_until.is_not(None)
        db.execute(sa.update(token_circuit).where(_MINE, paused).values(replays_rest_until=None))
    failing = sa.and_(_MINE, token_circuit.c.failures > 0)
    if not refreshed:
        spent = token_circuit.c.reason == FailureClass.TOKENS_SPENT.value
        failing = sa.and_(failing, sa.not_(spent))
    was_open = db.execute(
        sa.select(token_circuit.c.opened_at).where(failing).with_for_update()
    ).scalar_one_or_none()
    db.execute(
        sa.update(token_circuit)
        .where(failing)
        .values(
            failures=0, reason=None, detail="", failing_since=None, opened_at=None,
            next_probe_at=None, last_user_id=None,
        )
    )  # fmt: skip
    return was_open is not None

"""A sandbox in real time whose calls are announced, and what was read because of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from voiceai_pipeline.calls import hints
from voiceai_pipeline.core.webhook import MessageType, WebhookMessage
from voiceai_pipeline_tests.support.synced_calls import HARBOR


def ended(call: dict[str, Any] | str, location_id: str = HARBOR, **fields: Any) -> WebhookMessage:
    """The message that a call has ended; a call of the sandbox, or an id."""
    call_id = call if isinstance(call, str) else call["id"]
    start = None if isinstance(call, str) else datetime.fromisoformat(call["createdAt"])
    given: dict[str, Any] = {"call_started_at": start, **fields}
    return WebhookMessage(
        given.pop("message_id", str(uuid4())),
        given.pop("type", MessageType.CALL_ENDED),
        location_id,
        call_id=call_id,
        **given,
    )


def now() -> datetime:
    return datetime.now(UTC)


def tell(engine: sa.Engine, *messages: WebhookMessage) -> bool:
    with engine.begin() as db:
        return hints.record(db, messages)


def due(engine: sa.Engine) -> list[hints.HintedLocation]:
    with engine.begin() as db:
        return hints.due(db, 100)


def pass_time(engine: sa.Engine, passed: timedelta) -> None:
    """Let what the tables hold be older."""
    with engine.begin() as db:
        for text in (
            "UPDATE call_hints SET hinted_at = hinted_at - :t, due_at = due_at - :t",
            "UPDATE hinted_reads SET read_at = read_at - :t",
            "UPDATE webhook_messages SET received_at = received_at - :t",
        ):
            db.execute(sa.text(text).bindparams(sa.bindparam("t", passed, sa.Interval)))


def rows(engine: sa.Engine, query: str) -> list[Any]:
    with engine.connect() as db:
        return list(db.execute(sa.text(query)))


@contextmanager
def lease_of_another(engine: sa.Engine, location_id: str) -> Iterator[None]:
    """Hold a location's lease, as a running sync does."""
    from voiceai_pipeline.calls import leases

    holder = uuid4()
    with engine.begin() as db:
        leases.acquire(db, [location_id], holder, "another run", timedelta(minutes=1))
    yield
    with engine.begin() as db:
        leases.release(db, [location_id], holder)

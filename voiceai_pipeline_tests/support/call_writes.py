"""Calls as tests make them up, taken in and written into ``call_logs``."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from msgspec import Raw

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window

LOCATION = "LocInvented000000001"

START = datetime(2026, 11, 18, tzinfo=UTC)

WINDOW = Window(START, START + timedelta(days=1))

FIRST, SECOND, THIRD = (START + timedelta(days=2, hours=h) for h in range(3))


def call(number: int, **changes: Any) -> CallLog:
    raw = {"id": f"call-{number}", "n": number, **changes.pop("raw", {})}
    full = CallLog(
        call_id=f"call-{number}",
        started_at=START + timedelta(minutes=number),
        content_hash=hashlib.sha256(json.dumps([raw, str(changes)]).encode()).digest(),
        content=json.dumps(raw).encode(),
        unheld=json.dumps(raw).encode(),
        summary=f"Summary {number}",
    )
    return replace(full, **changes)


def sent(one: CallLog) -> Raw:
    """How HighLevel sends a call: the id and a hash stand for all the rest."""
    return Raw(json.dumps([one.call_id, str(one.started_at), one.content_hash.hex()]))


def fingerprint(item: Raw) -> bytes:
    return hashlib.sha256(item).digest()


def write(
    engine: sa.Engine,
    listed: list[CallLog],
    now: datetime = FIRST,
    *,
    window: Window = WINDOW,
    aside: list[SetAsideCall] | None = None,
    read_at: datetime | None = None,
    location_id: str = LOCATION,
    starts: Sequence[datetime] = (),
    meanwhile: Callable[[], object] = lambda: None,
    before_commit: Callable[[], object] = lambda: None,
) -> Written:
    """Take in a read of ``window`` and store it; ``meanwhile`` happens between the two."""
    by_item = {bytes(sent(one)): one for one in listed}
    intake = Intake(
        engine,
        location_id,
        starts or [window.start],
        lambda one: by_item[bytes(one.sent)],
        fingerprint,
        read_at or now,
    )
    with closing(intake):
        for one in listed:
            intake.take([ListedCall(one.call_id, one.started_at, sent(one))])
        intake.finish(window.end, aside or [])
        meanwhile()
        with engine.begin() as db:
            call_store.lock_locations(db, [location_id])
            (written,) = call_store.store(db, [intake], now)
            before_commit()
            return written


def check_row(row: dict[str, Any], one: CallLog) -> None:
    for name in CallLog.__dataclass_fields__.keys() - {"content", "unheld"}:
        assert row[name] == getattr(one, name), name
    assert row["raw"] == json.loads(one.unheld or b"null")


def stored(engine: sa.Engine, location_id: str = LOCATION) -> dict[str, dict[str, Any]]:
    query = sa.text(
        "SELECT *, xmin::text AS written FROM call_logs WHERE location_id = :location_id"
    )
    with engine.connect() as db:
        return {
            r["call_id"]: dict(r)
            for r in db.execute(query, {"location_id": location_id}).mappings()
        }

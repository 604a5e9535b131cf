"""A call put together again from its columns equals the redacted item, to the letter."""

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls import call_store, stored_values
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.call import CallLog, ListedCall
from voiceai_pipeline.database.whole_call import UNHELD, WHOLE
from voiceai_pipeline.highlevel.calls import call_of, call_or_set_aside, head_of
from voiceai_pipeline_tests.support.repetition import repeated

LOCATION = "LocInvented000000001"
START = datetime(2026, 11, 20, tzinfo=UTC)

texts = st.sampled_from(
    ["", " ", "A text", "NUL \x00", "ümlaut \U0001f600", "65", "true", "x" * 501]
)
numbers = st.sampled_from([0, 1, 65, -1, 90_000, 65.0, 65.5, 1e-7, 1e16, 10**25, 2**63])
scalars = st.none() | st.booleans() | texts | numbers
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
members = st.sampled_from(
    ["agentId", "contactId", "fromNumber", "duration", "trialCall", "isAgentDeleted", "summary",
     "transcript", "executedCallActions", "extractedData", "translation", "messageId", "traceId",
     "locationId", "unknown", "raw", "missing_since"]
)  # fmt: skip
times = st.sampled_from(
    ["2026-11-20T09:00:00.000Z", "2026-11-20T09:00:00Z", "2026-11-20T10:00:00.123456Z",
     "2026-11-20T11:00:00.250+01:00", "2026-11-20 09:00:00", 1795165200000, 1795165200.5,
     "1795165200000"]
)  # fmt: skip
ids = st.sampled_from(["call-%d", "call \x00 %d", "%d"]) | st.none()
items = st.tuples(ids, times, st.dictionaries(members, values, max_size=8))

USUAL = (
    "call-%d",
    "2026-11-20T09:00:00.000Z",
    {
        "agentId": "a", "contactId": "c", "fromNumber": "+15550000000", "duration": 65,
        "trialCall": False, "isAgentDeleted": True, "summary": "S", "transcript": "T",
        "executedCallActions": [{"actionType": "SMS"}], "extractedData": {"k": [1.0, None]},
        "translation": {"enabled": False}, "messageId": "m",
    },
)  # fmt: skip
ODD = (None, "2026-11-20T09:00:00Z", dict.fromkeys(USUAL[2]) | {"executedCallActions": []})


def listed(given_items: list[Any]) -> list[ListedCall]:
    found = []
    for number, (name, created_at, rest) in enumerate(given_items):
        item = {"id": number if name is None else name % number, "createdAt": created_at, **rest}
        call = call_or_set_aside(head_of(msgspec.Raw(json.dumps(item))))
        if isinstance(call, ListedCall):
            found.append(call)
    by_id = {call.call_id: call for call in found}
    return sorted(by_id.values(), key=lambda call: (call.started_at, call.call_id))


def rebuilt(db: sa.Connection, calls: list[CallLog]) -> None:
    """Compares as text: to jsonb 65 and 65.0 are equal."""
    found = dict(db.execute(sa.text(f"SELECT call_id, {WHOLE}::text FROM call_logs")).all())  # noqa: S608
    spelled = sa.text("SELECT CAST(:content AS jsonb)::text")
    for call in calls:
        content = db.execute(spelled, {"content": call.content.decode()}).scalar_one()
        assert found.pop(call.call_id) == content
    assert not found


@settings(max_examples=repeated(15, 1_000), suppress_health_check=list(HealthCheck))
@given(st.lists(items, min_size=1, max_size=40))
@example([USUAL, ODD])
def test_a_call_is_put_together_again_to_the_letter(
    engine: sa.Engine, vault: TokenVault, given_items: list[Any]
) -> None:
    calls = listed(given_items)
    parsed = [call_of(call) for call in calls]
    intake = Intake(engine, LOCATION, [START], call_of, vault.call_fingerprint, START)
    with closing(intake), engine.connect() as db:
        intake.take(calls)
        intake.finish(datetime(2026, 11, 21, tzinfo=UTC))
        call_store.store(db, [intake], START)
        rebuilt(db, parsed)
        kept = dict(db.execute(sa.text("SELECT call_id, raw::text FROM call_logs")).all())
        # As an older version stored them.
        db.execute(sa.text(f"UPDATE call_logs SET raw = {WHOLE}"))  # noqa: S608
        rebuilt(db, parsed)
        db.execute(sa.text(f"UPDATE call_logs SET raw = {UNHELD}"))  # noqa: S608
        rebuilt(db, parsed)
        again = dict(db.execute(sa.text("SELECT call_id, raw::text FROM call_logs")).all())
        # Here a duration of 65.5 is found to be held, there it is not tried.
        assert all(len(again[one] or "") <= len(kept[one] or "") for one in kept)
        db.rollback()


def test_of_a_usual_call_nothing_is_stored_twice(engine: sa.Engine, vault: TokenVault) -> None:
    """Neither when it is read nor after ``migrate`` has visited the row of an older version."""
    (call,) = listed([USUAL])
    assert call_of(call).unheld is None
    intake = Intake(engine, LOCATION, [START], call_of, vault.call_fingerprint, START)
    with closing(intake), engine.begin() as db:
        intake.take([call])
        intake.finish(datetime(2026, 11, 21, tzinfo=UTC))
        call_store.store(db, [intake], START)
        db.execute(sa.text(f"UPDATE call_logs SET raw = {WHOLE}"))  # noqa: S608
        db.execute(sa.text("DELETE FROM redaction_progress"))
    shown = list[tuple[int, int]]()
    assert stored_values.store_once(engine, lambda *done: shown.append(done)) == 1
    assert shown == [(1, 1)]
    with engine.begin() as db:
        assert db.execute(sa.text("SELECT raw FROM call_logs")).scalar_one() is None
        rebuilt(db, [call_of(call)])
    assert stored_values.store_once(engine) == 0

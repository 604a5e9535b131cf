"""What a window's write does to ``call_logs``: no more than it must, and never a guess."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.models import CallLog, ListedCall, SetAsideCall, Window
from voiceai_pipeline.storage import calls
from voiceai_pipeline.storage.calls import Intake, Written

PLACE = "LocInvented000000001"
START = datetime(2026, 11, 18, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=1))
FIRST, SECOND, THIRD = (START + timedelta(days=2, hours=h) for h in range(3))


def call(number: int, **changes: Any) -> CallLog:
    raw = {"id": f"call-{number}", "n": number, **changes.pop("raw", {})}
    full = CallLog(
        call_id=f"call-{number}",
        started_at=START + timedelta(minutes=number),
        content_hash=hashlib.sha256(json.dumps([raw, str(changes)]).encode()).digest(),
        raw=raw,
        summary=f"Summary {number}",
    )
    return replace(full, **changes)


def write(
    engine: sa.Engine,
    listed: list[CallLog],
    now: datetime = FIRST,
    *,
    window: Window = WINDOW,
    aside: list[SetAsideCall] | None = None,
    read_at: datetime | None = None,
    place: str = PLACE,
    meanwhile: Callable[[], object] = lambda: None,
    before_commit: Callable[[], object] = lambda: None,
) -> Written:
    """Take in a read of ``window`` and store it; ``meanwhile`` happens between the two."""
    by_id = {one.call_id: one for one in listed}
    with closing(Intake(engine, place, lambda one: by_id[one.call_id], read_at or now)) as intake:
        for one in listed:
            raw = json.dumps(one.raw).encode()
            intake.take([ListedCall(one.call_id, one.started_at, one.content_hash, raw)])
        meanwhile()
        with engine.begin() as db:
            calls.lock_location(db, place)
            written = intake.store(db, window, [window.start], aside or [], now)
            before_commit()
            return written


def stored(engine: sa.Engine, place: str = PLACE) -> dict[str, dict[str, Any]]:
    query = sa.text("SELECT *, xmin::text AS written FROM call_logs WHERE location_id = :place")
    with engine.connect() as db:
        return {r["call_id"]: dict(r) for r in db.execute(query, {"place": place}).mappings()}


def test_new_calls_are_stored_as_they_are(engine: sa.Engine) -> None:
    full = call(
        1,
        agent_id="agent",
        contact_id="contact",
        from_number="+15550100001",
        duration_seconds=12.5,
        is_trial=True,
        is_agent_deleted=False,
        transcript='bot: tab\tand \\N and "quotes" and\nnew lines — ünïcode 🎈',
        executed_call_actions=[{"actionType": "SMS"}],
        extracted_data={"vip": None, "n": [1, 2.5]},
        translation={"enabled": False},
        message_id="message",
    )
    bare = replace(call(2), summary=None)
    assert write(engine, [full, bare]) == Written([2], [2], [0], [0])
    rows = stored(engine)
    for one in (full, bare):
        row = rows[one.call_id]
        for name in CallLog.__dataclass_fields__:
            assert row[name] == getattr(one, name), name
    assert rows["call-1"]["first_seen_at"] == rows["call-1"]["last_changed_at"] == FIRST


def test_unchanged_rows_are_not_written_at_all(engine: sa.Engine) -> None:
    listed = [call(n) for n in range(20)]
    write(engine, listed)
    once = stored(engine)
    assert write(engine, listed, SECOND) == Written([20], [0], [0], [0])
    assert stored(engine) == once


def test_a_changed_call_changes_its_own_row_and_keeps_when_it_was_first_seen(
    engine: sa.Engine,
) -> None:
    write(engine, [call(1), call(2)])
    once = stored(engine)
    other = call(1, raw={"late": True}, summary="It came later.")
    assert write(engine, [other, call(2)], SECOND).changed == [1]
    rows = stored(engine)
    assert rows["call-2"] == once["call-2"]
    assert rows["call-1"]["summary"] == "It came later."
    assert rows["call-1"]["raw"]["late"] is True
    assert rows["call-1"]["first_seen_at"] == FIRST
    assert rows["call-1"]["last_changed_at"] == SECOND


def test_a_vanished_call_is_marked_once_and_unmarked_when_it_is_back(engine: sa.Engine) -> None:
    write(engine, [call(1), call(2)])
    assert write(engine, [call(2)], SECOND).missing == [1]
    assert stored(engine)["call-1"]["missing_since"] == SECOND
    assert write(engine, [call(2)], THIRD).missing == [0]
    assert stored(engine)["call-1"]["missing_since"] == SECOND
    assert write(engine, [call(1), call(2)], THIRD) == Written([2], [0], [0], [0])
    row = stored(engine)["call-1"]
    assert row["missing_since"] is None
    assert (row["first_seen_at"], row["last_changed_at"]) == (FIRST, FIRST)


def test_a_call_that_is_back_with_other_content_has_changed(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    write(engine, [], SECOND)
    other = call(1, raw={"late": True})
    assert write(engine, [other], THIRD).changed == [1]
    row = stored(engine)["call-1"]
    assert (row["missing_since"], row["last_changed_at"]) == (None, THIRD)


def test_only_calls_of_the_window_and_the_location_can_be_missing(engine: sa.Engine) -> None:
    edges = [
        replace(call(1), started_at=WINDOW.start),
        replace(call(2), started_at=WINDOW.end - timedelta(milliseconds=1)),
        replace(call(3), started_at=WINDOW.end),
        replace(call(4), started_at=WINDOW.start - timedelta(milliseconds=1)),
    ]
    write(engine, edges)
    write(engine, [call(1)], place="LocOther")
    assert write(engine, [], SECOND).missing == [2]
    rows = stored(engine)
    assert [i for i, row in sorted(rows.items()) if row["missing_since"]] == ["call-1", "call-2"]
    assert stored(engine, "LocOther")["call-1"]["missing_since"] is None


def test_the_same_call_id_in_two_locations_is_two_calls(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    write(engine, [call(1, summary="Elsewhere")], place="LocOther")
    assert stored(engine)["call-1"]["summary"] == "Summary 1"
    assert stored(engine, "LocOther")["call-1"]["summary"] == "Elsewhere"


def test_what_a_newer_read_wrote_stays(engine: sa.Engine) -> None:
    write(engine, [call(1), call(2), call(3)])
    newer = call(2, raw={"newer": True})
    write(engine, [newer, call(3), call(4)], THIRD)  # call 1 has vanished, call 4 is new
    rows = stored(engine)
    older = write(engine, [call(1), call(2), call(3)], THIRD, read_at=SECOND)
    assert older == Written([3], [0], [0], [0])
    assert stored(engine) == rows


def test_more_than_a_batch_is_stored_and_counted(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_BATCH", 7)
    listed = [call(n) for n in range(50)]
    assert write(engine, listed) == Written([50], [50], [0], [0])
    listed[::2] = [call(n, raw={"late": n}) for n in range(0, 50, 2)]
    assert write(engine, listed, SECOND) == Written([50], [0], [25], [0])
    once = stored(engine)
    assert write(engine, listed, THIRD) == Written([50], [0], [0], [0])
    assert stored(engine) == once
    assert write(engine, listed[10:40], THIRD).missing == [20]


def test_items_set_aside_are_kept_once_with_their_reason(engine: sa.Engine) -> None:
    items: list[Any] = [{"n": 1}, None, "text", ["list"]]
    aside = [
        SetAsideCall("not a call", hashlib.sha256(repr(item).encode()).digest(), item)
        for item in items
    ]
    write(engine, [], aside=aside)
    write(engine, [], SECOND, aside=aside)
    with engine.connect() as db:
        rows = db.execute(sa.text("SELECT * FROM set_aside_calls")).mappings().all()
    assert len(rows) == 4
    assert {(r["reason"], r["first_seen_at"], r["last_seen_at"]) for r in rows} == {
        ("not a call", FIRST, SECOND)
    }
    assert sorted(map(repr, (r["raw"] for r in rows))) == sorted(map(repr, items))


def test_a_stored_call_that_can_no_longer_be_read_is_not_missing(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    once = stored(engine)
    aside = [SetAsideCall("no time", b"x", {"id": "call-1"}, call_id="call-1")]
    assert write(engine, [], SECOND, aside=aside).missing == [0]
    assert stored(engine) == once


def test_a_write_that_is_rolled_back_leaves_nothing(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    once = stored(engine)
    with pytest.raises(ZeroDivisionError):
        write(engine, [call(2)], SECOND, before_commit=lambda: 1 // 0)
    assert stored(engine) == once


def test_writers_of_one_location_take_turns(engine: sa.Engine) -> None:
    def again(number: int) -> None:
        write(engine, [call(n) for n in range(number, number + 30)], SECOND)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(again, range(18)))
    rows = stored(engine)
    assert set(rows) == {f"call-{n}" for n in range(47)}
    # Whoever came last decided what is still listed.
    listed = [i for i, row in rows.items() if row["missing_since"] is None]
    assert len(listed) == 30

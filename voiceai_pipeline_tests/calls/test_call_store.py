"""What a window's write does to ``call_logs``: no more than it must, and never a guess."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import Raw

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline_tests.support.call_writes import (
    FIRST,
    LOCATION,
    SECOND,
    START,
    THIRD,
    WINDOW,
    call,
    check_row,
    fingerprint,
    stored,
    write,
)


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
        check_row(rows[one.call_id], one)
    assert rows["call-1"]["first_seen_at"] == rows["call-1"]["last_changed_at"] == FIRST


def test_a_call_listed_twice_does_not_stand_in_for_one_that_is_gone(engine: sa.Engine) -> None:
    write(engine, [call(1), call(2)])
    assert write(engine, [call(1), call(1)], SECOND) == Written([2], [0], [0], [1])
    assert stored(engine)["call-2"]["missing_since"] == SECOND


def test_new_calls_are_stored_beside_one_that_the_table_has_at_another_time_or_as_missing(
    engine: sa.Engine,
) -> None:
    """They look new until they are written: what was copied up to there is taken back."""
    moved = call(1, raw={"earlier": True}, started_at=START - timedelta(days=3))
    write(engine, [moved], window=Window(moved.started_at, START))
    write(engine, [call(2), call(5)])
    write(engine, [call(5)], SECOND)
    assert stored(engine)["call-2"]["missing_since"] == SECOND
    listed = [call(n) for n in range(6)]
    assert write(engine, listed, THIRD) == Written([6], [3], [1], [0])
    rows = stored(engine)
    for one in listed:
        check_row(rows[one.call_id], one)
    assert rows["call-2"]["missing_since"] is None
    assert rows["call-1"]["first_seen_at"] == FIRST
    assert rows["call-0"]["first_seen_at"] == THIRD


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
    write(engine, [call(1)], location_id="LocOther")
    assert write(engine, [], SECOND).missing == [2]
    rows = stored(engine)
    assert [i for i, row in sorted(rows.items()) if row["missing_since"]] == ["call-1", "call-2"]
    assert stored(engine, "LocOther")["call-1"]["missing_since"] is None


def test_the_same_call_id_in_two_locations_is_two_calls(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    write(engine, [call(1, summary="Elsewhere")], location_id="LocOther")
    assert stored(engine)["call-1"]["summary"] == "Summary 1"
    assert stored(engine, "LocOther")["call-1"]["summary"] == "Elsewhere"


def test_an_older_read_does_not_overwrite_a_newer_one(engine: sa.Engine) -> None:
    write(engine, [call(1), call(2), call(3)])
    newer = call(2, raw={"newer": True})
    write(engine, [newer, call(3), call(4)], THIRD)  # call 1 has vanished, call 4 is new
    rows = stored(engine)
    older = write(engine, [call(1), call(2), call(3)], THIRD, read_at=SECOND)
    assert older == Written([3], [0], [0], [0])
    assert stored(engine) == rows


def test_a_database_dropped_during_a_copy_raises_a_database_error(
    postgres: EmbeddedPostgres, template: str
) -> None:
    postgres.create_database("ending", template=template)
    engine = open_engine(Secret(postgres.url("ending")))

    def end(one: ListedCall) -> CallLog:
        postgres.drop_database("ending")
        return call(1)

    intake = Intake(engine, LOCATION, [START], end, fingerprint, FIRST)
    with closing(intake), engine.connect() as db:
        intake.take([ListedCall("call-1", START, Raw("{}"))])
        intake.finish(WINDOW.end)
        with pytest.raises(sa.exc.DBAPIError):
            call_store.store(db, [intake], FIRST)
    engine.dispose()


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


def test_writers_of_one_location_are_serialized(engine: sa.Engine) -> None:
    def again(number: int) -> None:
        write(engine, [call(n) for n in range(number, number + 30)], SECOND)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(again, range(18)))
    rows = stored(engine)
    assert set(rows) == {f"call-{n}" for n in range(47)}
    # The last writer marks all others. Of its own 30, some may be marked by a write that came after
    # its read: ``Written.stored`` is lower then, and the read is repeated.
    listed = {i for i, row in rows.items() if row["missing_since"] is None}
    assert any(listed <= {f"call-{m}" for m in range(n, n + 30)} for n in range(18))


def test_locations_are_locked_in_one_order_so_that_transactions_cannot_deadlock(
    engine: sa.Engine,
) -> None:
    with ThreadPoolExecutor(1) as pool, engine.connect() as second, engine.connect() as first:
        call_store.lock_locations(first, ["b"])
        waiting = pool.submit(call_store.lock_locations, second, ["b", "a"])
        with engine.connect() as third:
            deadline = time.monotonic() + 120
            while not _is_locked(third, "a"):
                assert time.monotonic() < deadline
        first.rollback()
        waiting.result()


def _is_locked(db: sa.Connection, location_id: str) -> bool:
    db.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
    try:
        call_store.lock_locations(db, [location_id])
    except sa.exc.OperationalError:
        return True
    finally:
        db.rollback()
    return False

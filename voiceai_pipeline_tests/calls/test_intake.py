"""How a read is taken in: batch by batch, in flat memory, and parsed only where it is new."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from msgspec import Raw

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.failures import FailureClass, PipelineError
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
    sent,
    stored,
    write,
)


def test_a_call_sent_as_before_is_not_even_parsed(engine: sa.Engine) -> None:
    """Nor is one that the table knows from before there were fingerprints, but for once a read."""
    listed = [call(n) for n in range(3)]
    write(engine, listed)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE call_logs SET fingerprint = NULL WHERE call_id = 'call-1'"))
    once, taken_apart = stored(engine), []

    def take_apart(one: ListedCall) -> CallLog:
        taken_apart.append(one.call_id)
        return next(known for known in listed if known.call_id == one.call_id)

    with closing(Intake(engine, LOCATION, [START], take_apart, fingerprint, SECOND)) as intake:
        intake.take([ListedCall(one.call_id, one.started_at, sent(one)) for one in listed])
        intake.finish(WINDOW.end)
        with engine.begin() as db:
            assert call_store.store(db, [intake], SECOND) == [Written([3], [0], [0], [0])]
    assert taken_apart == ["call-1"]
    assert stored(engine) == once


def test_a_call_that_is_only_formatted_differently_is_not_written(engine: sa.Engine) -> None:
    write(engine, [call(1)])
    once = stored(engine)
    spelled = ListedCall("call-1", call(1).started_at, Raw("{ }"))
    intake = Intake(engine, LOCATION, [START], lambda _one: call(1), fingerprint, SECOND)
    with closing(intake), engine.begin() as db:
        intake.take([spelled])
        intake.finish(WINDOW.end)
        assert call_store.store(db, [intake], SECOND) == [Written([1], [0], [0], [0])]
    assert stored(engine) == once


def test_more_than_a_batch_is_stored_and_counted(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 7)
    listed = [call(n) for n in range(50)]
    assert write(engine, listed) == Written([50], [50], [0], [0])
    listed[::2] = [call(n, raw={"late": n}) for n in range(0, 50, 2)]
    assert write(engine, listed, SECOND) == Written([50], [0], [25], [0])
    once = stored(engine)
    assert write(engine, listed, THIRD) == Written([50], [0], [0], [0])
    assert stored(engine) == once
    assert write(engine, listed[10:40], THIRD).missing == [20]


def test_calls_that_spill_to_disk_arrive_unchanged(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 4)
    monkeypatch.setattr("voiceai_pipeline.calls.intake._IN_MEMORY", 100)
    ids = [
        "plain",
        "tab\tin it",
        "line\nin it",
        "back\\slash",
        "\\N",
        "\\.",
        "ünïcode 🎈",
        '"',
        "\r",
    ]
    texts = ["tab\t", "\\N", "\\.", "a\\tb\r\n", "🎈", None, '{"a": "\\"}', " ", "\\"]
    listed = [
        replace(call(n, raw={"t": text}), call_id=call_id, summary=text, extracted_data=[text])
        for n, (call_id, text) in enumerate(zip(ids, texts, strict=True))
    ]
    aside = [SetAsideCall("no time", b"x", {}, call_id="a\tb")]
    write(engine, [replace(call(9), call_id="a\tb"), replace(call(10), call_id="c\td")])
    assert write(engine, listed, SECOND, aside=aside) == Written([9], [9], [0], [1])
    rows = stored(engine)
    for one in listed:
        check_row(rows[one.call_id], one)
    assert rows["a\tb"]["missing_since"] is None
    assert rows["c\td"]["missing_since"] == SECOND
    assert write(engine, listed, THIRD, aside=aside) == Written([9], [0], [0], [0])
    assert stored(engine) == rows


def test_calls_are_counted_by_part_of_the_window(engine: sa.Engine) -> None:
    write(engine, [call(n) for n in (0, 1, 5, 30)])
    listed = [call(0), call(1, raw={"late": True}), *(call(n) for n in range(10, 14)), call(31)]
    starts = [START, *(START + timedelta(minutes=n) for n in (10, 20, 30))]
    written = write(engine, listed, SECOND, starts=starts)
    assert written == Written([2, 4, 0, 1], [0, 4, 0, 1], [1, 0, 0, 0], [1, 0, 0, 1])


@pytest.mark.parametrize("batch", [2, 1000])
def test_a_call_dropped_by_the_intake_that_an_older_read_then_overwrites_is_not_counted_as_stored(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """An older read writes between the look at the table and the write: no success, or right."""
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", batch)
    now = [call(n) for n in range(4)]
    older = [call(0), call(1, raw={"old": True}), call(3)]
    write(engine, now)
    written = write(engine, now, THIRD, meanwhile=lambda: write(engine, older, SECOND))
    assert written.stored == [2]


def test_a_row_written_by_a_newer_read_counts_as_listed(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 2)
    write(engine, [call(n) for n in range(4)])
    newer = [call(0), call(1, raw={"new": True}), call(3), call(4)]
    written = write(
        engine,
        [call(0), call(1, raw={"old": True}), call(2), call(3)],
        THIRD,
        read_at=FIRST,
        meanwhile=lambda: write(engine, newer, SECOND),
    )
    assert written == Written([4], [0], [0], [0])
    rows = stored(engine)
    assert rows["call-1"]["raw"]["new"] is True
    assert rows["call-2"]["missing_since"] == SECOND
    assert rows["call-4"]["missing_since"] is None


@pytest.mark.parametrize("known", [False, True])
def test_a_call_listed_twice_is_no_complete_read(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 2)
    one, other = call(1), call(1, raw={"moved": True})
    if known:
        write(engine, [other])
        assert write(engine, [one, call(2), other], SECOND).stored == [2]
    else:
        with pytest.raises(PipelineError) as refused:
            write(engine, [one, call(2), other])
        assert refused.value.failure is FailureClass.INCOMPLETE
        assert stored(engine) == {}

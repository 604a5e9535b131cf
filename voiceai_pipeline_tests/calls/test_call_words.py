"""The full-text index: it follows the calls, and can be lost."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.calls.call_filter import Scope, Search
from voiceai_pipeline.core.days import Window
from voiceai_pipeline_tests.support.call_writes import FIRST, LOCATION, SECOND, START, call, write

DAY = Window(START, START + timedelta(days=1))


def keep(engine: sa.Engine, limit: int = 100) -> int:
    with engine.begin() as db:
        return call_words.keep(db, limit)


def found(engine: sa.Engine, text: str, window: Window | None = DAY) -> list[str]:
    search = Search.of(text)
    assert search is not None
    with engine.connect() as db:
        query = call_words.hits(search, [Scope(LOCATION, window)], only_ids=False)
        return sorted(row.call_id for row in db.execute(query))


def test_new_and_changed_calls_are_indexed_and_others_left_alone(engine: sa.Engine) -> None:
    write(engine, [call(n, summary=f"word{n}") for n in range(5)], FIRST)
    assert [keep(engine, 3), keep(engine, 3), keep(engine, 3)] == [3, 2, 0]
    write(engine, [call(n, summary=f"word{n}" if n else "other") for n in range(5)], SECOND)
    assert keep(engine) == 1
    assert found(engine, "word0") == []
    assert found(engine, "other") == ["call-0"]


def test_calls_of_one_instant_are_indexed_in_several_batches(engine: sa.Engine) -> None:
    """A backfill writes thousands with the same time."""
    write(engine, [call(n, summary="same") for n in range(10)], FIRST)
    assert [keep(engine, 4) for _ in range(4)] == [4, 4, 2, 0]
    assert len(found(engine, "same")) == 10


def test_an_emptied_index_is_filled_again(engine: sa.Engine) -> None:
    write(engine, [call(1)], FIRST)
    keep(engine)
    with engine.begin() as db:
        assert not call_words.is_behind(db, FIRST + timedelta(days=1), timedelta(0))
        db.execute(sa.text("TRUNCATE call_words"))
        assert call_words.is_behind(db, FIRST + timedelta(days=1), timedelta(0))
    assert keep(engine) == 1
    assert found(engine, "summary") == ["call-1"]


def test_one_process_indexes_at_a_time(engine: sa.Engine) -> None:
    write(engine, [call(1)], FIRST)
    with engine.begin() as db:
        assert call_words.keep(db) == 1
        assert keep(engine) == 0
    assert keep(engine) == 0


def test_text_that_changed_without_a_change_is_indexed_again(engine: sa.Engine) -> None:
    """A new redaction keeps ``last_changed_at``; what it took out must not be found."""
    write(engine, [call(1, summary="hidden"), call(2, summary="hidden")], FIRST)
    keep(engine)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE call_logs SET summary = 'clean' WHERE call_id = 'call-1'"))
        (location,) = db.execute(sa.text("SELECT DISTINCT location_id FROM call_logs")).scalars()
        call_words.index_again(db, [(location, "call-1"), (location, "unknown")])
    assert found(engine, "hidden") == ["call-2"]
    assert found(engine, "clean") == ["call-1"]


@pytest.mark.parametrize("text", ["a " * 150_000, "x" * 3_000_000, "'\\ & | ! :* <-> \n", "ß İ"])
def test_any_text_is_indexed(engine: sa.Engine, text: str) -> None:
    odd = {"contact_id": "c'\\o", "from_number": "sip:a@b"}
    write(engine, [call(1, transcript=f"bot:{text}", **odd), call(2)], FIRST)
    assert keep(engine) == 2
    assert found(engine, "summary") == ["call-1", "call-2"]
    assert found(engine, text[:190]) in ([], ["call-1"])


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Window(START - timedelta(days=40), START + timedelta(days=40)), ["call-1"]),
        (Window(START + timedelta(days=1), START + timedelta(days=20)), []),
        (Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)), ["call-1"]),
        (None, ["call-1"]),
    ],
)
def test_a_search_stays_within_its_days(
    engine: sa.Engine, window: Window | None, expected: list[str]
) -> None:
    write(engine, [call(1)], FIRST)
    keep(engine)
    assert found(engine, "summary", window) == expected

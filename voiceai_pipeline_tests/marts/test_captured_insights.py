"""What agents captured: names as in the mart, and the most frequent values of counted calls."""

from datetime import UTC, datetime, timedelta
from typing import Any

from voiceai_pipeline.marts import captured_insights
from voiceai_pipeline.marts.captured_insights import CapturedName, FrequentValues
from voiceai_pipeline.marts.insights import Days, Scope
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk


def test_names_have_their_calls_and_only_repeated_values_are_shown(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "America/New_York")
    book.read(LOCATION, D - 10 * DAY, D + DAY)
    noon = datetime(D.year, D.month, D.day, 17, tzinfo=UTC)
    data: list[Any] = [
        {"reason": "refund", "name": "Ann"}, {"reason": "refund", "name": "Bob", "vip": False},
        {"reason": "visit", "note": " "}, {"reason": "visit"}, {"reason": "x" * 300}, None,
    ]  # fmt: skip
    for n, one in enumerate(data):
        book.call(LOCATION, noon + timedelta(minutes=n), extracted_data=one)
    book.call(LOCATION, noon, extracted_data={"reason": "visit"}, is_trial=True)
    book.call(LOCATION, noon - 7 * DAY, extracted_data={"reason": "visit"}, agent_id="a2")
    desk.build(*(D - n * DAY for n in range(8)))
    scope = Scope(Days(D, D), Days(D - 7 * DAY, D - 7 * DAY), LOCATION)
    with desk.engine.begin() as db:
        names = captured_insights.names(db, scope)
        values = captured_insights.frequent_values(db, scope)
    assert names == [
        CapturedName("reason", 5, 1, 5, 6),
        CapturedName("name", 2, 0, 2, 6),
        CapturedName("vip", 1, 0, 1, 6),
    ]
    assert values == [
        FrequentValues("reason", 5, 3, [("refund", 2), ("visit", 2)]),
        FrequentValues("name", 2, 2, []),
        FrequentValues("vip", 1, 1, []),
    ]

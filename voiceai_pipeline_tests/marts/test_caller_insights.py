"""Who calls, as the marts of weeks and languages say; for an agent as its calls do."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.marts import caller_insights
from voiceai_pipeline.marts.caller_insights import CallerReport
from voiceai_pipeline.marts.insights import Days, Scope
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk

MONDAY = D - D.weekday() * DAY
WEEK = Days(MONDAY, MONDAY + 6 * DAY)
BEFORE = Days(MONDAY - 7 * DAY, MONDAY - DAY)


@pytest.fixture
def desk(book: Book, desk: Desk) -> Desk:
    """Three callers of the week before, of whom two call again, with a new one and in Spanish."""
    book.location(LOCATION, "America/New_York")
    book.location("LocThere", "UTC")
    book.read(LOCATION, BEFORE.first - 2 * DAY, WEEK.last + DAY)
    book.read("LocThere", WEEK.first, WEEK.last + DAY)
    noon = datetime(MONDAY.year, MONDAY.month, MONDAY.day, 17, tzinfo=UTC)
    for who in ("Ann", "Bob", "Cid"):
        book.call(LOCATION, noon - 7 * DAY, contact_id=who, duration_seconds=60)
    for n, (who, agent) in enumerate((("Ann", "agent-days"), ("Bob", "a2"), ("Dot", "a2"))):
        at = noon + DAY + timedelta(seconds=40 * n)
        said = {"language": "ES"} if n else None
        book.call(LOCATION, at, contact_id=who, agent_id=agent, translation=said)
    book.call("LocThere", noon, contact_id="Ann")
    desk.build(*(BEFORE.first + n * DAY for n in range(-2, 14)))
    return desk


def report(desk: Desk, *scope: str) -> CallerReport:
    with desk.engine.begin() as db:
        return caller_insights.read(db, Scope(WEEK, BEFORE, *scope))


def test_callers_of_a_week_are_those_of_the_mart_new_ones_only_where_known(desk: Desk) -> None:
    before, week = report(desk, LOCATION).weeks
    assert (before.callers, before.new, before.returning) == (3, 3, 0)
    assert (week.calls, week.callers, week.new, week.returning) == (3, 3, 1, 2)
    assert (week.days, week.is_complete) == (WEEK, True)
    # Nothing is known of callers before the first day of the other location.
    every = report(desk).weeks[-1]
    assert (every.callers, every.new, every.returning) == (4, 1, 2)
    agent = report(desk, LOCATION, "a2").weeks[-1]
    assert (agent.calls, agent.callers, agent.new) == (2, 2, None)


def test_most_calls_at_once_and_languages_are_those_of_the_marts(desk: Desk) -> None:
    found = report(desk)
    assert found.peak is not None
    assert (found.peak.calls, found.peak.location_id, found.peak.day) == (2, LOCATION, MONDAY + DAY)
    assert found.peak_before is not None
    assert found.peak_before.calls == 3
    assert found.languages == {"": (2, 3), "es": (2, 0)}
    with desk.engine.begin() as db:
        query = "SELECT sum(calls) FROM language_metrics WHERE language = 'es'"
        assert db.execute(sa.text(query)).scalar_one() == 2
    assert report(desk, LOCATION, "a2").languages == {"es": (2, 0)}
    assert report(desk, LOCATION, "agent-days").languages == {"": (1, 3)}
    assert report(desk, LOCATION, "a2").peak is None

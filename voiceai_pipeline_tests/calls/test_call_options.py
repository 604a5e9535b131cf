"""What lists can be narrowed to, and how far their days have been read."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_options
from voiceai_pipeline.calls.call_filter import Scope
from voiceai_pipeline.calls.call_options import AgentChoice, Coverage
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import D

UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(D.year, D.month, D.day, 15, tzinfo=UTC)


def test_days_are_counted_as_read_failed_or_missing_up_to_now(engine: sa.Engine) -> None:
    book = Book(engine)
    for place in ("LocA", "LocB", "LocC"):
        book.location(place, "UTC")
    book.read("LocA", D - 3 * DAY, D, until=NOW)
    book.read("LocB", D - 3 * DAY, D - 3 * DAY, state="failed")
    book.read("LocB", D - 2 * DAY, D - 2 * DAY, until=NOW - 2.5 * DAY)  # not to its end
    days = Window(Window.of_day(D - 3 * DAY, UTC_ZONE).start, Window.of_day(D, UTC_ZONE).end)

    def of(*places: str, until: datetime = days.end) -> Coverage | None:
        scopes = [Scope(place, Window(days.start, until)) for place in places]
        with engine.begin() as db:
            return call_options.coverage(db, scopes, UTC_ZONE, NOW)

    assert of("LocA") == Coverage(4, 4, 0, NOW)
    assert of("LocB") == Coverage(4, 0, 1, None)
    assert of("LocA", "LocB") == Coverage(8, 4, 1, None)
    # Days that are given twice count once; those to come do not.
    assert of("LocA", "LocA") == Coverage(4, 4, 0, NOW)
    assert of("LocC", until=days.end + 90 * DAY) == Coverage(4, 0, 0, None)
    assert of("LocA", until=days.start) is None
    with engine.begin() as db:
        assert call_options.coverage(db, [Scope("LocA")], UTC_ZONE, NOW) is None


def test_agents_that_were_never_listed_can_be_chosen_too_deleted_ones_last(
    engine: sa.Engine,
) -> None:
    book = Book(engine)
    book.location("LocA", "UTC")
    book.read("LocA", D, D)
    for agent_id, is_deleted in (("agent-old", True), ("agent-draft", False), ("", False)):
        book.call("LocA", NOW, agent_id=agent_id, is_agent_deleted=is_deleted)
    Marts(engine, UTC_ZONE, MetricRules()).build([D])
    with engine.begin() as db:
        db.exec_driver_sql(
            "UPDATE voiceai_agents SET missing_since = now() WHERE agent_id = 'agent-nights'"
        )
        found = call_options.agents_of(db, ["LocA"], 10)
    assert found == [
        AgentChoice("agent-days", "agent-days", "LocA", False),
        AgentChoice("agent-unknown", "agent-unknown", "LocA", False),
        AgentChoice("agent-draft", None, "LocA", False),
        AgentChoice("agent-nights", "agent-nights", "LocA", True),
        AgentChoice("agent-old", None, "LocA", True),
    ]

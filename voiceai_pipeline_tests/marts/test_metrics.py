"""Every metric, from ten thousand calls, against a second implementation in SQL."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.mart_tables import MARTS
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support import mart_oracle
from voiceai_pipeline_tests.support.mart_calls import Book, days_between

RULES = MetricRules(cost_per_minute=Decimal("0.13"))
UTC_ZONE = ZoneInfo("UTC")
SPRING = (date(2026, 3, 6), date(2026, 3, 31))  # New York 8 March, Berlin 29 March
AUTUMN = (date(2026, 10, 20), date(2026, 11, 4))  # Berlin 25 October, New York 1 November


@pytest.fixture(scope="module")
def days() -> list[date]:
    return [*days_between(*SPRING), *days_between(*AUTUMN)]


def test_every_metric_equals_the_sql_on_ten_thousand_calls(
    engine: sa.Engine, days: list[date]
) -> None:
    book = Book(engine, seed=7)
    zones = {
        "LocNewYork": "America/New_York",
        "LocBerlin": "Europe/Berlin",
        "LocNowhere": None,
        "LocEmpty": "Asia/Kolkata",
        "LocOneCall": "Pacific/Auckland",
        "LocTrials": "America/New_York",
    }
    for location_id, zone in zones.items():
        book.location(location_id, zone, "Asia/Tokyo" if location_id == "LocBerlin" else None)
        for first, last in (SPRING, AUTUMN):
            book.read(location_id, first, last)
    book.read("LocBerlin", date(2026, 10, 28), date(2026, 10, 28), state="failed")
    for location_id in ("LocNewYork", "LocBerlin", "LocNowhere"):
        for first, last in (SPRING, AUTUMN):
            book.at_random(location_id, first, last, 1670)
    with engine.begin() as db:  # a day without calls
        db.execute(sa.text("DELETE FROM call_logs WHERE started_at::date = '2026-03-17'"))
    book.call("LocOneCall", datetime(2026, 10, 30, 11, 30, tzinfo=UTC))
    book.at_random("LocTrials", *AUTUMN, 30, is_trial=True)
    built = Marts(engine, UTC_ZONE, RULES).build(days)
    assert built.disagreements == ()
    values = {
        "days": days,
        "goals": ["APPOINTMENT_BOOKING"],
        "turns": 2,
        "seconds": 10,
        "rate": Decimal("0.13"),
    }
    with engine.begin() as db:
        mart_oracle.prepare(db, **values)
        for mart in mart_oracle.KEYS:
            expected = mart_oracle.expected(db, mart, **values)
            published = mart_oracle.published(db, mart)
            assert published.keys() == expected.keys(), mart
            for key, row in expected.items():
                assert _same(published[key], row), (mart, key, _differences(published[key], row))
            assert _not_compared(mart, expected) == set(), mart


def _same(found: dict[str, Any], row: dict[str, Any]) -> bool:
    return not _differences(found, row)


def _differences(found: dict[str, Any], row: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (found[name], value)
        for name, value in row.items()
        if found[name] != (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    }


OF_STATUS = {
    "location_name", "timezone", "is_timezone_assumed", "repeat_caller_rate", "calls_change_7d",
    "is_7d_complete", "calls_by_now_last_week", "goal_actions", "is_goal_comparable",
    "is_complete", "is_over", "calls_known_until", "last_successful_sync_at", "agent_name",
    "incomplete_sync_days", "synced_at", "rules_version", "computed_at", "is_agent_deleted",
    "weekday",
}  # fmt: skip
"""Columns with a test of their own in test_build.py."""


def _not_compared(mart: str, rows: mart_oracle.Rows) -> set[str]:
    (table,) = (table for table in MARTS if table.name == mart)
    return {column.name for column in table.columns} - set(next(iter(rows.values()))) - OF_STATUS

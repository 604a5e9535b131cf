"""Builds marts at a moment that the test sets, and reads them back."""

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts.build import Marts

UTC_ZONE = ZoneInfo("UTC")


D = date(2026, 11, 10)


LOCATION = "LocHere"


class Desk:
    """Builds marts at a time that the test sets, and reads them back."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def marts(self, rules: MetricRules | None = None) -> Marts:
        return Marts(self.engine, UTC_ZONE, rules or MetricRules(), now=lambda: self.now)

    def build(self, *days: date, rules: MetricRules | None = None) -> None:
        assert self.marts(rules).build(days).disagreements == ()

    def row(self, day: date = D, mart: str = "daily_call_metrics", **keys: Any) -> dict[str, Any]:
        (found,) = self.rows(mart, day=day, **keys)
        return found

    def rows(self, mart: str, **keys: Any) -> list[dict[str, Any]]:
        where = " AND ".join(f"{name} = :{name}" for name in keys) or "true"
        query = sa.text(f"SELECT * FROM {mart} WHERE {where} ORDER BY 1, 2")  # noqa: S608
        with self.engine.begin() as db:
            return [dict(row) for row in db.execute(query, keys).mappings()]

    def stale(self, rules: MetricRules | None = None) -> dict[date, set[str]]:
        found = self.marts(rules).stale(None, date(2026, 10, 1), date(2026, 11, 20))
        return {day: set(locations) for day, locations in found.days.items()}

    def settle(self) -> None:
        """Build stale marts, as the sensor does, until there are none."""
        stale = self.stale()
        self.build(*stale)
        assert self.stale() == {}

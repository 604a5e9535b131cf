"""Synced days as tests see them: HighLevel's calls, the stored rows and the ledger."""

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import RETRIED, RETRY_DELAYS
from voiceai_pipeline.core.days import DayResult, Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.whole_call import WHOLE
from voiceai_pipeline.highlevel.allow_list import redact_call
from voiceai_pipeline.highlevel.calls import Page
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import DEMO

DAY = date(2026, 11, 18)

DAYS = [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)]

NEW_YORK = ZoneInfo("America/New_York")

UTC_ZONE = ZoneInfo("UTC")

HEALTHY = [name for name, user in DEMO.items() if user.role in ("healthy", "bad_day")]

MS = timedelta(milliseconds=1)


def location_of(name: str) -> str:
    location_id = DEMO[name].location_id
    assert location_id is not None
    return location_id


def midnight(day: date, zone: ZoneInfo = UTC_ZONE) -> datetime:
    return Window.of_day(day, zone).start


HARBOR, QUIET = location_of("Harbor Dental"), location_of("Quiet Law")


def expected_calls(
    sandbox: RunningSandbox, name: str, first: date, last: date
) -> list[dict[str, Any]]:
    """What HighLevel has for these UTC days."""
    start, end = midnight(first), midnight(last + timedelta(days=1))
    return sandbox.world.calls.between(location_of(name), start, end)


def table(engine: sa.Engine, name: str = "") -> list[dict[str, Any]]:
    """``call_logs``, of one user's location or all of it, with the version of each row and the
    whole item as ``raw``."""
    where = "WHERE location_id = :location" if name else ""
    query = f"{_ROWS} {where} ORDER BY started_at, call_id"
    with engine.connect() as db:
        values = {"location": location_of(name)} if name else {}
        return [_whole(row) for row in db.execute(sa.text(query), values).mappings()]


_ROWS = f"SELECT *, {WHOLE} AS whole, xmin::text AS written FROM call_logs"  # noqa: S608


def _whole(row: sa.RowMapping) -> dict[str, Any]:
    found = dict(row)
    return found | {"raw": found.pop("whole")}


def digest(engine: sa.Engine) -> str:
    """A digest of the stored calls, without the columns that only say when we saw them."""
    query = (
        "SELECT md5(string_agg(t, '|' ORDER BY t)) FROM (SELECT ROW(location_id, call_id, "
        "started_at, raw, content_hash, missing_since IS NULL)::text AS t FROM call_logs) AS x"
    )
    with engine.connect() as db:
        return str(db.execute(sa.text(query)).scalar_one())


def read_requests(sandbox: RunningSandbox) -> Counter[str]:
    """How often each location's calls were requested."""
    return Counter(r.location_id or "" for r in sandbox.requests if r.path == CALL_LOGS)


def ledger_rows(engine: sa.Engine, *days: date) -> list[DayResult]:
    with engine.connect() as db:
        return ledger.results(db, days=days or DAYS)


def retry_at(row: DayResult) -> datetime | None:
    """When a failed day is retried automatically (UTC); None if it needs action first."""
    if row.failure not in RETRIED:
        return None
    if row.finished_at is None or not 1 <= row.attempt <= len(RETRY_DELAYS):
        return None
    return row.finished_at + RETRY_DELAYS[row.attempt - 1]


def by_name(results: list[DayResult]) -> dict[str, DayResult]:
    return {row.user.name: row for row in results}


def listed_calls(world: World, location_id: str, window: Window) -> dict[str, dict[str, Any]]:
    """What HighLevel has right now, redacted, by id."""
    items = world.calls.between(location_id, window.start, window.end)
    return {item["id"]: redact_call(item) for item in items}


def stored_calls(engine: sa.Engine, location_id: str, window: Window) -> dict[str, dict[str, Any]]:
    """The rows of a window, by id, each as in ``table``."""
    query = sa.text(
        f"{_ROWS} WHERE location_id = :location AND started_at >= :start AND started_at < :end"
    )
    values = {"location": location_id, "start": window.start, "end": window.end}
    with engine.connect() as db:
        return {row["call_id"]: _whole(row) for row in db.execute(query, values).mappings()}


def holds_exactly(rows: dict[str, dict[str, Any]], there: dict[str, dict[str, Any]]) -> None:
    assert {i: row["raw"] for i, row in rows.items() if row["missing_since"] is None} == there


def expire_leases(engine: sa.Engine) -> None:
    """Make every lease expire, as if its holder had shown no sign of life for too long."""
    with engine.begin() as db:
        db.execute(sa.text("UPDATE location_leases SET expires_at = '-infinity'"))


class Interrupted(HighLevelClient):
    """A client during whose first request something else happens."""

    meanwhile: Callable[[], object] | None = None

    def call_logs_page(
        self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
    ) -> Page:
        got = super().call_logs_page(token, location_id, start, end, page)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return got

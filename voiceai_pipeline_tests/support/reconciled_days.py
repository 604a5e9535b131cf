"""Days that the reconciliation compares: the 30 before noon of 2026-11-20, the tests' time."""

from datetime import date, datetime, timedelta

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.reconciliation import DAYS, LocationComparison, Verdict
from voiceai_pipeline.core.days import DayResult
from voiceai_pipeline.sandbox.faults import CALL_LOGS
from voiceai_pipeline.sandbox.record import RecordedRequest
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON
from voiceai_pipeline_tests.support.synced_calls import midnight

TODAY = NOON.date()

PAST = [TODAY - timedelta(days=ago) for ago in range(DAYS, 0, -1)]

OLD = TODAY - timedelta(days=12)


def noon(day: date) -> datetime:
    return midnight(day) + timedelta(hours=12)


def rows(engine: sa.Engine) -> list[DayResult]:
    with engine.connect() as db:
        return ledger.results(db, days=[TODAY - timedelta(days=40), *PAST, TODAY])


def row(engine: sa.Engine, name: str, day: date) -> DayResult:
    (found,) = [r for r in rows(engine) if r.user.name == name and r.day == day]
    return found


def remembered(engine: sa.Engine) -> set[tuple[str, date]]:
    with engine.connect() as db:
        found = db.execute(sa.text("SELECT location_id, day FROM drifting_days"))
        return {(location_id, day) for location_id, day in found}


def asked(sandbox: RunningSandbox) -> list[RecordedRequest]:
    return [request for request in sandbox.requests if request.path == CALL_LOGS]


def days_of(result: LocationComparison, verdict: Verdict) -> list[date]:
    return [day.day for day in result.days if day.verdict is verdict]


def by_location(results: list[LocationComparison]) -> dict[str, LocationComparison]:
    return {result.location_id: result for result in results}

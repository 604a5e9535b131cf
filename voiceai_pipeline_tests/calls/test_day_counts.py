"""The numbers of users per day: the query agrees with the report, user by user."""

import random
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import day_status, ledger
from voiceai_pipeline.calls.day_counts import day_counts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.days import DayResult, DayState, Window, day_range
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.pause import Pause

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAYS = day_range(date(2026, 11, 19), date(2026, 11, 25))


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_the_report(engine: sa.Engine, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    users = [
        Connection(
            User(uuid4(), str(number)),
            chance.choice([*ConnectionState, ConnectionState.CONNECTED, ConnectionState.EXPIRING]),
            location_id=f"loc {number}" if chance.random() < 0.95 else None,
            pause=Pause(NOW, "a test") if chance.random() < 0.2 else None,
        )
        for number in range(25)
    ]
    rows = [
        DayResult(
            user=one.user,
            location_id=(one.location_id if chance.random() < 0.9 else None) or "left",
            day=day,
            state=state,
            read_until=Window.of_day(day, ZONE).end - timedelta(hours=chance.random() < 0.1),
            failure=FailureClass.PROVIDER_ERROR if state is DayState.FAILED else None,
        )
        for one in users
        for day in DAYS
        if chance.random() < 0.9
        # The days of the overview are always kept.
        for state in chance.choices(list(DayState), [8, 1, 1, 0])
    ]
    with engine.begin() as db:
        for one in users:
            connections.add_user(db, one.user.id, business_name=one.user.name)
        ledger.record(db, rows, None)
        reports = day_status.report(DAYS, ledger.results(db, days=DAYS), users, ZONE, NOW)
        counted = day_counts(db, users, DAYS, ZONE, NOW)

    assert [
        (one.day, one.complete, one.failed, one.waiting, one.paused, one.unread, one.is_complete)
        for one in counted
    ] == [
        (r.day, *map(len, (r.complete, r.failed, r.waiting, r.paused, r.unread)), r.is_green)
        for r in reports
    ]
    assert [one.is_open for one in counted] == [day == DAYS[-1] for day in DAYS]


def test_without_users_every_day_is_empty(engine: sa.Engine) -> None:
    with engine.begin() as db:
        counted = day_counts(db, [], DAYS, ZONE, NOW)
    assert {(one.able, one.waiting) for one in counted} == {(0, 0)}

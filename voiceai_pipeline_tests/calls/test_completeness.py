"""Which days are complete for all users: the query agrees with the rows, read one by one."""

import random
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import completeness, day_status, ledger
from voiceai_pipeline.calls.completeness import Completeness
from voiceai_pipeline.calls.day_status import DEADLINE
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.days import DayResult, DayState, Window, day_range
from voiceai_pipeline.core.failures import FailureClass

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TODAY = date(2026, 11, 25)
DAYS = day_range(TODAY - timedelta(days=9), TODAY)


def add(db: sa.Connection, name: str, since: timedelta, state: ConnectionState) -> Connection:
    user = User(uuid4(), name)
    connections.add_user(db, user.id, business_name=name)
    return Connection(user, state, since=NOW - since, location_id=f"loc {name}")


def row(one: Connection, day: date, state: DayState, **values: object) -> DayResult:
    known = {"location_id": one.location_id, "read_until": Window.of_day(day, ZONE).end}
    return DayResult(user=one.user, day=day, state=state, **(known | values))  # type: ignore[arg-type]


def complete(one: Connection, *days: date) -> list[DayResult]:
    return [row(one, day, DayState.COMPLETE) for day in days]


def judged(
    db: sa.Connection, *users: Connection, kept_since: date | None = None
) -> dict[date, Completeness]:
    return completeness.of_days(db, DAYS, users, ZONE, NOW, kept_since)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_the_report_of_every_day(engine: sa.Engine, seed: int) -> None:
    """Also of days that are no longer kept, some of which were read again since."""
    chance = random.Random(seed)  # noqa: S311
    kept_since = DAYS[4]
    with engine.begin() as db:
        users = [
            add(db, str(number), timedelta(days=9), chance.choice(list(ConnectionState)))
            for number in range(4)
        ]
        rows = [
            row(
                one,
                day,
                state,
                location_id=one.location_id if chance.random() < 0.9 else "left",
                read_until=end - timedelta(hours=chance.random() < 0.1),
                failure=FailureClass.PROVIDER_ERROR if state is DayState.FAILED else None,
            )
            for one in users
            for day in DAYS
            for end in [Window.of_day(day, ZONE).end]
            if chance.random() < 0.9
            for state in chance.choices(list(DayState), [8, 1, 1, 8 if day < kept_since else 0])
        ]
        ledger.record(db, rows, None)
        rows = ledger.results(db, days=DAYS)
        reports = day_status.report(DAYS, rows, users, ZONE, NOW, kept_since)
        found = judged(db, *users, kept_since=kept_since)

    assert {day for day, how in found.items() if how is Completeness.COMPLETE} == {
        report.day for report in reports if report.is_green
    }
    assert Completeness.FILLING not in found.values()
    gone = [report for report in reports if report.not_kept]
    assert gone
    assert all(report.day < kept_since for report in gone)


def test_the_history_of_a_new_user_is_filling_until_it_was_read_or_is_overdue(
    engine: sa.Engine,
) -> None:
    with engine.begin() as db:
        old = add(db, "old", timedelta(days=90), ConnectionState.CONNECTED)
        new = add(db, "new", timedelta(minutes=1), ConnectionState.CONNECTED)
        ledger.record(db, complete(old, *DAYS[1:]), None)
        at_first = judged(db, old, new)
        ledger.record(db, complete(new, *DAYS[-3:]), None)
        filled = judged(db, old, new)
        overdue = add(db, "overdue", DEADLINE, ConnectionState.CONNECTED)
        too_late = judged(db, old, new, overdue)

    assert at_first == {
        day: Completeness.INCOMPLETE if day == DAYS[0] else Completeness.FILLING for day in DAYS
    }
    assert [day for day, how in filled.items() if how is Completeness.COMPLETE] == DAYS[-3:]
    assert Completeness.FILLING not in filled.values()
    assert set(too_late.values()) == {Completeness.INCOMPLETE}


def test_today_is_complete_up_to_its_last_read(engine: sa.Engine) -> None:
    with engine.begin() as db:
        one = add(db, "one", timedelta(days=90), ConnectionState.CONNECTED)
        early = {
            day: Window.of_day(day, ZONE).end - timedelta(hours=14) for day in (DAYS[-2], TODAY)
        }
        rows = [row(one, day, DayState.COMPLETE, read_until=until) for day, until in early.items()]
        ledger.record(db, rows, None)
        found = judged(db, one)

    assert found[TODAY] is Completeness.COMPLETE
    assert found[DAYS[-2]] is Completeness.INCOMPLETE


def test_without_a_user_who_can_be_synced_nothing_is_missing(engine: sa.Engine) -> None:
    gone = Connection(User(UUID(int=1), "gone"), ConnectionState.DISCONNECTED, location_id="loc")
    with engine.begin() as db:
        assert set(judged(db, gone).values()) == {Completeness.COMPLETE}

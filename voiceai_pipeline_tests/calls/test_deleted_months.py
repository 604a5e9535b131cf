"""Calls that are no longer kept: whole months go, with all that belongs to each call."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import deleted_months
from voiceai_pipeline.calls.deleted_months import BATCH, ClockError
from voiceai_pipeline.calls.sync import Sync, SyncRequestError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.mart_calls import Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, Desk
from voiceai_pipeline_tests.support.old_calls import (
    KEEP_DAYS,
    NOW,
    UTC_ZONE,
    counts,
    delete,
    derive,
    fill,
    old_calls,
    rows,
)

AUCKLAND = ZoneInfo("Pacific/Auckland")
SEPTEMBER = date(2026, 9, 1)
SECOND = timedelta(seconds=1)
LEDGER = "SELECT day, state, stored, message FROM sync_ledger ORDER BY day"


class PowerCutError(Exception):
    """What ends a process between two batches."""


@pytest.fixture
def book(engine: sa.Engine) -> Book:
    return Book(engine)


@pytest.fixture
def desk(engine: sa.Engine) -> Desk:
    return Desk(engine)


def test_a_month_goes_at_midnight_of_the_pipelines_zone_with_all_that_belongs_to_its_calls(
    engine: sa.Engine, book: Book, desk: Desk
) -> None:
    midnight = datetime(2026, 9, 1, tzinfo=AUCKLAND).astimezone(UTC)
    assert midnight == datetime(2026, 8, 31, 12, tzinfo=UTC)
    book.location(LOCATION, "America/New_York")
    book.read(LOCATION, date(2026, 8, 29), date(2026, 9, 3))
    book.call(LOCATION, midnight - timedelta(days=40))
    book.call(LOCATION, midnight - SECOND, extracted_data={"name": "Ann"}, contact_id="c-9")
    kept = book.call(LOCATION, midnight)
    desk.build(date(2026, 8, 30), date(2026, 8, 31), date(2026, 9, 1))
    derive(engine)
    assert counts(engine) == [3, 2, 3, 3]  # the oldest call is in no mart

    found = delete(engine, AUCKLAND)

    assert (found.since, found.calls) == (SEPTEMBER, 2)
    assert found.months == ((date(2026, 7, 1), 1), (date(2026, 8, 1), 1))
    assert rows(engine, "SELECT call_id FROM call_logs") == [(kept,)]
    assert counts(engine) == [1, 1, 1, 1]
    assert rows(engine, LEDGER)[2:4] == [
        (
            date(2026, 8, 31),
            "not_kept",
            None,
            "Calls before 2026-09-01 are no longer kept (VOICEAI_KEEP_CALLS_DAYS).",
        ),
        (SEPTEMBER, "complete", None, ""),
    ]
    assert rows(
        engine, "SELECT month, keep_days, calls, finished_at IS NULL FROM deleted_months ORDER BY 1"
    ) == [(date(2026, 7, 1), 60, 1, False), (date(2026, 8, 1), 60, 1, False)]
    assert delete(engine, AUCKLAND).months == ()


def test_a_run_that_ends_between_two_batches_is_continued_by_the_next_one(
    engine: sa.Engine, book: Book
) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, date(2026, 7, 1), date(2026, 9, 2))
    june, july, august = (datetime(2026, month, 1, tzinfo=UTC) for month in (6, 7, 8))
    september = datetime(2026, 9, 1, tzinfo=UTC)
    fill(engine, LOCATION, june, july, 3)
    fill(engine, LOCATION, july, august, 2 * BATCH + 1)
    fill(engine, LOCATION, september, september + timedelta(days=1), 5)

    def cut(month: date, calls: int) -> None:
        if (month, calls) == (date(2026, 7, 1), BATCH):
            raise PowerCutError

    with pytest.raises(PowerCutError):
        delete(engine, show=cut)
    # From its first call on, no day of the month is called complete.
    assert rows(engine, "SELECT DISTINCT state FROM sync_ledger WHERE day < '2026-08-01'") == [
        ("not_kept",)
    ]
    assert rows(engine, "SELECT state FROM sync_ledger WHERE day = '2026-08-01'") == [("complete",)]
    alone = "SELECT count(*) FROM call_facts WHERE call_id NOT IN (SELECT call_id FROM call_logs)"
    assert rows(engine, alone) == [(0,)]
    half = "SELECT calls, finished_at IS NULL FROM deleted_months WHERE month = '2026-07-01'"
    assert rows(engine, half) == [(BATCH, True)]
    with engine.begin() as db:
        assert deleted_months.deleted_before(db) == date(2026, 8, 1)

    assert delete(engine).months == ((date(2026, 7, 1), BATCH + 1), (date(2026, 8, 1), 0))
    assert rows(engine, half) == [(2 * BATCH + 1, False)]
    assert rows(engine, "SELECT count(*) FROM call_logs") == [(5,)]


def test_a_month_waits_until_its_marts_are_built_and_with_it_those_after_it(
    engine: sa.Engine, book: Book, desk: Desk
) -> None:
    desk.now = NOW
    book.location(LOCATION, "UTC")
    for day in (date(2026, 7, 10), date(2026, 8, 10)):
        book.read(LOCATION, day, day)
        book.call(LOCATION, datetime(day.year, day.month, day.day, 9, tzinfo=UTC))
    with engine.begin() as db:
        db.execute(sa.text("UPDATE sync_ledger SET stored = 1"))
    desk.build(date(2026, 7, 10))

    def may_go(first: date, before: date) -> bool:
        return desk.marts().unbuilt(first, before) == 0

    found = old_calls(engine).delete(may_go)
    assert (found.months, found.waits) == (((date(2026, 7, 1), 1),), date(2026, 8, 1))
    assert counts(engine)[0] == 1
    desk.build(date(2026, 8, 10))
    assert old_calls(engine).delete(may_go).waits is None
    assert counts(engine)[0] == 0


def test_a_sync_beside_it_stores_days_that_are_kept_and_none_that_is_complete_without_its_calls(
    engine: sa.Engine, connect: Connector, sync: Sync, clock: Clock
) -> None:
    connection = connect("Harbor Dental")
    assert connection.location_id
    clock.now = NOW
    old, young = date(2026, 8, 20), date(2026, 11, 18)
    begin = datetime(2026, 8, 1, tzinfo=UTC)
    fill(engine, connection.location_id, begin, begin + timedelta(days=9), BATCH + 1)
    synced = []

    def meanwhile(_month: date, _calls: int) -> None:
        if not synced:  # it had read the old day before the month was marked
            synced.extend(sync.sync_days([old, young]))

    found = delete(engine, show=meanwhile)
    assert found.calls > BATCH + 1
    assert {row.state for row in synced} == {DayState.COMPLETE}
    states = "SELECT state FROM sync_ledger ORDER BY day"
    are_kept = "SELECT started_at >= '2026-09-01' FROM call_logs GROUP BY 1 ORDER BY 1"
    assert rows(engine, states) == [("not_kept",), ("complete",)]
    assert rows(engine, are_kept) == [(True,)]
    # What is stored once the run is over has its calls, until the next one.
    sync.sync_days([old])
    assert rows(engine, states) == [("complete",), ("complete",)]
    assert rows(engine, are_kept) == [(False,), (True,)]
    delete(engine)
    assert rows(engine, states) == [("not_kept",), ("complete",)]
    assert rows(engine, are_kept) == [(True,)]


def test_a_reader_who_began_before_still_sees_what_is_deleted_meanwhile_and_waits_for_nothing(
    engine: sa.Engine,
) -> None:
    begin = datetime(2026, 8, 1, tzinfo=UTC)
    fill(engine, LOCATION, begin, begin + timedelta(days=9), 9)
    count = sa.text("SELECT count(*) FROM call_logs")
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        assert reader.scalar(count) == 9
        assert delete(engine).calls == 9
        assert reader.scalar(count) == 9


def test_days_that_are_not_kept_are_refused_unread_and_read_again_under_a_longer_limit(
    engine: sa.Engine,
    connect: Connector,
    tokens: Tokens,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    connection = connect("Harbor Dental")
    clock.now = NOW
    day = date(2026, 8, 20)

    def sync_with(keep_days: int | None) -> Sync:
        return Sync(engine, tokens, client, UTC_ZONE, now=clock, keep_days=keep_days)

    assert sync_with(None).sync_days([day])[0].state is DayState.COMPLETE
    stored = rows(engine, "SELECT call_id FROM call_logs ORDER BY 1")
    delete(engine)
    sandbox.world.clear_requests()
    with pytest.raises(SyncRequestError) as refused:
        sync_with(KEEP_DAYS).sync_days([day, date(2026, 9, 1)])
    assert str(refused.value) == (
        "2026-08-20 is before 2026-09-01: calls before that are no longer kept "
        "(VOICEAI_KEEP_CALLS_DAYS is 60). Choose a later day, or set a higher number and restart."
    )
    assert not sandbox.world.requests
    (report,) = sync_with(None).report([day])
    assert report.is_green
    assert [user.id for user in report.not_kept] == [connection.user.id]

    assert sync_with(120).sync_days([day])[0].state is DayState.COMPLETE
    assert rows(engine, "SELECT call_id FROM call_logs ORDER BY 1") == stored
    (report,) = sync_with(120).report([day])
    assert (len(report.complete), report.not_kept) == (1, ())


def test_by_a_clock_that_is_days_wrong_nothing_is_too_old(engine: sa.Engine) -> None:
    fill(engine, LOCATION, datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 2, tzinfo=UTC), 1)
    with pytest.raises(ClockError, match="differs by more than a day: nothing was deleted"):
        delete(engine, machine=NOW - timedelta(days=1, seconds=1))
    assert counts(engine)[0] == 1
    assert delete(engine, machine=NOW - timedelta(hours=23)).calls == 1

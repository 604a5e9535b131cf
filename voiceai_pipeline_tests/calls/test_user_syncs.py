"""What syncs leave in a user's history."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.user_syncs import SyncState, UserSync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DayResult, DayState

USER = User(UUID(int=1), "Harbor Dental")
DAY = date(2026, 11, 20)
NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)


@pytest.fixture
def db(engine: sa.Engine) -> sa.Connection:
    with engine.connect() as db:
        connections.add_user(db, USER.id, business_name=USER.name)
        yield db


def result(day: date = DAY, state: DayState = DayState.COMPLETE, new: int = 0) -> DayResult:
    return DayResult(
        user=USER,
        location_id="Loc1",
        day=day,
        state=state,
        message="" if state is DayState.COMPLETE else "HighLevel did not answer",
        new=new,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=3),
    )


def only(db: sa.Connection) -> UserSync:
    (found,) = user_syncs.of_user(db, USER.id, 10)
    return found


def test_a_sync_that_only_confirms_what_is_stored_leaves_no_row(db: sa.Connection) -> None:
    user_syncs.add(db, [result()], "run1")
    user_syncs.add(db, [result(state=DayState.WAITING)], "run1")
    assert user_syncs.of_user(db, USER.id, 10) == []


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (result(new=2), SyncState.COMPLETE),
        (result(state=DayState.FAILED), SyncState.INCOMPLETE),
    ],
)
def test_news_and_failures_stay(db: sa.Connection, outcome: DayResult, state: SyncState) -> None:
    user_syncs.add(db, [outcome], "run1")
    user_syncs.attribute(db, [USER.id], "run1", "schedule")

    found = only(db)
    assert (found.state, found.asked_by, found.new_calls) == (state, "schedule", outcome.new)
    assert found.message == outcome.message
    assert not found.is_under_way


def test_results_of_one_run_add_up_in_one_row(db: sa.Connection) -> None:
    user_syncs.add(db, [result(new=2)], "run1")
    user_syncs.add(db, [result(DAY + timedelta(days=1), DayState.FAILED)], "run1")

    found = only(db)
    assert (found.days, found.incomplete_days, found.new_calls) == (2, 1, 2)
    assert (found.first_day, found.last_day) == (DAY, DAY + timedelta(days=1))
    assert found.state is SyncState.INCOMPLETE


def test_a_sync_that_was_asked_for_shows_how_far_it_is_and_ends_with_its_run(
    db: sa.Connection,
) -> None:
    last = DAY + timedelta(days=2)
    user_syncs.ask(db, [USER.id], "run1", (DAY, last), asked_by="page", now=NOW)
    assert only(db).state is SyncState.QUEUED

    user_syncs.add(db, [result()], "run1")
    user_syncs.attribute(db, [USER.id], "run1", "schedule")
    (under_way,) = user_syncs.under_way(db)
    assert (under_way.state, under_way.days, under_way.all_days) == (SyncState.RUNNING, 1, 3)
    assert under_way.asked_by == "page"

    user_syncs.finish(db, "run1", SyncState.COMPLETE, NOW)
    assert only(db).state is SyncState.COMPLETE
    assert user_syncs.under_way(db) == []


def test_a_failed_run_of_many_is_complete_for_those_whose_days_are(db: sa.Connection) -> None:
    other = User(UUID(int=2), "Maple Plumbing")
    connections.add_user(db, other.id, business_name=other.name)
    user_syncs.ask(db, [USER.id, other.id], "run1", (DAY, DAY), asked_by="page", now=NOW)
    user_syncs.add(db, [result()], "run1")
    user_syncs.finish(db, "run1", SyncState.INCOMPLETE, NOW)

    assert only(db).state is SyncState.COMPLETE
    assert user_syncs.of_user(db, other.id, 1)[0].state is SyncState.INCOMPLETE


def test_what_is_old_is_deleted_unless_it_is_under_way(db: sa.Connection) -> None:
    user_syncs.add(db, [result(new=1)], "run1")
    user_syncs.ask(db, [USER.id], "run2", (DAY, DAY), asked_by="page", now=NOW)
    user_syncs.purge(db, NOW + timedelta(days=1))

    assert only(db).run_id == "run2"

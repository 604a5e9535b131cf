"""``sync_ledger`` and ``sync_status`` after syncs, and which failed days are due for a retry."""

from datetime import date, timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import RETRIED, RETRY_DELAYS
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.statements import counted
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    expected_calls,
    ledger_rows,
    location_of,
    midnight,
    retry_at,
)


def test_the_documented_messages_reach_the_status(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connection = connect("Larch Auto Care")
    sandbox.world.revoke(location_of("Larch Auto Care"))
    clock.now += timedelta(days=2)
    (result,) = sync.sync_days([DAY])
    assert (result.state, result.failure) == (DayState.WAITING, FailureClass.REFRESH_REJECTED)
    with engine.connect() as db:
        status = ledger.statuses(db)[connection.user.id]
    assert (status.status, status.records_synced) == ("failure", 0)
    assert (status.message or "").startswith("Failed to refresh token")
    assert status.last_sync_at == clock.now


def test_the_status_of_another_service_stays_as_it_is(
    connect: Connector, engine: sa.Engine, sync: Sync
) -> None:
    user_id = connect("Harbor Dental").user.id
    query = "SELECT service, last_sync_message FROM sync_status ORDER BY service"
    with engine.begin() as db:
        values = {"id": uuid4(), "user": user_id}
        db.execute(
            sa.text(
                "INSERT INTO sync_status (id, user_id, service, last_sync_message) "
                "VALUES (:id, :user, 'calendar', 'of another')"
            ),
            values,
        )
    for _ in range(2):
        sync.sync_days([DAY], mode=Mode.REREAD)
        with engine.connect() as db:
            (calendar, ours) = db.execute(sa.text(query)).all()
        assert tuple(calendar) == ("calendar", "of another")
        assert ours.last_sync_message.startswith("Synced 1 day")


def test_a_success_says_how_many(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connection = connect("Pine Realty")
    expected = len(expected_calls(sandbox, "Pine Realty", DAYS[0], DAYS[-1]))
    sync.sync_days(DAYS)
    with engine.connect() as db:
        status = ledger.statuses(db)[connection.user.id]
    assert (status.status, status.records_synced, status.last_sync_at) == (
        "success",
        expected,
        clock.now,
    )
    assert status.message == f"Synced 3 days: {expected} calls, {expected} new, 0 changed"


def test_a_commit_takes_as_many_statements_for_many_days_as_for_one(
    connect: Connector, engine: sa.Engine, sync: Sync
) -> None:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):  # one location, two users
        connect(name)

    def statements(days: list[date]) -> int:
        with counted(engine) as seen:
            assert len(sync.sync_days(days)) == 2 * len(days)
        # But one for each request, and one for each day to see whether it is complete already.
        return sum("AS rows" not in s and not s.startswith("SELECT sync_ledger") for s in seen)

    for days in ([DAY], [DAY - timedelta(days=n) for n in range(1, 9)]):
        sync.sync_days(days)
    one = statements([DAY])
    assert statements([DAY - timedelta(days=n) for n in range(1, 9)]) == one


def test_failures_are_counted_and_retried_with_growing_delays_until_they_need_action(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox, clock: Clock
) -> None:
    connect("Pine Realty")
    sandbox.world.add_fault(Fault("server_error", location_of("Pine Realty")))
    waits = []
    for attempt in range(1, len(RETRY_DELAYS) + 2):
        sync.sync_days([DAY])
        (row,) = ledger_rows(engine)
        assert row.attempt == attempt
        assert row.finished_at is not None
        at = retry_at(row)
        waits.append(at and at - row.finished_at)
    assert waits == [*RETRY_DELAYS, None]
    sandbox.world.clear_faults()
    sync.sync_days([DAY])
    (row,) = ledger_rows(engine)
    assert (row.attempt, row.failure, retry_at(row)) == (0, None, None)


def test_only_failed_days_whose_delay_has_passed_are_due_for_retry(engine: sa.Engine) -> None:
    now = midnight(DAY)
    shapes = [(f, n) for f in FailureClass for n in range(len(RETRY_DELAYS) + 2)]
    users = {UUID(int=number): shape for number, shape in enumerate(shapes, start=1)}
    ages = [delay + timedelta(seconds=s) for delay in RETRY_DELAYS for s in (-1, 0)]
    days = {DAY - timedelta(days=ago): age for ago, age in enumerate(ages)}
    with engine.begin() as db:
        for user_id in users:
            connections.add_user(db, user_id, business_name=str(user_id))
        ledger_row = sa.text(
            "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, attempt, "
            "finished_at) VALUES (:user, 'Loc', :day, 'failed', :failure, :attempt, :finished)"
        )
        values = [
            {"user": user_id, "day": day, "failure": failure.value, "attempt": attempt,
             "finished": now - age}
            for user_id, (failure, attempt) in users.items()
            for day, age in days.items()
        ]  # fmt: skip
        db.execute(ledger_row, values)
        first = min(days)
        found = ledger.due_for_retry(db, users, RETRIED, RETRY_DELAYS, now, first)
        after = ledger.due_for_retry(db, users, RETRIED, RETRY_DELAYS, now, DAY)
        some = ledger.due_for_retry(
            db, list(users)[:1], RETRIED, RETRY_DELAYS, now + timedelta(days=9), first
        )
        expected = {
            (row.user.id, row.day)
            for row in ledger.results(db, days=list(days))
            if (at := retry_at(row)) is not None and at <= now
        }
    assert expected
    assert set(found) == expected
    assert {day for _, day in after} <= {DAY}
    assert {user_id for user_id, _ in some} <= set(list(users)[:1])

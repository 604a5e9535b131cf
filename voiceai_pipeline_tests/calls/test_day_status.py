"""When a failed day is retried, and which users are stale."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from voiceai_pipeline.calls.day_status import DEADLINE, day_due, stale_users
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass, Remedy
from voiceai_pipeline_tests.support.synced_calls import DAY, retry_at

BERLIN = ZoneInfo("Europe/Berlin")

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

DUE = date(2026, 11, 24)

LONG_AGO = NOW - timedelta(days=90)


def connected(number: int, since: datetime = LONG_AGO, **facts: object) -> Connection:
    known: dict[str, object] = {"state": ConnectionState.CONNECTED, "location_id": f"Loc{number}"}
    return Connection(User(UUID(int=number), f"Shop {number}"), since=since, **(known | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (datetime(2026, 11, 25, 4, 59, 59, tzinfo=UTC), date(2026, 11, 23)),
        (datetime(2026, 11, 25, 5, 0, tzinfo=UTC), date(2026, 11, 24)),  # midnight in Berlin + 6 h
        (datetime(2026, 11, 25, 22, 59, tzinfo=UTC), date(2026, 11, 24)),
        (datetime(2026, 11, 25, 23, 30, tzinfo=UTC), date(2026, 11, 24)),  # the 26th in Berlin
    ],
)
def test_a_day_is_due_a_deadline_after_its_end(now: datetime, due: date) -> None:
    assert timedelta(hours=6) == DEADLINE
    assert day_due(now, BERLIN) == due


def test_a_user_behind_is_stale_and_a_user_who_cannot_be_synced_is_not() -> None:
    connections = [
        connected(1),
        connected(2),
        connected(3),
        connected(4, state=ConnectionState.PAUSED, reason=FailureClass.LOCATION_PAUSED),
        connected(5, state=ConnectionState.DISCONNECTED),
    ]
    last = {UUID(int=1): DUE, UUID(int=2): DUE - timedelta(days=3)}
    found = stale_users(connections, last, set(), DUE, NOW)
    assert [(one.connection.user.name, one.days_behind) for one in found] == [
        ("Shop 2", 3),
        ("Shop 3", None),
    ]


def test_a_newly_connected_user_is_not_stale_before_the_deadline_unless_a_sync_failed() -> None:
    new = connected(1, since=NOW - DEADLINE + timedelta(minutes=1))
    assert stale_users([new], {}, set(), DUE, NOW) == []
    assert len(stale_users([new], {}, {new.user.id}, DUE, NOW)) == 1
    assert len(stale_users([new], {}, set(), DUE, NOW + timedelta(minutes=1))) == 1


@pytest.mark.parametrize("failure", list(FailureClass))
def test_only_failures_that_a_rerun_may_fix_are_retried_automatically(
    failure: FailureClass,
) -> None:
    row = DayResult(
        User(uuid4(), "Invented"),
        "Loc",
        DAY,
        DayState.FAILED,
        failure=failure,
        attempt=1,
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert (retry_at(row) is not None) is (failure.explanation.remedy is Remedy.RERUN)

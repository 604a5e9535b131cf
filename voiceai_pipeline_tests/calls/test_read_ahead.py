"""What is read for many locations at once is what each would have read."""

from datetime import date
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import read_ahead
from voiceai_pipeline.calls.location_queue import Task
from voiceai_pipeline.calls.read_ahead import ReadsAhead
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.database.shared_clock import SharedClock
from voiceai_pipeline_tests.support.call_writes import LOCATION, call, fingerprint, sent, write
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.synced_calls import UTC_ZONE

OTHER, EMPTY = "LocInvented000000002", "LocInvented000000003"
DAYS = [date(2026, 11, 18), date(2026, 11, 20)]


@pytest.fixture
def tasks(all_connections: list[Connection]) -> list[Task]:
    """Of three locations: of the first one's user there is a row."""
    users = [all_connections[0], *(_stranger(n) for n in range(2))]
    return [
        Task(one, [user], DAYS) for one, user in zip((LOCATION, OTHER, EMPTY), users, strict=True)
    ]


def _stranger(number: int) -> Connection:
    return Connection(User(UUID(int=number), "Nobody"), ConnectionState.CONNECTED)


def test_each_location_gets_its_row_and_the_calls_of_its_first_window(
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
    tasks: list[Task],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(engine, [call(1), call(2)])
    write(engine, [call(3)], location_id=OTHER)
    seconds = [0.0]
    reads = ReadsAhead(
        engine, tokens, SharedClock(engine, clock), UTC_ZONE, monotonic=lambda: seconds[0]
    )
    found = reads.of(tasks)
    held = {
        one: {name: known.fingerprint for name, known in (ahead.known or {}).items()}
        for one, ahead in found.items()
    }
    assert held == {
        LOCATION: {one.call_id: fingerprint(sent(one)) for one in (call(1), call(2))},
        OTHER: {"call-3": fingerprint(sent(call(3)))},
        EMPTY: {},
    }
    rows = {one: ahead.row for one, ahead in found.items()}
    first = rows.pop(LOCATION)
    assert first is not None
    assert first.user_id == tasks[0].connections[0].user.id
    assert set(rows.values()) == {None}
    assert found[LOCATION].started_at == clock.now
    assert found[LOCATION].is_fresh
    seconds[0] = 1.0
    assert not found[LOCATION].is_fresh
    monkeypatch.setattr(read_ahead, "CALLS_AT_MOST", 1)
    found = reads.of(tasks)
    assert found[LOCATION].known is None
    assert found[OTHER].known is not None


def test_what_the_database_refuses_is_left_to_each_location(
    engine: sa.Engine, tokens: Tokens, clock: Clock, tasks: list[Task]
) -> None:
    with engine.begin() as db:
        db.execute(sa.text("ALTER TABLE call_logs RENAME COLUMN fingerprint TO elsewhere"))
    assert ReadsAhead(engine, tokens, SharedClock(engine, clock), UTC_ZONE).of(tasks) == {}

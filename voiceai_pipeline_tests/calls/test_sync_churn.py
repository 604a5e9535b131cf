"""Calls that come, change and go while they are read, and fields that are filled in late. The read
alone is tested in ``highlevel/test_window.py``.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import TRAILING_DAYS, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    HARBOR,
    MS,
    QUIET,
    UTC_ZONE,
    holds_exactly,
    listed_calls,
    stored_calls,
)


@pytest.fixture
def world(clock: Clock) -> Moving:
    return Moving(clock=clock, history_start=date(2000, 1, 1))


@pytest.fixture
def syncs(
    engine: sa.Engine, vault: TokenVault, sandbox: RunningSandbox, clock: Clock
) -> Iterator[dict[str, Sync]]:
    """One for each API version."""
    with open_client(sandbox.url, clock) as dated, open_client(sandbox.url, clock, "v3") as v3:
        yield {
            name: Sync(engine, Tokens(engine, vault, one, now=clock), one, UTC_ZONE, now=clock)
            for name, one in {"dated": dated, "v3": v3}.items()
        }


@dataclass
class Churn:
    """Calls of one day that vanish, arrive, change and come back while they are listed.

    Attributes:
        throughout: the calls that were there during the whole of the sync under way.
        ever: every call that has ever been there, as it was when it came.
    """

    world: Moving
    window: Window
    chance: random.Random
    within: int

    def __post_init__(self) -> None:
        self.ever: dict[str, dict[str, Any]] = {}
        self.throughout: set[str] = set()
        self.schedule: list[tuple[int, int, int, int]] = []

    def arrive(self, number: int) -> None:
        span = min(self.within, (self.window.end - self.window.start) // MS)
        for _ in range(number):
            at = self.window.start + self.chance.randrange(span) * MS
            item = self.world.calls.add(QUIET, at)
            self.ever[item["id"]] = item

    def now(self) -> set[str]:
        return set(listed_calls(self.world, QUIET, self.window))

    def begin(self, schedule: list[tuple[int, int, int, int]]) -> None:
        self.schedule, self.throughout = list(schedule), self.now()

    def __call__(self) -> None:
        """What happens before one answer."""
        if not self.schedule:
            return
        vanish, arrive, change, back = self.schedule.pop(0)
        there = sorted(self.now())
        for call_id in self.chance.sample(there, min(vanish, len(there))):
            self.world.calls.remove(QUIET, call_id)
        self.arrive(arrive)
        there = sorted(self.now())
        for call_id in self.chance.sample(there, min(change, len(there))):
            self.world.calls.change(QUIET, call_id, summary=f"Said {self.chance.random()}")
        gone = sorted(set(self.ever) - set(there))
        for call_id in self.chance.sample(gone, min(back, len(gone))):
            item = self.ever[call_id]
            self.world.calls.add(QUIET, datetime.fromisoformat(item["createdAt"]), **item)
        self.throughout &= self.now()


_some_days = count()

few = st.integers(0, 3)

schedules = st.lists(st.tuples(few, few, few, few), max_size=7)


@soak
@settings(max_examples=repeated(12, 60), suppress_health_check=list(HealthCheck))
@given(
    number=st.sampled_from([0, 3, 49, 50, 51, 120]),
    within=st.sampled_from([40, 5_000, 86_400_000]),
    seed=st.integers(0, 2**32),
    rounds=st.lists(schedules, min_size=1, max_size=3),
    api=st.sampled_from(["dated", "v3"]),
    ends=st.sampled_from(["inclusive", "exclusive"]),
)
def test_while_calls_change_the_table_is_complete_or_unchanged(
    connect: Connector,
    engine: sa.Engine,
    world: Moving,
    syncs: dict[str, Sync],
    clock: Clock,
    number: int,
    within: int,
    seed: int,
    rounds: list[list[tuple[int, int, int, int]]],
    api: str,
    ends: Any,
) -> None:
    nth = next(_some_days)
    if nth == 0:
        connect("Quiet Law")
    # A day of its own for each schedule: a database of its own would take longer than the test.
    day = DAY - timedelta(days=nth)
    window = Window.of_day(day, UTC_ZONE)
    world.date_ends = ends
    churn = Churn(world, window, random.Random(seed), within)  # noqa: S311
    churn.arrive(number)
    sync = syncs[api]
    for schedule in rounds:
        before = stored_calls(engine, QUIET, window)
        clock.now += timedelta(minutes=1)
        churn.begin(schedule)
        with world.while_asked(churn):
            (result,) = sync.sync_days([day], mode=Mode.REREAD)
        after = stored_calls(engine, QUIET, window)
        if result.state is DayState.FAILED:
            assert result.failure is FailureClass.INCOMPLETE
            assert any(map(any, schedule))
            assert after == before
            continue
        current = {i for i, row in after.items() if row["missing_since"] is None}
        assert churn.throughout <= current <= set(churn.ever)
        assert result.stored == result.api_total == len(current)
        assert not churn.throughout & (set(after) - current)
    clock.now += timedelta(minutes=1)
    (result,) = sync.sync_days([day], mode=Mode.REREAD)
    assert result.state is DayState.COMPLETE
    before = stored_calls(engine, QUIET, window)
    holds_exactly(before, listed_calls(world, QUIET, window))
    (result,) = sync.sync_days([day], mode=Mode.REREAD)
    assert (result.new, result.changed, result.missing) == (0, 0, 0)
    assert stored_calls(engine, QUIET, window) == before


def test_the_trailing_window_finds_late_fields_and_writes_them_once(
    connect: Connector, engine: sa.Engine, world: Moving, sync: Sync, clock: Clock
) -> None:
    connect("Harbor Dental")
    window = Window.of_day(DAY, UTC_ZONE)
    late = {
        "summary": "It came later.",
        "transcript": "bot:It came later.\nhuman:It did.",
        "executedCallActions": [{"actionType": "SMS", "actionName": "It came later"}],
        "extractedData": {"late": True},
    }
    clock.now = window.end + timedelta(minutes=15)
    final: dict[str, dict[str, Any]] = {}
    versions: dict[str, list[str]] = {}
    first: dict[str, dict[str, Any]] = {}
    changed_at: dict[str, datetime] = {}
    for night in range(1 + TRAILING_DAYS):
        today = clock.now.date()
        sync.sync_days(
            [today - timedelta(days=ago) for ago in range(1 + TRAILING_DAYS, 0, -1)],
            mode=Mode.REREAD,
        )
        rows = stored_calls(engine, HARBOR, window)
        final = listed_calls(world, HARBOR, window)
        holds_exactly(rows, final)
        first = first or final
        for call_id, row in rows.items():
            versions.setdefault(call_id, [])
            if row["written"] not in versions[call_id]:
                versions[call_id].append(row["written"])
                changed_at[call_id] = clock.now
            assert row["last_changed_at"] == changed_at[call_id]
        # One field a day, each of another call which was whole before.
        whole = [i for i, item in sorted(first.items()) if item.get("transcript")]
        name = list(late)[night]
        world.calls.change(HARBOR, whole[night], **{name: late[name]})
        clock.now += timedelta(days=1)
    filled_in = {i for i, item in final.items() if item != first[i]}
    assert len(filled_in) > TRAILING_DAYS  # those of the sandbox itself too
    assert all(len(versions[call_id]) == 2 for call_id in filled_in)
    assert all(len(versions[call_id]) == 1 for call_id in set(first) - filled_in)

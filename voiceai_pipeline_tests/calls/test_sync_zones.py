"""Days of any time zone: each call is in one day, at midnight and where the clocks change."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    DAYS,
    MS,
    NEW_YORK,
    QUIET,
    ledger_rows,
    location_of,
    midnight,
    stored_calls,
    table,
)

SHIFTS = {
    "America/New_York": {date(2026, 3, 8): 23.0, date(2026, 11, 1): 25.0},
    "Europe/Berlin": {date(2026, 3, 29): 23.0, date(2026, 10, 25): 25.0},
    "Australia/Lord_Howe": {date(2026, 4, 5): 24.5, date(2026, 10, 4): 23.5},
}


@pytest.fixture
def world(clock: Clock) -> Moving:
    return Moving(clock=clock, history_start=date(2000, 1, 1))


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
def test_a_call_at_midnight_lies_in_one_day_whatever_the_bounds_mean(
    ends: Any, connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    connect("Quiet Law")
    sandbox.world.date_ends = ends
    for moment in (midnight(DAY), midnight(DAY) - timedelta(milliseconds=1)):
        sandbox.world.calls.add(location_of("Quiet Law"), moment)
    for day in DAYS:
        sync.sync_days([day])
    assert [(row.day, row.stored) for row in ledger_rows(engine)] == [
        (DAYS[0], 1),
        (DAYS[1], 1),
        (DAYS[2], 0),
    ]
    assert len(table(engine)) == 2


def test_days_of_another_zone_share_no_call_and_lose_none(
    connect: Connector,
    engine: sa.Engine,
    tokens: Tokens,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Harbor Dental", "Willow Spa"):
        connect(name)
    sync = Sync(engine, tokens, client, NEW_YORK, now=clock)
    days = [date(2026, 10, 30) + timedelta(days=n) for n in range(5)]
    alone = [result for day in days for result in sync.sync_days([day])]
    together = sync.sync_days(days, mode=Mode.REREAD)
    for name in ("Harbor Dental", "Willow Spa"):
        start, end = midnight(days[0], NEW_YORK), midnight(days[-1] + timedelta(days=1), NEW_YORK)
        expected = Counter(
            datetime.fromisoformat(item["createdAt"]).astimezone(NEW_YORK).date()
            for item in sandbox.world.calls.between(location_of(name), start, end)
        )
        for results in (alone, together):
            found = {r.day: r.stored for r in results if r.user.name == name}
            assert found == {day: expected[day] for day in days}
        assert len(table(engine, name)) == expected.total()
    assert sum(r.new + r.changed + r.missing for r in together) == 0


@pytest.mark.parametrize("name", SHIFTS)
def test_where_the_clocks_change_each_call_is_in_one_day_and_the_days_add_up_to_the_range(
    name: str,
    both_dialects: str,
    connect: Connector,
    engine: sa.Engine,
    vault: TokenVault,
    sandbox: RunningSandbox,
    world: Moving,
    clock: Clock,
) -> None:
    connect("Quiet Law")
    zone = ZoneInfo(name)
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        sync = Sync(engine, tokens, client, zone, now=clock)
        for shift, hours in SHIFTS[name].items():
            days = [shift + timedelta(days=n) for n in (-1, 0, 1)]
            # Midnights by the zone's rules, not by ours.
            edges = [
                datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
                for day in [*days, days[-1] + timedelta(days=1)]
            ]
            assert (edges[2] - edges[1]) / timedelta(hours=1) == hours
            for edge in edges:
                for at in (edge - timedelta(seconds=1), edge - MS, edge, edge + MS):
                    world.calls.add(QUIET, at)
            for minutes in range(0, int(hours * 60), 17):  # both of an hour that comes twice
                world.calls.add(QUIET, edges[1] + timedelta(minutes=minutes))
            there = world.calls.between(QUIET, edges[0], edges[-1])
            expected = Counter(
                datetime.fromisoformat(item["createdAt"]).astimezone(zone).date() for item in there
            )
            assert expected[shift] == len(range(0, int(hours * 60), 17)) + 4
            alone = [result for day in days for result in sync.sync_days([day])]
            assert {r.day: r.stored for r in alone} == {day: expected[day] for day in days}
            assert {r.state for r in alone} == {DayState.COMPLETE}
            for result, end in zip(alone, edges[1:], strict=True):
                assert result.read_until == end
            rows = stored_calls(engine, QUIET, Window(edges[0], edges[-1]))
            together = sync.sync_days(days, mode=Mode.REREAD)
            assert {r.day: r.stored for r in together} == {day: expected[day] for day in days}
            assert sum(r.new + r.changed + r.missing for r in together) == 0
            assert stored_calls(engine, QUIET, Window(edges[0], edges[-1])) == rows
            assert set(rows) == {item["id"] for item in there}
            asked = (QUIET, edges[0], edges[-1] - MS)
            total = tokens.spend(
                UUID(DEMO["Quiet Law"].id),
                lambda token, asked=asked: client.call_total(token, *asked),
            )
            assert total == sum(r.stored or 0 for r in alone) == len(there)

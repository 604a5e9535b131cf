"""Any mix of messages and syncs ends in the same table (REQUIREMENTS W2, W6)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls.hinted_sync import HintedSync
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.hinted_calls import due, ended, now, pass_time, rows, tell
from voiceai_pipeline_tests.support.synced_calls import QUIET, UTC_ZONE, table
from voiceai_pipeline_tests.support.today import today_for

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "text", "vanish", "told", "forged", "read", "later", "poll"]),
        st.integers(0, 7),
    ),
    max_size=25,
)


@pytest.fixture
def clock() -> Clock:
    return Clock(now())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def polled(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, connect: Connector
) -> tuple[HintedSync, Sync]:
    today_for()
    connect("Quiet Law")
    tokens = Tokens(engine, vault, client)
    return (
        HintedSync(engine, tokens, client, UTC_ZONE),
        Sync(engine, tokens, client, UTC_ZONE),
    )


def sync_days(sync: Sync) -> None:
    today = datetime.now(UTC).date()
    sync.sync_days([today - timedelta(days=1), today], mode=Mode.REREAD)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_messages_lost_doubled_late_reordered_or_forged_change_nothing_but_freshness(
    engine: sa.Engine,
    sandbox: RunningSandbox,
    polled: tuple[HintedSync, Sync],
    steps: list[tuple[str, int]],
) -> None:
    hinted_sync, sync = polled
    book = sandbox.world.calls
    calls: list[dict[str, Any]] = []
    for step, number in steps:
        call = calls[number % len(calls)] if calls else None
        if step == "call":
            calls.append(book.add(QUIET, now() - timedelta(minutes=number * 20), summary=""))
        elif step == "text" and call:
            book.change(QUIET, call["id"], summary=f"Text {number}")
        elif step == "vanish" and call:
            book.remove(QUIET, call["id"])
            calls.remove(call)
        elif step == "told" and call:
            tell(engine, ended(call, QUIET, message_id=f"m{number}-{call['id']}"))
        elif step == "forged":
            tell(engine, ended(f"6740aa0000000000000000{number:02d}", QUIET))
        elif step == "later":
            pass_time(engine, timedelta(minutes=5 * number))
        elif step == "poll":
            sync_days(sync)
        elif step == "read":
            before = rows(engine, "SELECT * FROM sync_ledger ORDER BY day")
            assert all(hinted_sync.read(one) for one in due(engine))
            assert rows(engine, "SELECT * FROM sync_ledger ORDER BY day") == before

    sync_days(sync)
    since = now() - timedelta(hours=6)
    listed = {one["id"]: one["summary"] or None for one in book.between(QUIET, since)}
    stored = {
        row["call_id"]: row["summary"]
        for row in table(engine, "Quiet Law")
        if row["missing_since"] is None and row["started_at"] >= since
    }
    assert stored == listed

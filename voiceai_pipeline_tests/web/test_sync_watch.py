"""Following the syncs that operators asked for, with a stand-in for Dagster."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.user_syncs import SyncState
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline.web.sync_watch import SyncWatch
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn

USER = UUID(int=1)
DAY = date(2026, 11, 20)


@pytest.fixture
def watch(engine: sa.Engine, dagster: DagsterStandIn) -> SyncWatch:
    dagster.run_ids.append("run1")
    with engine.begin() as db:
        connections.add_user(db, USER, business_name="Harbor Dental")
        user_syncs.ask(db, [USER], "run1", (DAY, DAY), asked_by="me", now=datetime.now(UTC))
    return SyncWatch(engine, Dagster(dagster.url))


def stored(engine: sa.Engine) -> SyncState:
    with engine.begin() as db:
        return user_syncs.of_user(db, USER, 1)[0].state


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("QUEUED", SyncState.QUEUED),
        ("STARTED", SyncState.RUNNING),
        ("SUCCESS", SyncState.COMPLETE),
        ("FAILURE", SyncState.INCOMPLETE),
        ("CANCELED", SyncState.CANCELED),
    ],
)
def test_a_sync_is_what_its_run_is(
    engine: sa.Engine, watch: SyncWatch, dagster: DagsterStandIn, status: str, state: SyncState
) -> None:
    dagster.statuses["run1"] = status
    watch.look()

    assert stored(engine) is state
    assert bool(watch.under_way) == (state in (SyncState.QUEUED, SyncState.RUNNING))


def test_while_dagster_is_away_nothing_is_concluded(
    engine: sa.Engine, watch: SyncWatch, dagster: DagsterStandIn
) -> None:
    dagster.is_down = True
    watch.look()

    assert stored(engine) is SyncState.QUEUED
    assert len(watch.under_way) == 1


def test_a_run_that_dagster_does_not_know_is_lost_after_a_minute(
    engine: sa.Engine, watch: SyncWatch, dagster: DagsterStandIn
) -> None:
    dagster.run_ids.clear()
    watch.look()
    assert stored(engine) is SyncState.QUEUED

    with engine.begin() as db:
        a_minute = timedelta(seconds=61)
        db.execute(
            sa.text("UPDATE user_syncs SET started_at = :at"), {"at": datetime.now(UTC) - a_minute}
        )
    watch.look()
    assert stored(engine) is SyncState.LOST

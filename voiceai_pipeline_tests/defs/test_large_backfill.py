"""90 days in one backfill, asked for and read as in production: by GraphQL, the daemon
and runs in processes of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from threading import Event
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.controller import DagsterDaemonController
from dagster._daemon.daemon import BackfillDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster_webserver.app import create_app_from_workspace_process_context

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.sandbox.calls import day_start_ms
from voiceai_pipeline.sandbox.cast import DemoUser, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.today import today_for
from voiceai_pipeline_tests.support.up import graphql

pytestmark = pytest.mark.acceptance

BAD = slice(28, 34)
"""Days in two of the backfill's three runs, whose other days must not suffer."""

# A call a day and few users: what is large here are days. `make bench` and `make soak` have
# hundreds of users.
LOCATIONS = [make_location(f"Shop {number}", number, "shop", "UTC", 1) for number in range(12)]
USERS = [
    DemoUser(str(UUID(int=1 + n)), "A", "B", location.name, location.id, location.company_id)
    for n, location in enumerate(LOCATIONS)
]
BROKEN = LOCATIONS[7].id


@pytest.fixture
def days() -> list[date]:
    today = today_for()
    return [today - timedelta(days=ago) for ago in range(90, 0, -1)]


@pytest.fixture
def world(days: list[date]) -> World:
    world = World(users=tuple(USERS), locations=tuple(LOCATIONS))
    for day in days[BAD]:
        world.add_fault(Fault("server_error", BROKEN, day=day))
    return world


class EagerBackfills(BackfillDaemon):
    """Dagster's daemon for backfills, without the half minute between two looks."""

    def core_loop(self, workspace_process_context: Any, shutdown_event: Event) -> Iterator[Any]:
        while True:
            yield from execute_backfill_iteration(workspace_process_context, self._logger)
            shutdown_event.wait(0.5)
            yield None


@contextmanager
def dagster(instance: dg.DagsterInstance) -> Iterator[str]:
    """The webserver, at the address, and what the daemon does for backfills. Its sensors and
    schedules would only add runs of their own."""
    workspace = WorkspaceFileTarget([str(PROJECT / "workspace.yaml")])
    with WorkspaceProcessContext(instance, workspace) as context:
        app = create_app_from_workspace_process_context(context)
        with (
            serve_in_thread(app, listen("127.0.0.1", 0), "webserver") as url,
            EagerBackfills({}) as backfills,
            QueuedRunCoordinatorDaemon(interval_seconds=1) as queue,
            DagsterDaemonController(context, [backfills, queue]),
        ):
            yield url


def backfilled(url: str, days: list[date], title: str) -> str:
    """Ask for a backfill and wait for its end; the state it ends in."""
    Dagster(url).backfill(days, title)
    query = """{ partitionBackfillsOrError { ... on PartitionBackfills {
        results { title status endTimestamp } } } }"""

    def state() -> str | None:
        found = graphql(url, query)["partitionBackfillsOrError"]["results"]
        (one,) = [one for one in found if one["title"] == title]
        return one["status"] if one["endTimestamp"] else None

    wait_until(state)
    return str(state())


def days_that_are(colour: str, days: list[date], url: str) -> list[date]:
    """Which of these days of call_logs have this colour, by Dagster's own word."""
    query = """{ assetNodeOrError(assetKey: {path: ["call_logs"]}) { ... on AssetNode {
        assetPartitionStatuses { ... on TimePartitionStatuses {
            ranges { status startKey endKey } } } } } }"""
    ranges = graphql(url, query)["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
    return [
        day
        for day in days
        for one in ranges
        if one["status"] == colour and one["startKey"] <= str(day) <= one["endKey"]
    ]


# Dagster's own programs, in this process, call what Dagster deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_backfill_with_a_broken_user_is_red_where_it_must_be_and_the_rerun_asks_for_them_alone(
    product: Product, days: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_days = days[BAD]
    monkeypatch.setenv("VOICEAI_START_DATE", str(days[0]))
    for user in USERS:
        product.connect(user.business_name)
    listed = {
        (location.id, call.id)
        for location in LOCATIONS
        for call in product.sandbox.world.calls.outlines(
            location, day_start_ms(days[0]), day_start_ms(product.today) - 1
        )
    }
    with dagster(product.instance) as url:
        assert backfilled(url, days, "Everything") == "COMPLETED_FAILED"
        assert days_that_are("FAILED", days, url) == bad_days
        assert days_that_are("MATERIALIZED", days, url) == [
            day for day in days if day not in bad_days
        ]
        before = versions(product)
        assert {location for location, _ in listed - before.keys()} == {BROKEN}
        assert before.keys() <= listed

        product.sandbox.world.heal(BROKEN)
        with product.requests() as asked:
            assert backfilled(url, bad_days, "Failed and missing") == "COMPLETED_SUCCESS"
        # One window, however many days.
        assert asked == {(CALL_LOGS, BROKEN): 1}
        assert days_that_are("MATERIALIZED", days, url) == days
        after = versions(product)
        assert after.keys() == listed
        # Nor is anything written for another user.
        assert {location for (location, _), _ in after.items() ^ before.items()} == {BROKEN}


def versions(product: Product) -> dict[tuple[str, str], str]:
    """Which version of its row each stored call has: a new one whenever it is written."""
    query = "SELECT location_id, call_id, xmin::text AS version FROM call_logs"
    with product.pipeline.engine.begin() as db:
        return {(row[0], row[1]): row[2] for row in db.execute(sa.text(query))}

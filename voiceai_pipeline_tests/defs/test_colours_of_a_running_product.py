"""Whatever happens to the runs of a running product, the red days are the incomplete ones.

The tests are ordered: each continues where the previous one stopped. No sensor but the one for
colours changes anything meanwhile: failed days are retried after 15 minutes only.
"""

import os
import signal
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests

from voiceai_pipeline.defs import partitions
from voiceai_pipeline.web.dagster_client import ENDED, Dagster
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import Up, graphql

pytestmark = pytest.mark.acceptance

COPPER, HARBOR = DEMO["Copper Kettle Catering"], DEMO["Harbor Dental"]
BROKEN = [DEMO[name] for name in ("Copper Kettle Catering", "Maple Plumbing", "Pine Realty")]

INCOMPLETE = """
    SELECT DISTINCT l.day::text FROM sync_ledger l, api_keys k
    WHERE k.connection_state = 'connected' AND NOT EXISTS (
        SELECT FROM sync_ledger mine WHERE mine.user_id = k.user_id AND mine.day = l.day
            AND mine.location_id = k.location_id AND mine.state = 'complete')
"""
"""The days that the ledger holds incomplete."""


class Demo(Up):
    """The demo, its colours and its runs."""

    @property
    def dagster(self) -> Dagster:
        return Dagster(self.url)

    def colours(self) -> dict[str, str]:
        """The status of each day as the UI shows it; missing days are absent."""
        query = """{ assetNodeOrError(assetKey: {path: ["call_logs"]}) { ... on AssetNode {
            assetPartitionStatuses { ... on TimePartitionStatuses {
                ranges { status startKey endKey } } } } } }"""
        found = graphql(self.url, query)["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
        colours: dict[str, str] = {}
        for one in found:
            first, last = (date.fromisoformat(one[name]) for name in ("startKey", "endKey"))
            for ago in range((last - first).days + 1):
                colours[str(first + timedelta(days=ago))] = one["status"]
        return colours

    def red(self) -> set[str]:
        return {day for day, colour in self.colours().items() if colour == "FAILED"}

    def incomplete(self) -> set[str]:
        return {day for (day,) in self.ask(INCOMPLETE)}

    def is_true(self) -> bool:
        """Whether every day is red or green as the ledger has it, and none is in progress."""
        colours = self.colours()
        incomplete = self.incomplete()
        return all(
            colour == ("FAILED" if day in incomplete else "MATERIALIZED")
            for day, colour in colours.items()
        )

    def fault(self, **fields: Any) -> None:
        answer = requests.post(f"{self.sandbox}/sandbox/faults", json=fields, timeout=30)
        answer.raise_for_status()

    def heal(self) -> None:
        requests.delete(f"{self.sandbox}/sandbox/faults", timeout=30).raise_for_status()

    def requested(self) -> list[str]:
        """The locations asked about since the last time."""
        asked = requests.get(f"{self.sandbox}/sandbox/requests", timeout=30).json()
        requests.delete(f"{self.sandbox}/sandbox/requests", timeout=30).raise_for_status()
        return [one["location_id"] for one in asked]

    def ended(self, run_id: str) -> str:
        """Wait for the end of a run; its status."""

        def status() -> str:
            run = self.dagster.run(run_id)
            assert run is not None
            return run.status

        wait_until(lambda: status() in ENDED)
        return status()

    def launch(self, job: str, days: list[date] | None = None) -> str:
        """Launch a run of a job, over consecutive days as each run of a backfill is; its id. If it
        crashes, Dagster does not start it again."""
        tags = {"dagster/max_retries": "0"}
        if days:
            tags |= partitions.range_tags(days[0], days[-1])
        listed = ", ".join(f'{{key: "{key}", value: "{value}"}}' for key, value in tags.items())
        query = f"""mutation {{ launchRun(executionParams: {{
            selector: {{ repositoryLocationName: "voiceai_pipeline",
                         repositoryName: "__repository__", jobName: "{job}" }}
            executionMetadata: {{ tags: [{listed}] }}
        }}) {{ ... on LaunchRunSuccess {{ run {{ runId }} }} }} }}"""
        run_id: str = graphql(self.url, query)["launchRun"]["run"]["runId"]
        return run_id


@pytest.fixture(scope="module")
def demo(running_product: Up, week: list[date]) -> Demo:
    """Green days of twelve users."""
    demo = Demo(**vars(running_product))
    demo.heal()
    # Calls that HighLevel announces are read at any time; these tests count what colours ask for.
    requests.post(f"{demo.sandbox}/sandbox/pause-delivery", timeout=30).raise_for_status()
    demo.ask("WITH gone AS (DELETE FROM call_hints RETURNING 1) SELECT count(*) FROM gone")
    wait_until(demo.is_true)
    demo.ended(demo.launch("sync_calls", week))
    wait_until(lambda: not demo.red() and demo.is_true())
    return demo


def test_a_failed_sync_now_of_one_user_makes_its_day_red(demo: Demo, week: list[date]) -> None:
    demo.fault(kind="server_error", location_id=COPPER.location_id, day=str(week[1]), status=503)
    run_id = demo.dagster.launch_sync([week[1]], [UUID(COPPER.id)], "a test")
    assert demo.ended(run_id) == "FAILURE"
    wait_until(demo.is_true)
    assert demo.red() == {str(week[1])}


def test_after_a_cancelled_backfill_exactly_the_incomplete_days_are_red(
    demo: Demo, week: list[date]
) -> None:
    for user in BROKEN:
        for day in week[2:4]:
            demo.fault(kind="server_error", location_id=user.location_id, day=str(day), status=503)
    demo.fault(kind="latency", location_id=HARBOR.location_id, seconds=10)
    run_id = demo.launch("sync_calls", week)
    wait_until(lambda: {str(week[2]), str(week[3])} <= demo.incomplete())
    terminate = f'mutation {{ terminateRun(runId: "{run_id}") {{ __typename }} }}'
    assert graphql(demo.url, terminate)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert demo.ended(run_id) == "CANCELED"
    demo.requested()
    wait_until(demo.is_true)
    assert {str(week[2]), str(week[3])} <= demo.red() < set(map(str, week))
    # The sandbox counts a slow request when it answers: one was under way at the cancellation.
    assert set(demo.requested()) <= {HARBOR.location_id}


def test_after_a_run_that_was_killed_before_its_first_step_the_complete_days_are_green(
    demo: Demo, week: list[date]
) -> None:
    red = demo.red()
    run_id = demo.launch("sync_calls", week)
    started = (
        "SELECT substring(event from 'Started process for run \\(pid: (\\d+)\\)') "  # noqa: S608
        f"FROM event_logs WHERE run_id = '{run_id}' AND event LIKE '%Started process for run%'"
    )
    wait_until(lambda: demo.ask(started, database="dagster"))
    ((pid,),) = demo.ask(started, database="dagster")
    os.kill(int(pid), signal.SIGKILL)
    assert demo.ended(run_id) == "FAILURE"
    wait_until(demo.is_true)
    assert demo.red() == red
    assert demo.requested() == []


def test_a_day_that_reconciliation_opens_is_red(demo: Demo, week: list[date]) -> None:
    demo.heal()
    ((call,),) = demo.ask(
        "SELECT call_id FROM call_logs "  # noqa: S608
        f"WHERE location_id = '{HARBOR.location_id}' AND started_at::date = '{week[5]}' LIMIT 1"
    )
    gone = {"location_id": HARBOR.location_id, "remove": call}
    requests.post(f"{demo.sandbox}/sandbox/calls", json=gone, timeout=30).raise_for_status()
    red = demo.red()
    demo.ended(demo.launch("reconcile"))
    demo.requested()
    wait_until(demo.is_true)
    assert demo.red() == red | {str(week[5])}
    assert demo.requested() == []


def test_a_sync_of_no_users_changes_no_colour(demo: Demo, week: list[date]) -> None:
    colours = demo.colours()
    assert demo.ended(demo.dagster.launch_sync([week[4]], [], "a test")) == "FAILURE"
    assert demo.colours() == colours
    assert demo.requested() == []


def test_failed_and_missing_asks_about_exactly_the_missing_users(demo: Demo) -> None:
    missing = demo.ask(
        "SELECT DISTINCT k.location_id FROM sync_ledger l JOIN api_keys k USING (user_id) "
        "WHERE l.state = 'failed' AND k.connection_state = 'connected'"
    )
    red = [date.fromisoformat(day) for day in sorted(demo.red())]
    demo.dagster.backfill(red, "Failed and missing")
    wait_until(lambda: not demo.red() and demo.is_true())
    assert set(demo.requested()) == {location for (location,) in missing}
    assert demo.incomplete() == set()

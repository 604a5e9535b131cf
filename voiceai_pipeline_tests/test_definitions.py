"""What Dagster loads: the exact set of names, without an environment and without I/O."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import dagster as dg
import pytest

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import schedules

_LOAD_WITHOUT_IO = """
import sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        raise RuntimeError(f"definitions did I/O: {event}")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise RuntimeError(f"definitions wrote {args[0]}")

import dagster  # its own start-up is not ours to judge
sys.addaudithook(refuse)
from voiceai_pipeline.definitions import defs
defs.resolve_all_asset_specs()
defs.get_repository_def()
"""


def test_definitions_load_without_environment_and_without_io() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", _LOAD_WITHOUT_IO],
        env={"PATH": os.environ["PATH"]},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_location_holds_exactly_these_names() -> None:
    repository = defs.get_repository_def()
    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()} == {
        "user_tokens",
        "refreshed_credentials",
        "call_logs",
        "sync_status",
        "reconciliation",
        "agents",
        "locations",
        "daily_call_metrics",
        "agent_performance",
        "hourly_activity",
        "action_metrics",
        "data_capture_metrics",
        "outcome_metrics",
        "language_metrics",
        "period_metrics",
        "agent_period_metrics",
    }
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "sync_calls",
        "sync_users",
        "resync_failed_users",
        "refresh_tokens",
        "inspect_connections",
        "send_alerts",
        "reconcile",
        "build_marts",
        "update_directory",
        "update_sync_status",
        "correct_colours",
        "help_sync",
        "purge_old_calls",
        "purge_old_runs",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "expiring_tokens",
        "connection_alerts",
        "failed_user_syncs",
        "new_users",
        "stale_marts",
        "wrong_colours",
        "silent_runs",
        "open_work",
        "stale_users",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "yesterday_and_trailing_window",
        "today_so_far",
        "reconciliation_every_night",
        "directory_every_morning",
        "connections_every_morning",
        "old_calls_every_night",
        "old_runs_every_night",
    }
    assert {
        (key.asset_key.to_user_string(), key.name)
        for key in repository.asset_graph.asset_check_keys
    } == {
        ("user_tokens", "no_connection_needs_a_person"),
        ("call_logs", "every_connected_user_is_complete"),
        ("call_logs", "no_user_waits_for_a_person"),
        ("call_logs", "no_call_was_set_aside"),
        ("daily_call_metrics", "the_marts_add_up_to_the_calls"),
        ("call_logs", "no_call_is_stored_twice"),
        ("call_logs", "every_action_type_is_known"),
        ("call_logs", "volume_is_within_its_usual_band"),
        ("sync_status", "every_connected_user_is_up_to_date"),
        ("reconciliation", "stored_calls_equal_highlevels_totals"),
    }


def test_every_asset_job_sensor_and_schedule_says_in_plain_words_what_it_does() -> None:
    repository = defs.get_repository_def()
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.group_name, spec.key
        assert "dagster/table_name" in spec.metadata, spec.key
        if spec.key != dg.AssetKey("sync_status"):  # its first screen is for the day's answer
            columns = spec.metadata["dagster/column_schema"].columns
            assert all(column.description for column in columns), spec.key
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    for noun in (*jobs, *repository.sensor_defs, *repository.schedule_defs):
        assert noun.description, noun.name


def test_the_nightly_schedule_reads_yesterday_and_the_three_days_before_for_all_users() -> None:
    moment = datetime(2026, 11, 23, 0, 15, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=moment)
    request = schedules.yesterday_and_trailing_window(context)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2026-11-19"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-11-22"
    assert request.run_config == {"ops": {"call_logs": {"config": {"reread": True}}}}


def test_the_day_schedule_reads_today_so_far() -> None:
    moment = datetime(2026, 11, 23, 9, 45, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=moment)
    request = schedules.today_so_far(context)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2026-11-23"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-11-23"


def test_a_trailing_window_never_reaches_before_the_first_partition() -> None:
    moment = datetime(2025, 1, 3, 0, 15, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=moment)
    request = schedules.yesterday_and_trailing_window(context)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2025-01-01"


@pytest.mark.parametrize(
    ("schedule", "moment"),
    [
        (schedules.yesterday_and_trailing_window, datetime(2025, 1, 1, 0, 15, tzinfo=UTC)),
        (schedules.today_so_far, datetime(2024, 12, 31, 9, 45, tzinfo=UTC)),
    ],
)
def test_before_the_first_day_is_there_a_schedule_asks_for_nothing(
    schedule: dg.ScheduleDefinition, moment: datetime
) -> None:
    said = schedule(dg.build_schedule_context(scheduled_execution_time=moment))
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "The first day that can be synced is 2025-01-01."

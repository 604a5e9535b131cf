"""Calls that are no longer kept, in the whole product: their days stay green, and are not read."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.kept_days import kept_since
from voiceai_pipeline.defs import partitions, schedules, sensors
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline_tests.support.dagster_runs import cell, failure_of, tick
from voiceai_pipeline_tests.support.product import Product


def failed(demo: Product, day: date) -> None:
    """Let a sync of the day have failed for its users, days ago."""
    with demo.pipeline.engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE sync_ledger SET state = 'failed', failure_class = 'provider_error', "
                "attempt = 1, read_until = NULL, finished_at = now() - interval '3 days' "
                "WHERE day = :day AND state = 'complete'"
            ),
            {"day": day},
        )


def test_deleted_days_are_neither_red_nor_missing_and_nothing_reads_them_again(
    demo: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test of it all: deleting, colours, sensors, backfills and a sync by hand."""
    since = kept_since(demo.today, 60)
    assert since is not None
    red, last = since - timedelta(days=2), since - timedelta(days=1)
    month = day_range(last.replace(day=1), last)
    assert demo.sync([red, last]).success
    failed(demo, red)
    monkeypatch.setenv("VOICEAI_KEEP_CALLS_DAYS", "60")

    early = demo.run("purge_old_calls")
    assert f"The calls of {last:%Y-%m} and of the months after it" in failure_of(early)
    built = demo.run("build_marts", tags=partitions.range_tags(red, last))
    assert built.success
    deleted = demo.run("purge_old_calls")
    assert deleted.success
    facts = deleted.events_for_node("delete_old_calls")
    (output,) = [e.event_specific_data for e in facts if e.event_type_value == "STEP_OUTPUT"]
    assert output.metadata["kept_since"].value == str(since)
    assert output.metadata["calls_deleted"].value > 50
    assert output.metadata["months"].value == f"{last:%Y-%m}"

    # Also those that were never read: "Failed and missing" must not ask for them.
    assert set(month) <= demo.days("call_logs")
    assert "deleted because of their age" in cell(demo, "call_logs", month[0])["no_longer_kept"]
    # Its marts stay in step with it: another materialization would call them out of date.
    assert cell(demo, "call_logs", last)["calls"] > 0
    for day in (red, last, month[0]):
        assert "calls" not in cell(demo, "sync_status", day)
        assert "No longer kept" in cell(demo, "sync_status", day)["is_this_day_complete"]
    for sensor in (sensors.failed_user_syncs, sensors.wrong_colours, sensors.stale_marts):
        assert not tick(demo, sensor).run_requests
    assert not [
        request
        for request in tick(demo, sensors.new_users).run_requests or ()
        if str(last) in request.tags.values()
    ]

    with demo.requests() as asked:
        again = demo.sync([red, last], reread=True)
        assert again.success
        harbor = {"user_ids": [DEMO_USERS[0].id], "first": str(red), "last": str(last)}
        config = {"ops": {"read_user_days": {"config": harbor}}}
        by_hand = failure_of(demo.run("sync_users", run_config=config))
    assert not asked
    assert f"{red} is before {since}: calls before that are no longer kept" in by_hand
    assert "set a higher number and restart" in by_hand
    assert not demo.calls()


def test_the_schedule_runs_only_where_a_limit_is_set() -> None:
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 11, 20, 2, 45, tzinfo=UTC)
    )
    skipped = schedules.old_calls_every_night(context)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "VOICEAI_KEEP_CALLS_DAYS is not set: all calls are kept."
    assert schedules.old_calls_every_night.cron_schedule == "45 2 * * *"

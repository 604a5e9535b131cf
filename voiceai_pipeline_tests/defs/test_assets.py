"""The assets on a real instance: what a sync, a refresh and a reconciliation leave."""

import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli import launch
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import sensors
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    WAITING,
    cell,
    checks_of,
    execute,
    failure_of,
    tick,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import Product


def test_a_bad_day_is_red_and_a_rerun_reads_only_the_users_that_failed(demo: Product) -> None:
    result = demo.sync(demo.week)

    assert not result.success
    assert demo.days("call_logs") == set(demo.week) - {demo.bad_day}
    assert demo.days("sync_status") == set(demo.week)
    text = failure_of(result)
    assert "1 user failed on 1 day" in text
    assert f"{COPPER}, {demo.bad_day}: HighLevel answered with a server error" in text
    assert "Failed and missing" in text
    check = checks_of(result)["every_connected_user_is_complete"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert COPPER in str(check.description)

    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    with demo.requests() as asked:
        fixed = demo.sync([demo.bad_day])

    assert fixed.success
    assert checks_of(fixed)["every_connected_user_is_complete"].passed
    assert asked == {("/voice-ai/dashboard/call-logs", DEMO[COPPER].location_id): 1}
    assert demo.days("call_logs") == set(demo.week)


def test_users_who_need_action_turn_no_day_red_and_are_named_with_the_fix(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    result = demo.sync(demo.week)

    assert result.success
    assert demo.days("call_logs") == set(demo.week)
    warning = checks_of(result)["no_user_waits_for_a_person"]
    assert not warning.passed
    assert warning.severity is dg.AssetCheckSeverity.WARN
    for name in WAITING:
        assert name in str(warning.description)
    assert f"voiceai-pipeline connect {DEMO['Larch Auto Care'].id}" in str(warning.description)
    assert checks_of(result)["every_connected_user_is_complete"].passed


def test_every_call_of_every_connected_user_is_stored_once(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    start = datetime.combine(demo.week[0], datetime.min.time(), UTC)
    connected = {u.location_id for u in DEMO_USERS if u.business_name not in WAITING}
    expected = {
        (location_id, call["id"])
        for location_id in connected
        for call in demo.sandbox.world.calls.between(location_id, start, start + timedelta(days=7))
    }
    assert len(expected) > 500
    assert sorted((location_id, call) for location_id, call, _ in demo.calls()) == sorted(expected)


def test_a_green_day_that_is_materialized_again_is_re_synced_and_changes_nothing(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    day = demo.week[-1]
    demo.sync([day])
    with demo.pipeline.engine.begin() as db:
        before = db.execute(sa.text("SELECT call_id, xmin FROM call_logs ORDER BY 1")).all()
    with demo.requests() as asked:
        assert demo.sync([day]).success
    with demo.pipeline.engine.begin() as db:
        after = db.execute(sa.text("SELECT call_id, xmin FROM call_logs ORDER BY 1")).all()
    assert len(asked) == 7  # seven locations can be read
    assert after == before


def test_however_the_days_are_asked_for_the_same_calls_arrive(
    demo: Product,
) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    days = demo.week[-3:]

    def empty() -> None:
        with demo.pipeline.engine.begin() as db:
            db.execute(sa.text("TRUNCATE call_logs, sync_ledger, sync_status"))

    def by_range() -> None:
        demo.sync(days)

    def by_partition() -> None:
        for day in days:
            demo.run("sync_calls", partition_key=str(day))

    def by_command_line() -> None:
        assert launch.sync_calls(demo.pipeline.engine, days, None, only_failed=False) is None

    def by_materialize() -> None:
        asset = defs.get_assets_def("call_logs")
        resources = defs.get_repository_def().get_top_level_resources()
        for day in days:
            assert dg.materialize(
                [asset],
                partition_key=str(day),
                instance=demo.instance,
                resources={name: resources[name] for name in ("pipeline", "settings")},
                selection=[asset],
            ).success

    seen = []
    for way in (by_range, by_partition, by_materialize):
        empty()
        way()
        seen.append(demo.calls())
    os.environ["DAGSTER_HOME"] = str(PROJECT)
    try:
        empty()
        by_command_line()
        seen.append(demo.calls())
    finally:
        del os.environ["DAGSTER_HOME"]
    assert seen[0]
    assert all(calls == seen[0] for calls in seen)


def test_a_run_for_one_user_does_not_turn_a_day_green_that_others_have_not_been_read_for(
    product: Product,
) -> None:
    product.connect("Pine Realty")
    product.connect("Maple Plumbing")
    result = product.sync(product.week[-1:], user_ids=[DEMO["Pine Realty"].id])
    assert result.success
    assert product.days("call_logs") == set()
    check = checks_of(result)["every_connected_user_is_complete"]
    assert not check.passed
    assert "Maple Plumbing" in str(check.description)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"user_ids": ["x'; DROP TABLE users;--"]}, "A user is named by id"),
        ({"user_ids": ["00000000-0000-4000-8000-00000000ffff"]}, "No user with id"),
        ({"only_failed": True, "reread": True}, "contradict each other"),
    ],
)
def test_run_config_that_makes_no_sense_fails_with_a_sentence_and_no_request(
    product: Product, config: dict[str, Any], sentence: str
) -> None:
    with product.requests() as asked:
        result = product.sync(product.week[-1:], **config)
    assert not result.success
    assert sentence in failure_of(result)
    assert not asked


def test_an_unreachable_highlevel_turns_the_day_red_with_a_sentence(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.connect("Pine Realty")
    monkeypatch.setenv("HIGHLEVEL_API_URL", "http://127.0.0.1:9")
    result = product.sync(product.week[-1:])
    assert "HighLevel could not be reached" in failure_of(result)
    assert product.days("call_logs") == set()


def test_a_day_that_no_longer_matches_highlevels_total_is_shown_and_fixed_automatically(
    product: Product,
) -> None:
    pine, harbor = product.connect("Pine Realty"), product.connect("Harbor Dental")
    assert product.sync(product.week).success
    day = product.week[1]
    moment = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=9)
    late = product.sandbox.world.calls.add(str(pine.location_id), moment)
    held = len([c for c in product.calls() if c[0] == pine.location_id])

    result = product.run("reconcile")
    assert result.success
    check = checks_of(result)["stored_calls_equal_highlevels_totals"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert f"1 of {2 * len(product.week)} days compared differ." in str(check.description)
    (shown,) = [m for m in result.asset_materializations_for_node("reconciliation")
                if m.asset_key == dg.AssetKey("reconciliation")]  # fmt: skip
    facts = {name: value.value for name, value in shown.metadata.items()}
    line = facts.pop("differences").splitlines()[2]
    assert str(day) in line
    assert str(pine.location_name or pine.location_id) in line
    assert "+1" in line
    assert facts == {
        "days_checked": 2 * len(product.week),
        "days_that_differ": 1,
        "days_opened": 1,
        "days_without_total": 0,
        "calls_to_fetch": 1,
        "calls_gone_upstream": 0,
        "locations_asked": 2,
        "locations_not_asked": 0,
    }
    assert _users_failed(product, day) == 1

    assert not tick(product, sensors.failed_user_syncs).run_requests
    execute(product, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    (request,) = tick(product, sensors.failed_user_syncs).run_requests or ()
    with product.requests() as asked:
        assert product.run(
            str(request.job_name), tags=dict(request.tags), run_config=request.run_config
        ).success
    assert asked == {("/voice-ai/dashboard/call-logs", pine.location_id): 1}
    stored = [c[1] for c in product.calls() if c[0] == pine.location_id]
    assert len(stored) == held + 1
    assert late["id"] in stored
    assert _users_failed(product, day) == 0

    with product.requests() as asked:
        result = product.run("reconcile")
    assert checks_of(result)["stored_calls_equal_highlevels_totals"].passed
    assert asked == {
        ("/voice-ai/dashboard/call-logs", user.location_id): 1 for user in (pine, harbor)
    }


def test_a_location_that_cannot_be_asked_for_its_totals_turns_only_that_run_red(
    product: Product,
) -> None:
    pine, harbor = product.connect("Pine Realty"), product.connect("Harbor Dental")
    larch = product.connect("Larch Auto Care")
    assert product.sync(product.week).success
    product.sandbox.world.add_fault(Fault("forbidden_location", str(harbor.location_id)))
    product.sandbox.world.set_envelope(str(pine.location_id), "no_total")
    result = product.run("reconcile")
    assert result.success  # a wrong location needs action
    description = str(checks_of(result)["stored_calls_equal_highlevels_totals"].description)
    assert f"0 of {len(product.week)} days compared differ." in description
    assert f"HighLevel gave no total for {len(product.week)} more." in description
    assert "Locations whose totals could not all be read: 1." in description

    product.sandbox.world.add_fault(Fault("server_error", str(larch.location_id)))
    result = product.run("reconcile")
    assert not result.success
    assert "Totals could not all be read for 1 of 2 locations" in failure_of(result)
    assert "HighLevel answered with a server error" in failure_of(result)
    assert "stored_calls_equal_highlevels_totals" in checks_of(result)
    assert product.days("call_logs") == set(product.week)


def _users_failed(product: Product, day: date) -> Any:
    """What the day's newest cell of ``sync_status`` says."""
    return cell(product, "sync_status", day)["users_failed"]


def test_the_directory_keeps_names_and_skips_users_who_need_action(demo: Product) -> None:
    assert demo.sync(demo.week[-1:]).success  # finds out who waits
    assert demo.run("update_directory").success
    with demo.pipeline.engine.begin() as db:
        names = set(db.execute(sa.text("SELECT name FROM voiceai_agents")).scalars())
        zones = dict(db.execute(sa.text("SELECT name, timezone FROM locations")).all())
    assert {"Front desk", "After hours"} <= names
    assert zones["Northwind Motors"] == "Europe/Berlin"

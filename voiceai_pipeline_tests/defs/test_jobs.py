"""The jobs on a real instance: syncing some users' days and refreshing tokens."""

from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.defs import partitions
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    EXPIRE,
    cell,
    execute,
    failure_of,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import Product


def test_a_sync_of_one_user_leaves_a_day_as_it_stands_for_all_users(demo: Product) -> None:
    assert not demo.sync(demo.week[-4:]).success
    harbor = DEMO["Harbor Dental"].id
    days = {"first": str(demo.week[-4]), "last": str(demo.week[-1])}
    config = {"ops": {"read_user_days": {"config": {"user_ids": [harbor], **days}}}}
    run = demo.run("sync_users", run_config=config)
    assert run.success
    # No run of the asset: its red stays, for it is the last run that was to fill the day.
    assert not [e for e in run.all_events if e.is_asset_materialization_planned]
    assert demo.bad_day not in demo.days("call_logs")
    copper = {"ops": {"read_user_days": {"config": {"user_ids": [DEMO[COPPER].id], **days}}}}
    assert COPPER in failure_of(demo.run("sync_users", run_config=copper))
    demo.sandbox.world.clear_faults()
    assert demo.run("sync_users", run_config=copper).success
    assert demo.bad_day in demo.days("call_logs")
    bad = {"ops": {"read_user_days": {"config": {"user_ids": [harbor], "first": "x", "last": "y"}}}}
    assert "YYYY-MM-DD" in failure_of(demo.run("sync_users", run_config=bad))


def test_after_credentials_were_changed_the_first_rerun_reads_every_user_and_a_schedule_waits(
    demo: Product,
) -> None:
    """The circuit is open, and its next probe is an hour away."""
    demo.sandbox.world.clear_faults()
    execute(demo, EXPIRE)
    execute(
        demo,
        "UPDATE token_circuit SET failures = 5, reason = 'client_refused', opened_at = now(), "
        "next_probe_at = now() + interval '1 hour', failing_since = now()",
    )
    tags = {"dagster/schedule_name": "today_so_far"}
    days = partitions.range_tags(demo.yesterday, demo.yesterday)
    with demo.requests() as asked:
        assert not demo.run("sync_calls", tags={**days, **tags}).success
    assert not asked
    assert demo.sync([demo.yesterday]).success
    assert demo.yesterday in demo.days("call_logs")


def test_a_sync_that_names_a_paused_user_finds_out_that_the_pause_is_over(demo: Product) -> None:
    willow = DEMO["Willow Spa"]
    demo.sandbox.world.clear_faults()
    assert demo.sync([demo.yesterday]).success
    demo.sandbox.world.resume(str(willow.location_id))
    with demo.requests() as asked:
        assert demo.sync([demo.yesterday]).success
    assert str(willow.location_id) not in {location for _, location in asked}
    days = {"first": str(demo.yesterday), "last": str(demo.yesterday)}
    config = {"ops": {"read_user_days": {"config": {"user_ids": [willow.id], **days}}}}
    assert demo.run("sync_users", run_config=config).success
    assert cell(demo, "sync_status", demo.yesterday)["users_complete"] == 9


def test_user_tokens_shows_every_user_and_refreshed_credentials_only_the_valid_ones(
    demo: Product,
) -> None:
    user_ids = [user.id for user in DEMO_USERS]
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": user_ids}}}}
    assert demo.run("refresh_tokens", run_config=config).success
    shown = demo.instance.get_materialized_partitions(dg.AssetKey("user_tokens"))
    valid = demo.instance.get_materialized_partitions(dg.AssetKey("refreshed_credentials"))
    assert shown == set(user_ids)
    assert shown - valid == {DEMO["Juniper Fitness"].id, DEMO["Cedar Vets"].id}


def test_one_token_that_cannot_be_refreshed_leaves_the_others_refreshed(demo: Product) -> None:
    pine, maple = DEMO["Pine Realty"], DEMO["Maple Plumbing"]
    with demo.pipeline.engine.begin() as db:
        db.execute(sa.text(EXPIRE))
        db.execute(
            sa.text("UPDATE api_keys SET refresh_token = 'enc:v1:gone:AAAA' WHERE user_id = :id"),
            {"id": pine.id},
        )
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": [pine.id, maple.id]}}}}
    result = demo.run("refresh_tokens", run_config=config)
    assert "1 of 2 tokens could not be refreshed" in failure_of(result)
    assert "cannot be decrypted" in failure_of(result)
    with demo.pipeline.engine.begin() as db:
        refreshed = connections.one(db, UUID(maple.id))
    assert refreshed is not None
    assert refreshed.token_version == 2


def test_who_is_paused_or_must_reconnect_turns_no_refresh_red(demo: Product) -> None:
    execute(demo, EXPIRE)
    assert demo.run("refresh_tokens").success
    with demo.pipeline.engine.begin() as db:
        states = {one.user.name: one.state for one in connections.all_connections(db)}
    assert states["Willow Spa"] is ConnectionState.PAUSED
    assert states["Larch Auto Care"] is ConnectionState.NEEDS_RECONNECT
    assert states["Pine Realty"] is ConnectionState.CONNECTED


def test_a_reason_that_stops_every_refresh_is_said_once_with_the_fix(
    demo: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(demo, EXPIRE)
    monkeypatch.setenv("HIGHLEVEL_CLIENT_SECRET", "wrong")
    demo.run("refresh_tokens")
    text = failure_of(demo.run("refresh_tokens")).partition("Stack Trace")[0]
    assert text.count("token refresh is suspended for all users since") == 1
    assert text.count("Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET") == 1
    assert "no user has to reconnect" in text
    with demo.pipeline.engine.begin() as db:
        states = {one.user.name: one.state for one in connections.all_connections(db)}
    assert states["Larch Auto Care"] is ConnectionState.CONNECTED  # its revocation is not known yet

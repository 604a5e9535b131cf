"""The sensors on a real instance: which runs a tick asks for, and when it asks for none."""

from datetime import timedelta
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import partitions, run_requests, sensors
from voiceai_pipeline.sandbox.cast import DEMO_USERS
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    EXPIRE,
    execute,
    tick,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.product import Product


def test_the_token_sensor_skips_when_nothing_expires(product: Product) -> None:
    product.connect("Pine Realty")
    result = tick(product, sensors.expiring_tokens)
    assert not result.run_requests
    assert "No token is due" in str(result.skip_reason)


def test_expiring_and_long_expired_tokens_are_asked_for_in_one_run(product: Product) -> None:
    pine, maple = product.connect("Pine Realty"), product.connect("Maple Plumbing")
    product.connect("Harbor Dental")
    expire = (
        "UPDATE api_keys SET token_expires_at = now() + CAST(:left AS interval), "
        "refresh_at = now() + CAST(:left AS interval) - interval '30 minutes', "
        "refreshed_at = now() + CAST(:left AS interval) - interval '1 day' WHERE user_id = :id"
    )
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text(expire), {"left": "20 minutes", "id": pine.user.id})
        db.execute(sa.text(expire), {"left": "-300 days", "id": maple.user.id})
    (request,) = tick(product, sensors.expiring_tokens).run_requests or ()
    users = request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"]
    assert set(users) == {str(pine.user.id), str(maple.user.id)}
    assert product.run("refresh_tokens", run_config=request.run_config).success
    assert not tick(product, sensors.expiring_tokens).run_requests


def test_a_sensor_asks_highlevel_nothing(demo: Product) -> None:
    execute(demo, EXPIRE)
    with demo.requests() as asked:
        for sensor in (
            sensors.expiring_tokens,
            sensors.connection_alerts,
            sensors.failed_user_syncs,
            sensors.new_users,
            sensors.wrong_colours,
        ):
            tick(demo, sensor)
    assert not asked


def test_a_failed_day_is_asked_for_again_after_a_while_for_that_user_only(demo: Product) -> None:
    demo.sync(demo.week)
    assert not tick(demo, sensors.failed_user_syncs).run_requests
    execute(demo, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    (request,) = tick(demo, sensors.failed_user_syncs).run_requests or ()
    config = request.run_config["ops"]["call_logs"]["config"]
    assert config == {"user_ids": [DEMO[COPPER].id], "only_failed": True}
    assert request.tags["dagster/asset_partition_range_start"] == str(demo.bad_day)
    assert request.tags["dagster/asset_partition_range_end"] == str(demo.bad_day)


def test_after_too_many_failures_a_day_is_retried_by_hand_only(demo: Product) -> None:
    demo.sync(demo.week)
    execute(demo, "UPDATE sync_ledger SET finished_at = now() - interval '30 days', attempt = 7")
    assert not tick(demo, sensors.failed_user_syncs).run_requests


def test_a_failed_day_of_a_user_who_has_disconnected_since_is_not_asked_for(demo: Product) -> None:
    demo.sync([demo.bad_day])
    execute(demo, "UPDATE sync_ledger SET finished_at = finished_at - interval '16 minutes'")
    demo.pipeline.consent.disconnect(UUID(DEMO[COPPER].id))
    assert not tick(demo, sensors.failed_user_syncs).run_requests


def test_users_who_need_action_are_not_retried(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    execute(demo, "UPDATE sync_ledger SET finished_at = now() - interval '30 days'")
    assert not tick(demo, sensors.failed_user_syncs).run_requests
    assert not [
        r
        for r in tick(demo, sensors.new_users).run_requests or ()
        if r.job_name == "resync_failed_users"
    ]


def test_every_user_gets_a_partition_keyed_by_id_and_is_recorded_once(demo: Product) -> None:
    result = tick(demo, sensors.new_users)
    (request,) = result.dynamic_partitions_requests or ()
    assert set(request.partition_keys) == {user.id for user in DEMO_USERS}
    names = [r.job_name for r in result.run_requests or ()]
    assert {"refresh_tokens", "update_directory"} <= set(names)
    demo.instance.add_dynamic_partitions(partitions.USERS, list(request.partition_keys))
    assert not tick(demo, sensors.new_users).dynamic_partitions_requests


def test_a_new_user_is_filled_for_today_and_the_30_days_before(product: Product) -> None:
    product.connect("Pine Realty")
    requests = tick(product, sensors.new_users).run_requests or ()
    (fill,) = [r for r in requests if r.job_name == "resync_failed_users"]
    first, last = product.today - timedelta(days=30), product.today
    assert fill.tags["dagster/asset_partition_range_start"] == str(first)
    assert fill.tags["dagster/asset_partition_range_end"] == str(last)


def test_the_missed_days_of_a_reconnected_user_are_filled_automatically(demo: Product) -> None:
    demo.sandbox.world.heal(str(DEMO[COPPER].location_id))
    demo.sync(demo.week)
    larch = demo.connect("Larch Auto Care")
    assert larch.state is ConnectionState.CONNECTED
    requests = tick(demo, sensors.new_users).run_requests or ()
    (fill,) = [r for r in requests if r.job_name == "resync_failed_users"]
    with demo.requests() as asked:
        assert demo.run("resync_failed_users", run_config=fill.run_config, tags=fill.tags).success
    assert {location_id for _, location_id in asked} == {larch.location_id}
    again = tick(demo, sensors.new_users).run_requests or ()
    assert not [r for r in again if r.job_name == "resync_failed_users"]


def test_no_day_is_filled_while_a_sync_is_under_way(product: Product) -> None:
    product.connect("Pine Realty")
    run = product.instance.create_run_for_job(
        defs.resolve_job_def("sync_calls"), status=dg.DagsterRunStatus.STARTED
    )
    result = tick(product, sensors.new_users)
    assert not [r for r in result.run_requests or () if r.job_name == "resync_failed_users"]
    product.instance.delete_run(run.run_id)
    assert [
        r
        for r in tick(product, sensors.new_users).run_requests or ()
        if r.job_name == "resync_failed_users"
    ]


def test_more_users_than_a_run_request_should_name_are_left_to_the_run_to_find(
    product: Product,
) -> None:
    _many_users(product, run_requests.BATCH)
    (request,) = tick(product, sensors.expiring_tokens).run_requests or ()
    named = request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"]
    assert len(named) == run_requests.BATCH
    product.connect("Pine Realty")
    execute(product, EXPIRE)
    (request,) = tick(product, sensors.expiring_tokens).run_requests or ()
    assert request.run_config["ops"]["refresh_due_tokens"]["config"]["user_ids"] == []


def test_failed_days_of_more_users_than_a_run_should_name_are_asked_for_once(
    product: Product,
) -> None:
    _many_users(product, run_requests.BATCH + 1)
    execute(
        product,
        "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, attempt, "
        "finished_at) SELECT user_id, location_id, current_date - n, 'failed', 'unreachable', 1, "
        "now() - interval '16 minutes' FROM api_keys, generate_series(1, 2) AS n",
    )
    (request,) = tick(product, sensors.failed_user_syncs).run_requests or ()
    assert request.run_config["ops"]["call_logs"]["config"] == {"user_ids": [], "only_failed": True}
    asked = product.instance.create_run_for_job(
        defs.resolve_job_def("resync_failed_users"), status=dg.DagsterRunStatus.STARTED
    )
    result = tick(product, sensors.failed_user_syncs)
    assert not result.run_requests
    assert "being re-synced" in str(result.skip_reason)
    product.instance.delete_run(asked.run_id)
    (again,) = tick(product, sensors.failed_user_syncs).run_requests or ()
    assert again.run_key == request.run_key  # a tick that was killed asks for nothing twice


def test_a_slow_database_ends_a_tick_with_a_sentence_before_dagster_kills_it(
    engine: sa.Engine,
) -> None:
    assert timedelta(seconds=50) > 4 * sensors.PATIENCE
    with (
        pytest.raises(dg.Failure, match="The next tick looks again"),
        sensors._reading(engine, timedelta(milliseconds=50)) as db,
    ):
        db.execute(sa.text("SELECT pg_sleep(10)"))
    with sensors._reading(engine) as db:
        assert db.execute(sa.text("SHOW statement_timeout")).scalar_one() == "12s"
    with engine.begin() as db:  # no other session inherits it
        assert db.execute(sa.text("SHOW statement_timeout")).scalar_one() == "0"


@pytest.mark.parametrize(
    "sensor",
    [
        sensors.expiring_tokens,
        sensors.connection_alerts,
        sensors.failed_user_syncs,
        sensors.new_users,
        sensors.stale_marts,
    ],
    ids=lambda sensor: sensor.name,
)
def test_a_database_that_cannot_be_reached_ends_any_tick_with_a_sentence(
    sensor: dg.SensorDefinition,
) -> None:
    nowhere = open_engine(Secret(f"postgresql+psycopg://127.0.0.1:{free_port()}/voiceai"))
    parts = {"database": nowhere, "settings": Settings.load({})}
    with (
        dg.build_sensor_context(resources=parts) as context,
        pytest.raises(dg.Failure, match=r"The database refused .* The next tick looks again\."),
    ):
        sensor(context)


def _many_users(product: Product, number: int) -> None:
    """That many connected users whose tokens have expired."""
    statements = (
        "INSERT INTO users (id, business_name) "
        "SELECT gen_random_uuid(), 'Shop ' || n FROM generate_series(1, :number) AS n",
        "INSERT INTO api_keys (id, user_id, name, service, is_active, access_token, refresh_token, "
        "location_id, token_expires_at) SELECT gen_random_uuid(), id, 'HighLevel', 'highlevel', "
        "true, repeat('a', 900), repeat('r', 900), 'Loc' || business_name, "
        "now() - interval '1 day' FROM users WHERE business_name LIKE 'Shop %'",
    )
    with product.pipeline.engine.begin() as db:
        for statement in statements:
            db.execute(sa.text(statement), {"number": number})

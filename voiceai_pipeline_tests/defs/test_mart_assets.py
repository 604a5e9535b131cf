"""The marts on a real Dagster instance: built automatically, and corrected automatically."""

import json
import re
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._serdes import serialize_value

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import mart_assets, partitions, sensors
from voiceai_pipeline.defs.charts import LIMIT
from voiceai_pipeline.marts import metrics
from voiceai_pipeline_tests.support.product import Product


def tick(product: Product, cursor: str | None = None) -> Any:
    """What the sensor says now, and the cursor it leaves."""
    context = dg.build_sensor_context(
        instance=product.instance,
        cursor=cursor,
        resources={"database": product.pipeline.engine, "settings": Settings.load({})},
        definitions=defs,
    )
    return sensors.stale_marts.evaluate_tick(context)


def settle(product: Product) -> list[dg.ExecuteInProcessResult]:
    """Do what the sensor asks for, until it asks for nothing more."""
    done: list[dg.ExecuteInProcessResult] = []
    while requests := tick(product).run_requests:
        for request in requests:
            config = {"tags": request.tags, "run_config": request.run_config}
            done.append(product.run("build_marts", **config))
            assert done[-1].success
        assert len(done) < 20
    return done


def published(product: Product, query: str) -> Any:
    with product.pipeline.engine.begin() as db:
        return db.execute(sa.text(query)).scalar_one()


@pytest.fixture
def two(product: Product) -> Product:
    """Two businesses in two zones, a week synced, the names of one location known."""
    product.connect("Harbor Dental")
    assert product.run("update_directory").success
    product.connect("Maple Plumbing")
    assert product.sync(product.week).success
    return product


def test_after_a_sync_the_marts_are_built_automatically_and_a_late_edit_reaches_them(
    two: Product,
) -> None:
    settle(two)
    for mart in mart_assets.NAMES:
        assert set(two.week) <= two.days(mart), mart
    done = tick(two)
    assert "newest calls" in done.skip_message
    assert not tick(two, done.cursor).run_requests
    counted = "SELECT sum(calls) FROM daily_call_metrics WHERE day = current_date - 1"
    before = published(two, counted)
    with two.pipeline.engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE call_logs SET content_hash = '', fingerprint = NULL, is_trial = true "
                "WHERE call_id = (SELECT call_id FROM call_logs "
                "WHERE NOT is_trial AND missing_since IS NULL AND "
                "(started_at AT TIME ZONE 'America/Chicago')::date = current_date - 1 AND "
                "(started_at AT TIME ZONE 'America/New_York')::date = current_date - 1 LIMIT 1)"
            )
        )
    assert two.run("build_marts", partition_key=str(two.yesterday)).success
    assert published(two, counted) == before - 1
    assert two.sync([two.yesterday], reread=True).success  # HighLevel's own version comes back
    requests = tick(two, done.cursor).run_requests
    assert {r.tags["dagster/asset_partition_range_end"] for r in requests} == {str(two.yesterday)}
    settle(two)
    assert published(two, counted) == before
    locations = {row["location_id"] for row in _rows(two, "SELECT location_id FROM call_logs")}
    assert set(requests[0].run_config["ops"]["marts"]["config"]["location_ids"]) == locations


def _rows(product: Product, query: str) -> list[dict[str, Any]]:
    with product.pipeline.engine.begin() as db:
        return [dict(row) for row in db.execute(sa.text(query)).mappings()]


def test_the_ui_shows_numbers_and_pictures_of_the_marts_and_nothing_of_a_caller(
    two: Product,
) -> None:
    settle(two)
    texts = []
    for mart in mart_assets.NAMES:
        wanted = dg.AssetRecordsFilter(dg.AssetKey(mart), asset_partitions=[str(two.yesterday)])
        (record,) = two.instance.fetch_materializations(wanted, limit=1).records
        event = record.asset_materialization
        assert event is not None
        texts += [serialize_value(event), json.dumps(_rows(two, f"TABLE {mart}"), default=str)]
        shown = [v for v in event.metadata.values() if isinstance(v, dg.MarkdownMetadataValue)]
        assert shown or mart.startswith(("language", "period", "agent_period")), mart
        assert all(len(str(markdown.md_str)) < LIMIT for markdown in shown)
        if mart == "daily_call_metrics":
            facts = event.metadata
            total = "SELECT sum(calls) FROM daily_call_metrics WHERE day = current_date - 1"
            assert facts["calls"].value == published(two, total)
            table = str(facts["locations_of_the_day"].value)
            assert "Harbor Dental" in table
            assert "Maple Plumbing" in table  # its connection knows the name
            assert "svg" in str(facts["last_28_days"].value)
    personal = _rows(two, "SELECT from_number, contact_id, call_id FROM call_logs")
    secrets = {value for row in personal for value in row.values() if value}
    everything = "\n".join(texts)
    assert not [secret for secret in secrets if secret in everything]
    assert not re.search(r"\+1555|@|human:|bot:", everything)


def test_marts_that_do_not_add_up_turn_the_check_and_the_day_red(
    two: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = metrics._hours
    monkeypatch.setattr(metrics, "_hours", lambda table: whole(table.iloc[:0]))
    done = two.run("build_marts", partition_key=str(two.yesterday))
    assert not done.success
    (check,) = done.get_asset_check_evaluations()
    assert not check.passed
    assert check.blocking
    assert "hourly_activity" in str(check.description)
    assert two.days("daily_call_metrics") == set()
    # A location without calls on that day adds up all the same.
    assert published(two, "SELECT count(*) FROM daily_call_metrics WHERE calls > 0") == 0


def test_every_column_says_in_plain_words_what_it_is_and_where_it_comes_from() -> None:
    calls = {"call_logs", "agents", "locations", "sync_status"}
    for table in ALL_MARTS:
        assert table.comment
        assert all(column.comment for column in table.columns)
        (spec,) = (s for s in defs.resolve_all_asset_specs() if s.key.path == [table.name])
        shown = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
        assert list(shown) == [column.name for column in table.columns]
        first = shown["day" if "day" in shown else "first_day"]
        assert "From `call_logs." in str(first.description)
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        origins = {dep.asset_key.to_user_string() for deps in lineage.values() for dep in deps}
        assert origins <= calls
        for name in (column.name for column in table.columns if column.name.endswith("_rate")):
            assert lineage[name], name


def test_a_marts_day_counts_on_the_days_around_it_even_where_they_are_not_there_yet() -> None:
    (spec,) = (s for s in defs.resolve_all_asset_specs() if s.key.path == ["daily_call_metrics"])
    (dep,) = spec.deps
    mapping = dep.partition_mapping
    assert mapping is not None
    keys = partitions.days.get_partition_keys()
    upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(
        partitions.days.subset_with_partition_keys([keys[-1]]), partitions.days, partitions.days
    )
    assert set(upstream.partitions_subset.get_partition_keys()) == set(keys[-15:])
    assert list(upstream.required_but_nonexistent_partition_keys) == []

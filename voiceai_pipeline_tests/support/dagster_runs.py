"""What tests do with Dagster runs and ticks of the product, and what they read from them."""

import os
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.definitions import defs
from voiceai_pipeline_tests.support.product import Product

COPPER = "Copper Kettle Catering"
"""The demo's user whose sync fails on ``Product.bad_day``."""

WAITING = {"Juniper Fitness", "Larch Auto Care", "Willow Spa", "Cedar Vets"}
"""The demo's users that need action before they can be synced."""

EXPIRE = (
    "UPDATE api_keys SET token_expires_at = now() - interval '1 day', refresh_at = now(), "
    "location_token_expires_at = now() - interval '1 day'"
)
"""Let every access token be expired. When it was granted stays: an earlier grant than that of the
pair on disk would mean that the database was restored from a backup."""


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks that a run evaluated, by name."""
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Why the run's step failed, as the UI shows it."""
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.error_display_string)


def facts_of(check: dg.AssetCheckEvaluation) -> Mapping[str, Any]:
    return {name: value.value for name, value in check.metadata.items()}


def cell(product: Product, asset: str, partition: object) -> dict[str, Any]:
    """The metadata of the newest materialization of a partition."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[str(partition)])
    (record,) = product.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def tick(product: Product, sensor: dg.SensorDefinition) -> dg.SensorResult:
    """Evaluate a sensor as the daemon does, with its real database."""
    context = dg.build_sensor_context(
        instance=product.instance,
        resources={
            "database": product.pipeline.engine,
            "settings": Settings.load(os.environ),
        },
        definitions=defs,
        sensor_name=sensor.name,
    )
    found = sensor(context)
    match found:
        case dg.SensorResult():
            return found
        case dg.RunRequest():
            return dg.SensorResult(run_requests=[found])
        case dg.SkipReason():
            return dg.SensorResult(skip_reason=found)
        case list():
            return dg.SensorResult(run_requests=found)
    raise AssertionError(found)


def execute(product: Product, statement: str) -> None:
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text(statement))


def refresh_of(*user_ids: UUID | str) -> dict[str, Any]:
    """Run config of ``refresh_tokens`` for these users."""
    ids = [str(user_id) for user_id in user_ids]
    return {"ops": {"refresh_due_tokens": {"config": {"user_ids": ids}}}}

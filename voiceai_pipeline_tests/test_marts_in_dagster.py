"""The marts on a real Dagster instance: filled by themselves, and right again by themselves."""

from typing import Any

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import marts, sensors
from voiceai_pipeline.settings import Settings
from voiceai_pipeline_tests.product import DAYS, Product


def tick(product: Product, cursor: str | None = None) -> Any:
    """What the sensor says now, and the cursor it leaves."""
    context = dg.build_sensor_context(
        instance=product.instance,
        cursor=cursor,
        resources={
            "database": product.pipeline.engine,
            "settings": Settings.load({}),
        },
        definitions=defs,
    )
    return sensors.stale_marts.evaluate_tick(context)


def settle(product: Product) -> int:
    """Do what the sensor asks for until it asks for nothing more; how many runs that was."""
    runs = 0
    while requests := tick(product).run_requests:
        for request in requests:
            done = product.run("build_marts", tags=request.tags, run_config=request.run_config)
            assert done.success
            runs += 1
        assert runs < 20
    return runs


def test_after_a_sync_the_marts_are_filled_without_anybody_asking(product: Product) -> None:
    product.connect("Harbor Dental")
    product.connect("Maple Plumbing")
    assert product.sync(DAYS).success
    assert settle(product) > 0
    for mart in marts.NAMES:
        assert set(DAYS) <= product.days(mart), mart
    with product.pipeline.engine.begin() as db:
        counted = db.execute(
            sa.text("SELECT count(*) FROM call_logs WHERE NOT is_trial AND missing_since IS NULL")
        ).scalar_one()
        published = db.execute(sa.text("SELECT sum(calls) FROM daily_call_metrics")).scalar_one()
    assert 0 < published <= counted

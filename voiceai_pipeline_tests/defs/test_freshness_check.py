"""The freshness check: neither an old backfill nor a quiet pipeline hides a stale user."""

import re
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.defs import freshness_check
from voiceai_pipeline_tests.support.product import Product


@dataclass
class Daemon:
    """Ticks the sensor and records what it says, as Dagster's daemon does."""

    product: Product
    cursor: str | None = None

    def tick(self) -> dg.AssetCheckEvaluation | None:
        """What the tick records; None if there is nothing new."""
        context = dg.build_sensor_context(
            instance=self.product.instance,
            cursor=self.cursor,
            resources={"database": self.product.pipeline.engine},
        )
        found = freshness_check.stale_users(context)
        if isinstance(found, dg.SkipReason):
            return None
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        (event,) = found.asset_events
        assert isinstance(event, dg.AssetCheckEvaluation)
        self.product.instance.report_runless_asset_event(event)
        return event


def recorded(product: Product) -> list[bool]:
    """What the check said, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey("sync_status"), freshness_check.NAME)
    history = product.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    said = []
    for one in history:
        assert one.event is not None
        assert one.event.dagster_event is not None
        said.append(one.event.dagster_event.asset_check_evaluation_data.passed)
    return said


def test_a_stale_user_turns_the_check_red_and_only_their_newest_day_turns_it_green_again(
    product: Product,
) -> None:
    daemon = Daemon(product)
    pine = product.connect("Pine Realty")
    product.connect("Harbor Dental")
    yesterday = product.yesterday
    assert product.sync([yesterday - timedelta(days=1), yesterday]).success
    fresh = daemon.tick()
    assert fresh is not None
    assert fresh.passed
    assert daemon.tick() is None

    # Pine's last days were never synced: no run fails, no day turns red.
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET connection_since = now() - interval '90 days'"))
        db.execute(sa.text("DELETE FROM sync_ledger WHERE user_id = :id"), {"id": pine.user.id})
    red = daemon.tick()
    assert red is not None
    assert not red.passed
    assert red.severity is dg.AssetCheckSeverity.ERROR
    text = str(red.description)
    assert text.startswith("1 of 2 connected users are not complete up to")
    assert re.search(r"- Pine Realty, never complete: \d{4}-\d\d-\d\d was never synced. Fix:", text)
    assert "Harbor" not in text

    # A day a month ago is filled in: the newest event of the asset, and no reason to be green.
    month_ago = product.today - timedelta(days=30)
    assert product.sync([month_ago]).success
    old = daemon.tick()
    assert old is not None
    assert not old.passed
    assert re.search(
        rf"- Pine Realty, complete up to {month_ago}: \S+ was never synced", str(old.description)
    )

    # What was tried and failed says why.
    with product.pipeline.engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, message)"
                " SELECT :id, :location, day, 'failed', 'provider_error', 'It was down. Fix: Wait' "
                "FROM unnest(CAST(:days AS date[])) AS day"
            ),
            {
                "id": pine.user.id,
                "location": pine.location_id,
                "days": [yesterday, yesterday - timedelta(days=1)],
            },
        )
    by_hand = freshness_check.every_connected_user_is_up_to_date(product.pipeline.engine)
    assert isinstance(by_hand, dg.AssetCheckResult)
    assert f"complete up to {month_ago}: It was down. Fix: Wait." in str(by_hand.description)

    assert product.sync([yesterday]).success
    green = daemon.tick()
    assert green is not None
    assert green.passed
    # By the sensor, and at the end of each sync, so that no later event of the asset hides it.
    assert recorded(product) == [True, True, False, False, False, True, True]

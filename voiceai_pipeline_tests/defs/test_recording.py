"""What a partition shows of its user or day, on a real instance."""

from typing import Any

import dagster as dg

from voiceai_pipeline_tests.support.alert_receivers import Receivers
from voiceai_pipeline_tests.support.dagster_runs import (
    EXPIRE,
    cell,
    execute,
)
from voiceai_pipeline_tests.support.product import Product


def test_a_users_cell_says_what_happened_when_by_whom_and_what_to_do(
    product: Product, receivers: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    execute(product, EXPIRE)
    run = product.run("refresh_tokens")
    facts = cell(product, "user_tokens", larch.user.id)
    assert facts["state"] == "needs reconnection: revoked"
    assert str(facts["cause"]).startswith("Failed to refresh token (the app was removed")
    assert f"voiceai-pipeline connect {larch.user.id}" in facts["what_to_do"]
    assert facts["connection_page"] == f"https://voice.test/users/{larch.user.id}"
    newest, oldest = facts["history"].splitlines()[2:]
    assert "Token refresh failed: Failed to refresh token" in newest
    assert f"[{run.run_id[:8]}](https://voice.test/dagster/runs/{run.run_id})" in newest
    assert "|dagster|" in newest
    assert "Connected by consent in the browser" in oldest


def test_a_day_keeps_the_hour_at_which_it_became_complete_until_it_is_incomplete_again(
    product: Product,
) -> None:
    product.connect("Pine Realty")
    day = product.week[-2]

    def hours() -> Any:
        return cell(product, "sync_status", day).get("hours_until_complete")

    assert product.sync([day]).success
    late = hours()
    assert 24 <= late <= 49
    known = dg.AssetMaterialization(
        "sync_status", partition=str(day), metadata={"hours_until_complete": 1.5}
    )
    product.instance.report_runless_asset_event(known)
    assert product.sync([day], reread=True).success
    assert hours() == 1.5

    execute(product, "UPDATE sync_ledger SET state = 'failed', failure_class = 'incomplete'")
    assert product.run("update_sync_status", partition_key=str(day)).success
    assert hours() is None
    assert product.sync([day]).success
    assert late <= hours() <= late + 1

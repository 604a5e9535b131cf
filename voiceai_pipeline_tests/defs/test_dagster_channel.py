"""Alerts as a run delivers them: in Dagster's UI and on the other channels."""

from uuid import UUID

import dagster as dg
import pytest

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import sensors
from voiceai_pipeline_tests.support.alert_receivers import Receivers
from voiceai_pipeline_tests.support.dagster_runs import (
    EXPIRE,
    cell,
    checks_of,
    execute,
    failure_of,
    refresh_of,
    tick,
)
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.receivers import MAIL_PASSWORD


def _tell(product: Product) -> dg.ExecuteInProcessResult | None:
    """Evaluate the sensor and do what it asks for; None if no alert is pending."""
    requests = tick(product, sensors.connection_alerts).run_requests or ()
    return product.run("send_alerts") if requests else None


def _shown(product: Product, asset: str, user_id: UUID | None) -> dg.AssetObservation:
    """What Dagster's UI shows, in a user's cell or for all users."""
    cells = [str(user_id)] if user_id else None
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=cells)
    (record,) = product.instance.fetch_observations(wanted, limit=1).records
    assert record.asset_observation is not None
    return record.asset_observation


def test_failing_refreshes_alert_once_and_a_reconnection_once_again(
    product: Product, receivers: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    execute(product, EXPIRE)
    deliveries = []
    for _ in range(3):
        product.run("refresh_tokens", run_config=refresh_of(larch.user.id))
        deliveries.append(_tell(product))
    assert [done is not None for done in deliveries] == [True, False, False]
    began = "Larch Auto Care needs action: Failed to refresh token"
    assert receivers.headlines == [began]
    assert receivers.subjects == [f"[voiceai_pipeline] {began}"]
    assert receivers.mailbox.logins == [("robot", MAIL_PASSWORD, False)]
    seen = _shown(product, "user_tokens", larch.user.id)
    assert seen.description == began
    assert seen.metadata["connection_page"].value == f"https://voice.test/users/{larch.user.id}"

    assert cell(product, "user_tokens", larch.user.id)["state"] == "needs reconnection: revoked"
    product.connect("Larch Auto Care")
    recovery = _tell(product)
    assert recovery is not None
    assert checks_of(recovery)["no_connection_needs_a_person"].passed
    assert cell(product, "user_tokens", larch.user.id)["state"] == "connected"
    assert _tell(product) is None
    assert receivers.headlines[1:] == ["Larch Auto Care works again"]
    assert receivers.subjects[1:] == ["[voiceai_pipeline] Larch Auto Care works again"]


def test_a_paused_location_asks_for_no_delivery(product: Product, receivers: Receivers) -> None:
    willow = product.connect("Willow Spa")
    product.sandbox.world.pause(str(willow.location_id))
    execute(product, EXPIRE)
    assert product.run("refresh_tokens").success
    result = tick(product, sensors.connection_alerts)
    assert not result.run_requests
    assert "No undelivered alerts" in str(result.skip_reason)


def test_a_failing_channel_turns_the_run_red_after_the_others_were_notified_and_is_retried(
    product: Product, receivers: Receivers
) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    execute(product, EXPIRE)
    product.run("refresh_tokens")
    receivers.hook.answers = [500]
    (first,) = tick(product, sensors.connection_alerts).run_requests or ()
    text = failure_of(product.run("send_alerts"))
    assert "- webhook, 1 kept: The webhook answered 500. Fix: none needed" in text
    assert "email" not in text.partition("Stack Trace")[0]
    assert len(receivers.subjects) == 1
    assert _shown(product, "user_tokens", larch.user.id)

    (again,) = tick(product, sensors.connection_alerts).run_requests or ()
    # The same notices in the same ten minutes are not asked for twice.
    assert str(again.run_key).rsplit(" ", 1)[0] == str(first.run_key).rsplit(" ", 1)[0]
    assert product.run("send_alerts").success
    assert _tell(product) is None
    assert (len(receivers.headlines), len(receivers.subjects)) == (1, 1)


def test_a_wrong_client_secret_raises_one_alert_for_all_users(
    receivers: Receivers, demo: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(demo, EXPIRE)
    monkeypatch.setenv("HIGHLEVEL_CLIENT_SECRET", "wrong")
    for _ in range(2):
        demo.run("refresh_tokens")
        _tell(demo)
    (headline,) = receivers.headlines
    assert headline.startswith(
        "Token refresh is suspended for all users: HighLevel refused this app's"
    )
    assert _shown(demo, "refreshed_credentials", None).description == headline


def test_alerts_are_delivered_by_one_run_at_a_time(product: Product) -> None:
    larch = product.connect("Larch Auto Care")
    product.sandbox.world.revoke(str(larch.location_id))
    execute(product, EXPIRE)
    product.run("refresh_tokens")
    run = product.instance.create_run_for_job(
        defs.resolve_job_def("send_alerts"), status=dg.DagsterRunStatus.STARTED
    )
    result = tick(product, sensors.connection_alerts)
    assert "being delivered" in str(result.skip_reason)
    product.instance.delete_run(run.run_id)
    assert tick(product, sensors.connection_alerts).run_requests

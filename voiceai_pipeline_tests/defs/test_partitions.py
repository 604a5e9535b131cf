"""What becomes of a user's partition: it is kept whatever happens to the user, and only ids are
partitions (REQUIREMENTS D9, D12)."""

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.definitions import defs
from voiceai_pipeline.defs import partitions
from voiceai_pipeline_tests.support.dagster_runs import cell
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import Product

NO_IDS = ["x'; DROP TABLE users;--", "a|b", "a...b", "Ключ 🔑", "x" * 600, " "]


def test_a_user_keeps_the_partition_through_disconnect_rename_and_reconnect(
    product: Product,
) -> None:
    pine, harbor = product.connect("Pine Realty"), product.connect("Harbor Dental")
    key, day = str(pine.user.id), str(product.yesterday)
    ids = [str(harbor.user.id), key]
    product.instance.add_dynamic_partitions(partitions.USERS, ids)
    assert product.run("inspect_connections").success
    assert cell(product, "user_tokens", key)["state"] == "connected"

    product.pipeline.consent.disconnect(pine.user.id)
    with product.pipeline.engine.begin() as db:
        db.execute(
            sa.text("UPDATE users SET business_name = 'Pine & Sons' WHERE id = :id"),
            {"id": pine.user.id},
        )
    assert product.run("inspect_connections").success
    shown = cell(product, "user_tokens", key)
    assert (shown["user"], shown["state"]) == ("Pine & Sons", "disconnected")
    # Left out, not failed: the day is green for all other users.
    assert product.sync([product.yesterday]).success
    status = cell(product, "sync_status", day)
    assert (status["users_failed"], status["complete_percent"]) == (0, 100.0)
    assert r"Pine \& Sons" in status["all_users"]

    code = product.connect.code(DEMO["Pine Realty"])
    product.pipeline.consent.connect(pine.user.id, code)
    assert product.run("inspect_connections").success
    assert cell(product, "user_tokens", key)["state"] == "connected"
    # The green of the day was not theirs.
    assert product.run("update_sync_status", partition_key=day).success
    status = cell(product, "sync_status", day)
    assert status["is_this_day_complete"].startswith("**No, 50.0 % of the 2 who can be synced")
    assert r"Missing: Pine \& Sons." in status["is_this_day_complete"]
    assert set(product.instance.get_dynamic_partitions(partitions.USERS)) == set(ids)


def test_what_is_no_id_is_refused_before_the_database_is_asked(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.instance.add_dynamic_partitions(partitions.USERS, NO_IDS)
    monkeypatch.setenv("VOICEAI_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    assets = [defs.get_assets_def("user_tokens"), defs.get_assets_def("refreshed_credentials")]
    resources = defs.get_repository_def().get_top_level_resources()
    with product.requests() as asked:
        for asset in assets:
            for key in NO_IDS:
                result = dg.materialize(
                    assets,
                    selection=[asset],
                    partition_key=key,
                    instance=product.instance,
                    resources={name: resources[name] for name in ("pipeline", "settings")},
                    raise_on_error=False,
                )
                (event,) = [e for e in result.all_events if e.is_step_failure]
                text = str(event.step_failure_data.error_display_string)
                assert "A user is named by id" in text, (asset.key, key)
    assert not asked

"""Syncs that the page launches as Dagster runs. Those of ``/functions/v1`` are in ``test_api``."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from voiceai_pipeline_tests.support.installation import HARBOR, Installation


def test_sync_now_launches_a_run_for_today_and_the_three_days_before(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})

    (launched,) = installation.dagster.launched
    today = datetime.now(installation.pipeline.zone).date()
    assert launched["selector"]["jobName"] == "sync_users"
    config = launched["runConfigData"]["ops"]["read_user_days"]["config"]
    assert config == {
        "user_ids": [str(HARBOR)],
        "first": str(today - timedelta(days=3)),
        "last": str(today),
    }
    tags = {tag["key"]: tag["value"] for tag in launched["executionMetadata"]["tags"]}
    assert tags == {"voiceai/launched_by": "connections page"}
    assert "Harbor Dental: sync started" in pressed.text
    assert f"{installation.dagster.url}/runs/{installation.dagster.run_ids[0]}" in pressed.text


def test_sync_now_starts_no_earlier_than_the_first_partition(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    today = datetime.now(installation.pipeline.zone).date()
    installation.dagster.first_day = str(today - timedelta(days=1))
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync")

    ops = installation.dagster.launched[0]["runConfigData"]["ops"]
    assert ops["read_user_days"]["config"]["first"] == installation.dagster.first_day


def test_sync_now_of_a_paused_user_is_launched_to_find_out_whether_the_pause_is_over(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET connection_state = 'paused'"))
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
    assert "Harbor Dental: sync started" in pressed.text


def test_a_month_of_one_user_is_re_synced_from_the_users_page(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    today = datetime.now(installation.pipeline.zone).date()
    month_ago = today - timedelta(days=30)
    with installation.visitor() as visitor:
        shown = visitor.get(f"/users/{HARBOR}").text
        assert f'name="first" value="{month_ago}"' in shown
        assert f'name="last" value="{today}"' in shown
        days = {"first": str(month_ago), "last": str(today), "back": f"/users/{HARBOR}"}
        pressed = visitor.post(f"/users/{HARBOR}/sync", days)
        assert f"Dagster is syncing {month_ago} to {today}." in pressed.text
        installation.end_runs()
        # The suggested month may start before the first partition.
        installation.dagster.first_day = str(today - timedelta(days=5))
        assert f"Dagster is syncing {today - timedelta(days=5)} to" in visitor.post(
            f"/users/{HARBOR}/sync", days
        ).text  # fmt: skip

        for wrong, sentence in (
            ({"first": "yesterday"}, "Enter each day as YYYY-MM-DD"),
            ({"first": str(today), "last": str(month_ago)}, f"{month_ago} is before {today}."),
            ({"last": str(today + timedelta(days=1))}, "is in the future; today is"),
            ({"first": "", "last": "0001-01-01"}, "0001-01-01 is before"),
        ):
            refused = visitor.post(f"/users/{HARBOR}/sync", days | wrong)
            assert "Harbor Dental: sync not started" in refused.text
            assert sentence in refused.text

    asked = [
        launch["runConfigData"]["ops"]["read_user_days"]["config"]
        for launch in installation.dagster.launched
    ]
    assert [(one["user_ids"], one["first"]) for one in asked] == [
        ([str(HARBOR)], str(month_ago)),
        ([str(HARBOR)], str(today - timedelta(days=5))),
    ]


def test_a_user_without_connection_is_not_synced_and_the_page_says_why(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync")

    assert installation.dagster.launched == []
    assert "No valid OAuth connection found. Reconnect the user with the button" in pressed.text


def test_an_unavailable_dagster_is_a_message(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    installation.dagster.is_down = True
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync")

    assert pressed.status_code == 200
    assert f"Dagster does not respond at {installation.dagster.url}" in pressed.text
    assert "Start it with make up" in pressed.text
